"""groupwise: reinforcement learning of language models with verifiable rewards.

A Sampler turns prompts into Groups of graded Rollouts. A Method gives every rollout its credit and every token its
weight. A Learner takes gradient steps on the resulting Batch, and the Engine gets the new weights.
"""

__version__ = "0.1.0"
