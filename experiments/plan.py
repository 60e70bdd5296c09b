"""Everything that was declared: `python -m experiments.plan` writes experiments/PLAN.md."""

import importlib
import sys

from experiments.common import HERE, RULE, STOP, Experiment, check
from experiments.reporting import plan

NAMES = ("a_length", "b_difficulty", "c_dapo", "d_ratio", "e_template", "f_groups", "g_sampling", "h_ahead",
         "i_engines")


def experiments() -> list[Experiment]:
    """All of them, checked."""
    found = [importlib.import_module(f"experiments.{name}").EXPERIMENT for name in NAMES]
    for one in found:
        check(one)
    return found


def document() -> str:
    """The page."""
    head = ["# What is declared before it is run", "", "Written by `python -m experiments.plan` from the scripts. A smallest "
                                                       "detectable effect is what a paired t-test of so many seeds finds in 80 "
                                                       "% of cases at 5 %, if seeds differ as expected.", "", RULE, "",
            STOP, ""]
    return "\n".join(head) + "\n" + "\n".join(plan(one) for one in experiments())


if __name__ == "__main__":
    (HERE / "PLAN.md").write_text(document(), encoding="utf-8")
    sys.exit(0)
