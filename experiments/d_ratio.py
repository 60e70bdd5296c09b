"""GSPO against GRPO, the unit of the ratio alone changed: clips, collapses, mixtures of experts, engine log-probs as the base."""

import sys

from experiments.common import CHANGED, FOUR, MAKE_REASONS, SHORTER, Experiment, Setting, Test, less
from experiments.measures import ACCURACY, AVERAGE, CLIPPED, COLLAPSE, ENTROPY, RIGHT, ROUGH, WRONG, average, end
from experiments.reporting import main

ESS = end("ess", "effective sample size of the ratios, mean over the steps")
REROUTED = average("routing_changed", "share of the routers' choices that replay changed")
GAP = average("mismatch_mean", "nats between the learner's and the engine's log-prob of a token, mean")
SHOWS = (AVERAGE, ACCURACY, COLLAPSE, CLIPPED, ESS, ROUGH, ENTROPY, WRONG, RIGHT)
DENSE, MIXTURE, ENGINE = "dense", "mixture of experts", "engine log-probs as the base"

EXPERIMENT = Experiment(
    name="d_ratio",
    title="(d) The unit of the ratio: GSPO and GRPO",
    question="Token ratios (GRPO without KL) against sequence ratios (GSPO), four updates a batch, all else equal; with GSPO's "
             "own narrow clips and with GRPO's wide ones, where nothing but the unit of the ratio differs. How often do runs "
             "collapse, how much is clipped, and do log-probs of the engine serve as the base of the ratio as well as the "
             "learner's?",
    claim="GSPO clips two orders of magnitude more and learns better (Zheng et al. 2025, arXiv 2507.18071, sections 5.1 and "
          "5.2, figures 1 and 2); GRPO does not converge on a mixture of experts without replaying routes, GSPO needs none "
          "(section 5.3, figure 3); likelihoods of the inference engine can be used directly (section 5.4).",
    settings=(
        Setting(DENSE, {"token": "grpo:kl=0", "sequence": "gspo", "sequence, wide clip": "gspo:clip_low=0.2,clip_high=0.2",
                        "token, 5 lr": "grpo:kl=0,lr=3e-4", "sequence, 5 lr": "gspo:lr=3e-4"}, SHORTER, SHOWS),
        Setting(MIXTURE, {"token": "grpo:kl=0", "token, replay": "grpo:kl=0,routing=old", "sequence": "gspo"},
                (*FOUR, "--model", "runs/bases/moe", "--lr", "1e-4", "--steps", "30"), (*SHOWS, REROUTED)),
        Setting(ENGINE, {"sequence, learner": "gspo", "sequence, engine": "experiments/methods.py:gspo_recorded"},
                (*SHORTER, "--compute", "modules", "--dtype", "bfloat16", "--steps", "20"), (*SHOWS, GAP)),
    ),
    tests=(
        Test("share clipped, sequence less token", DENSE, less(CLIPPED, "sequence", "token"), +1, 0.03),
        Test("drawn accuracy, sequence less token", DENSE, less(AVERAGE, "sequence", "token"), +1, 0.03),
        Test("accuracy, unit alone: sequence with the wide clip less token", DENSE,
             less(ACCURACY, "sequence, wide clip", "token"), +1, 0.08),
        Test("collapses at 5 times the learning rate, sequence less token", DENSE,
             less(COLLAPSE, "sequence, 5 lr", "token, 5 lr"), -1, 0.4),
        Test("collapses, sequence less token", MIXTURE, less(COLLAPSE, "sequence", "token"), -1, 0.4),
        Test("drawn accuracy, sequence less token", MIXTURE, less(AVERAGE, "sequence", "token"), +1, 0.04),
        Test("drawn accuracy, token with replay less without", MIXTURE, less(AVERAGE, "token, replay", "token"), +1, 0.04),
        Test("share clipped, engine less learner", ENGINE, less(CLIPPED, "sequence, engine", "sequence, learner"), 0, 0.05),
        Test("drawn accuracy, engine less learner", ENGINE, less(AVERAGE, "sequence, engine", "sequence, learner"), 0, 0.03),
    ),
    spread="accuracy as in the others; clips and collapses are guesses (0.4: one run in five collapses in one arm and none in "
           "the other).",
    bases={**MAKE_REASONS, "moe": ("--family", "qwen3_moe", "--hidden", "128", "--layers", "3", "--mlp", "128",
                                   "--micro-tokens", "3072")},
    extra="A run has collapsed if its last held-out accuracy is below half of its best. The base of the mixture is that of the "
          "recipe small-gspo. In the last setting the learner's products are in bfloat16 and the engine's in float32, so that "
          f"their log-probs of one and the same token differ. First and last setting: {CHANGED}",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
