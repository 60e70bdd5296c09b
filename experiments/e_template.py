"""A template that does not fit the base policy, crossed with the set of problems and with what the base policy has seen."""

import sys

from experiments.common import CHANGED, FOUR, MAKE_REASONS, SHORTER, Experiment, Setting, Test, contrast, less
from experiments.measures import ACCURACY, AVERAGE, REWARD, RIGHT, START, WRONG
from experiments.reporting import main

SHOWS = (START, ACCURACY, AVERAGE, REWARD, WRONG, RIGHT)
FITS, NOT, FEW = "fits", "does not", ", few problems"
FORM, TASK, BASE = "template=experiments/mismatched.txt", "task=experiments/tasks.py:few", "runs/bases/narrow"
FOURFOLD = {FITS: "dr_grpo", FITS + FEW: f"dr_grpo:{TASK}", NOT: f"dr_grpo:{FORM}", NOT + FEW: f"dr_grpo:{FORM},{TASK}"}
SAW, DID_NOT = "base that saw the domain", "base that did not"
CROSSED = contrast(AVERAGE, {NOT: 1.0, NOT + FEW: -1.0, FITS: -1.0, FITS + FEW: 1.0})

EXPERIMENT = Experiment(
    name="e_template",
    title="(e) Template, question set, and what the base policy has seen",
    question="The problem is put as in the warm start, or behind three characters that the policy has never seen there; "
             "training has 8,192 problems of 4 to 8 terms or 256 of 4 terms; the base policy's warm start had sums of 2 to 8 "
             "terms, or of 2 to 4 alone. What does each cost before training, and what is left of it after?",
    claim="a template that does not fit destroys abilities which training then rebuilds; with it a broad set of questions is "
          "needed, while with a fitting one a small easy set is enough (Liu et al. 2025, arXiv 2503.20783, section 3.3, figure "
          "6); base policies without domain knowledge reach less by the same training (section 3.4, figure 7).",
    settings=(Setting(SAW, FOURFOLD, SHORTER, SHOWS),
              Setting(DID_NOT, {label: FOURFOLD[label] for label in (FITS, NOT)}, (*FOUR, "--model", BASE, "--steps", "40"),
                      SHOWS)),
    tests=(
        *(Test("drawn accuracy, a template that does not fit less one that does, all problems", setting,
               less(AVERAGE, NOT, FITS), -1, 0.04) for setting in (SAW, DID_NOT)),
        Test("drawn accuracy, all problems less few, template that does not fit", SAW, less(AVERAGE, NOT, NOT + FEW), +1, 0.04),
        Test("drawn accuracy, all problems less few, template that fits", SAW, less(AVERAGE, FITS, FITS + FEW), 0, 0.04),
        Test("drawn accuracy, what problems are worth, template that does not fit less one that does", SAW, CROSSED, +1, 0.06)),
    spread="drawn accuracy: runs of (a) from the base that always reasons differed by 0.02 to 0.03, other bases are guessed to "
           "be somewhat worse; the last statistic has four runs in it.",
    bases={**MAKE_REASONS, "narrow": ("--task-args", "kmin=2", "kmax=4", "--steps", "300", "--threads", "1")},
    extra="Accuracy before training is that of one base policy, so it has no seeds: it is described with the arms. The "
          "base that saw the domain is (a)'s that always reasons. "
          f"{CHANGED}",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
