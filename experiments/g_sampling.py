"""Does dynamic sampling help other policy gradients, and does swapping the data move more than swapping the method?"""  # noqa: D400

import sys

from experiments.common import EMBEDDED, FOUR, SMALL, Experiment, Setting, Test, less
from experiments.measures import ACCURACY, AT_TOKENS, INFORMATIVE, ROUGH, STEPS_TOKENS, WRONG, spread
from experiments.reporting import main

SHOWS = (AT_TOKENS, ACCURACY, INFORMATIVE, ROUGH, WRONG, STEPS_TOKENS)
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
                         "reinforce, dynamic": f"{DYNAMIC}:reinforce_dynamic"}, SMALL, SHOWS),
        Setting(RATIOS, {"gspo": "gspo", "gspo, dynamic": f"{DYNAMIC}:gspo_dynamic"}, FOUR, SHOWS),
        Setting(SWAPPED, CELLS, (*FOUR, *EMBEDDED), SHOWS),
    ),
    tests=(
        Test("accuracy at equal tokens, RLOO with less without", OTHERS, less(AT_TOKENS, "rloo, dynamic", "rloo"), +1, 0.06),
        Test("accuracy at equal steps, RLOO with less without", OTHERS, less(ACCURACY, "rloo, dynamic", "rloo"), +1, 0.06),
        Test("accuracy at equal tokens, REINFORCE with less without", OTHERS,
             less(AT_TOKENS, "reinforce, dynamic", "reinforce"), +1, 0.06),
        Test("accuracy at equal steps, REINFORCE with less without", OTHERS,
             less(ACCURACY, "reinforce, dynamic", "reinforce"), +1, 0.06),
        Test("accuracy at equal tokens, GSPO with less without", RATIOS, less(AT_TOKENS, "gspo, dynamic", "gspo"), +1, 0.08),
        Test("accuracy at equal steps, GSPO with less without", RATIOS, less(ACCURACY, "gspo, dynamic", "gspo"), +1, 0.08),
        Test("spread of accuracy over data sets less over methods", SWAPPED,
             lambda runs: spread(ACCURACY, BY_DATA)(runs) - spread(ACCURACY, BY_METHOD)(runs), 0, 0.06),
    ),
    spread="accuracy as in the others; the difference of spreads is a guess.",
    bases={},
    extra="RLOO and REINFORCE have no ratio, so they take one update a batch. A REINFORCE baseline is the mean of its batch: a "
          "group without a contrast has a gradient there, which dynamic sampling takes away. The spread over methods is the "
          "mean absolute difference between two methods on the same data, that over data the one between two sets under the "
          "same method.",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
