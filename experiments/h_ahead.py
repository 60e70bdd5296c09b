"""Does it learn the same when the next batch is sampled while this one is learnt from?"""  # noqa: D400

import sys

from experiments.a_length import EXPERIMENT as LENGTH
from experiments.common import FOUR, SMALL, Experiment, Setting, Test, less
from experiments.measures import ACCURACY, AT_TOKENS, AVERAGE, CLIPPED, ENTROPY, STEPS_TOKENS, average, end
from experiments.reporting import main

STALE = average("stale", "share of trained tokens that older weights sampled")
ESS = end("ess", "effective sample size of the ratios, mean over the steps")
SHOWS = (ACCURACY, AT_TOKENS, AVERAGE, STALE, ESS, CLIPPED, ENTROPY, STEPS_TOKENS)
BASE = ("--model", "runs/bases/reasons")
ONE, SEVERAL, UNIT = "one update a batch", "four updates a batch", "sequence ratios, four updates a batch"
TURNS, AHEAD = "in turns", "ahead"

EXPERIMENT = Experiment(
    name="h_ahead",
    title="(h) Sampling a batch ahead",
    question="The batch of step s sampled by the weights of step s (in turns) or of step s - 1 (`--max-staleness 1`), all else "
             "equal. Is the accuracy the same, at equal tokens?",
    claim="the accuracy of a run in turns is matched (Noukhovitch et al. 2024, arXiv 2410.18252, of GSM8K with a 1B model, and "
          "that methods differ in how much delay they bear). The margin of 5 points is ours.",
    settings=(
        Setting(ONE, {TURNS: "dr_grpo", AHEAD: "dr_grpo:max_staleness=1"}, (*SMALL, *BASE), SHOWS),
        Setting(SEVERAL, {TURNS: "dr_grpo", AHEAD: "dr_grpo:max_staleness=1"}, (*FOUR, *BASE), SHOWS),
        Setting(UNIT, {TURNS: "gspo", AHEAD: "gspo:max_staleness=1"}, (*FOUR, *BASE), SHOWS),
    ),
    tests=tuple(Test(f"{what}, ahead less in turns", setting, less(measure, AHEAD, TURNS), 0, 0.03, 0.05)
                for setting in (ONE, SEVERAL, UNIT)
                for what, measure in (("accuracy at equal tokens", AT_TOKENS), ("accuracy of drawn answers", AVERAGE))),
    spread="the runs of (a) that begin with the same policy ended at 0.85 to 0.91.",
    bases={"reasons": LENGTH.bases["reasons"]},
    extra="Six seeds with a standard deviation of 3 points give an interval of 3 points to either side: a difference of less "
          "than 2 points would be called equal.",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
