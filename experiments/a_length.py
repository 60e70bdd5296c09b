"""Does GRPO lengthen wrong answers and Dr. GRPO not, at equal reward?"""  # noqa: D400

import sys

from experiments.common import FOUR, MAKE_REASONS, REASONS, SMALL, Experiment, Setting, Test, less
from experiments.measures import ACCURACY, CUT, ENTROPY, REWARD, RIGHT, STEPS_TOKENS, WRONG, wrong_at_equal_reward
from experiments.reporting import main

MEAN, CONSTANT = "mean per answer", "constant"
TWO = {MEAN: "experiments/methods.py:length_mean", CONSTANT: "dr_grpo"}
SHOWS = (WRONG, RIGHT, CUT, REWARD, ACCURACY, ENTROPY, STEPS_TOKENS)
EQUAL = "tokens of wrong answers per 100 steps at equal accuracy, mean per answer less constant"
LATE = "tokens of wrong answers at the end, mean per answer less constant"
MIXED, ALWAYS, ONCE = "base that also answers at once", "base that always reasons", "one update a batch"

EXPERIMENT = Experiment(
    name="a_length",
    title="(a) Length of wrong answers under GRPO's mean per answer",
    question="Only the length normalisation differs: each answer's tokens are averaged (1/|o|, GRPO) or divided by a constant "
             "(Dr. GRPO). Neither divides by a standard deviation, neither has a KL. Do wrong answers grow more under the "
             "mean, at equal reward?",
    claim="yes: a long wrong answer is penalised less for each token than a short one, so they grow (Liu et al. 2025, arXiv "
          "2503.20783, section 3.1), and Dr. GRPO keeps the length of incorrect answers down at like reward (section 3.2, "
          "figure 5).",
    settings=(
        Setting(MIXED, TWO | {"mean per answer, std": "grpo:kl=0", "constant, std": "experiments/methods.py:constant_std"}, FOUR,
                SHOWS),
        Setting(ALWAYS, TWO, (*FOUR, *REASONS), SHOWS),
        Setting(ONCE, TWO, SMALL, SHOWS),
    ),
    tests=(*(test for setting in (MIXED, ALWAYS, ONCE) for test in (
        Test(EQUAL, setting, wrong_at_equal_reward(MEAN, CONSTANT), +1, 5.0),
        Test(LATE, setting, less(WRONG, MEAN, CONSTANT), +1, 3.0))),
        Test("the same with a std in both, per 100 steps at equal accuracy", MIXED,
             wrong_at_equal_reward("mean per answer, std", "constant, std"), +1, 5.0),),
    spread="differences in the length of wrong answers between runs of `grpo` and `dr_grpo` as shipped had a standard "
           "deviation of 2 to 3 tokens (bench/results/compare-grpo-dr_grpo.json); the slope is a guess.",
    bases=MAKE_REASONS,
    extra="The embedded policy answers 40 % of problems at once, in two or three tokens, most of them wrongly; the other base "
          "policy is made from it with demonstrations that never do (experiments/traces.py). No answer that the demonstrations "
          "hold has more than 63 tokens, and 96 are allowed.",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
