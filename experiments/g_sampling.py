"""Does dynamic sampling help other policy gradients, and does swapping the data move more than swapping the method?"""  # noqa: D400

import sys

from experiments.common import CHANGED, MAKE_REASONS, REASONS, SHORTER, SMALL, Experiment, Setting, Test, less
from experiments.measures import ACCURACY, AVERAGE, INFORMATIVE, REWARD, ROUGH, STEPS_TOKENS, WRONG, right_at_equal_tokens, spread
from experiments.reporting import main

SHOWS = (AVERAGE, ACCURACY, REWARD, INFORMATIVE, ROUGH, WRONG, STEPS_TOKENS)
OTHERS, RATIOS, SWAPPED = "RLOO and REINFORCE", "GSPO", "data and method"
DYNAMIC = "experiments/methods.py"
METHODS = {"dr_grpo": "dr_grpo", "grpo": "grpo:kl=0", "gspo": "gspo"}
DATA = {"4 to 8": "", "4 and 5": "task=experiments/tasks.py:short"}


def _cell(method: str, data: str) -> str:
    word = METHODS[method]
    return f"{word}{(',' if ':' in word else ':') if DATA[data] else ''}{DATA[data]}"


CELLS = {f"{method}, {data}": _cell(method, data) for data in DATA for method in METHODS}
BY_METHOD = [[f"{method}, {data}" for method in METHODS] for data in DATA]
BY_DATA = [[f"{method}, {data}" for data in DATA] for method in METHODS]

EXPERIMENT = Experiment(
    name="g_sampling",
    title="(g) Dynamic sampling elsewhere, and data against method",
    question="Do RLOO, REINFORCE and GSPO learn more from as many tokens if groups without a contrast are drawn anew? And with "
             "three methods crossed with two sets of training problems, evaluated on the same held-out ones: which moves "
             "accuracy more?",
    claim="dynamic sampling improves DAPO and costs no time (Yu et al. 2025, arXiv 2503.14476, section 3.2, figure 6, table "
          "1); reviewers of the paper ask whether it helps other methods, and whether data or method makes the difference. No "
          "claim about the second.",
    settings=(
        Setting(OTHERS, {"rloo": "rloo", "rloo, dynamic": f"{DYNAMIC}:rloo_dynamic", "reinforce": "reinforce",
                         "reinforce, dynamic": f"{DYNAMIC}:reinforce_dynamic"}, (*SMALL, *REASONS, "--steps", "40"), SHOWS),
        Setting(RATIOS, {"gspo": "gspo", "gspo, dynamic": f"{DYNAMIC}:gspo_dynamic"}, SHORTER, SHOWS),
        Setting(SWAPPED, CELLS, SHORTER, SHOWS),
    ),
    tests=(
        *(test for setting, name in ((OTHERS, "rloo"), (OTHERS, "reinforce"), (RATIOS, "gspo")) for test in (
            Test(f"sampled answers right at equal tokens, {name} with less without", setting,
                 right_at_equal_tokens(f"{name}, dynamic", name), +1, 0.03),
            Test(f"drawn accuracy at equal steps, {name} with less without", setting,
                 less(AVERAGE, f"{name}, dynamic", name), +1, 0.03))),
        Test("drawn accuracy, spread over data less spread over methods", SWAPPED,
             lambda runs: spread(AVERAGE, BY_DATA)(runs) - spread(AVERAGE, BY_METHOD)(runs), 0, 0.03),
    ),
    spread="drawn accuracy: runs of (a) from the base that always reasons differed by 0.02 to 0.03; the difference of spreads "
           "is a guess.",
    bases=MAKE_REASONS,
    extra="RLOO and REINFORCE have no ratio, so they take one update a batch. A REINFORCE baseline is the mean of its batch: a "
          "group without a contrast has a gradient there, which dynamic sampling takes away. The spread over methods is the "
          "mean absolute difference between two methods on the same data, that over data the one between two sets under the "
          f"same method. {CHANGED}",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
