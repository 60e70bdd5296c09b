"""What the tests of mixtures of experts share: small random ones of several families, and rollouts of them."""

from dataclasses import replace

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from groupwise.core.keyed import fold
from groupwise.core.rollout import Context, Episode, Group, Prompt, Rollout, Turn
from groupwise.core.services import Request, Sampling
from groupwise.core.verdict import Component, Verdict
from groupwise.engines.native import Native
from groupwise.models import routing
from groupwise.models.build import character_tokenizer
from groupwise.models.load import policy_of

TOKENIZER = character_tokenizer()
CONTEXTS = [(5, 9, 14, 7), (11,), (6, 6, 20, 21, 8, 13, 4)]
SHAPE = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "eos_token_id": 2, "bos_token_id": 1,
         "pad_token_id": 0}
FAMILIES = {
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True},
    "qwen2_moe": {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
}


def moe(family="qwen3_moe", source="live", seed=0, **changes):
    """A random policy with its routing; wide router weights, so that choices differ."""
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.15, generator=draw)
    policy = policy_of(model, TOKENIZER)
    policy.eos_ids = (2, 9, 13)
    policy.routing = routing.find(model, source)
    return policy


def requests(n=3, max_tokens=12, contexts=CONTEXTS):
    return [Request(Context(c), tuple(fold(7, i, j) for j in range(n)), Sampling(max_tokens)) for i, c in enumerate(contexts)]


def groups_of(policy, n=3, engine=Native):
    """Groups that the policy sampled, with random rewards."""
    random, out = np.random.default_rng(0), []
    for i, (context, done) in enumerate(zip(CONTEXTS, engine(policy).generate(requests(n)), strict=True)):
        prompt = Prompt(f"p{i}", "", 1, tokens=context)
        rollouts = tuple(Rollout(Episode(prompt, (Turn(Context(context), one),)), Verdict(True),
                                 (Component("r", float(random.random())),)) for one in done)
        out.append(Group(f"g{i}", prompt, rollouts))
    return out


def plain(groups):
    """The same without what was recorded."""
    def bare(rollout):
        turns = tuple(replace(t, completion=replace(t.completion, extras={}, context_extras={})) for t in rollout.episode.turns)
        return replace(rollout, episode=replace(rollout.episode, turns=turns))
    return [replace(g, rollouts=tuple(bare(r) for r in g.rollouts)) for g in groups]


@torch.no_grad()
def shake(policy, size=0.05, seed=1):
    """Move the weights, as an update does."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=draw))
