"""Is it the same training on vLLM, on two ranks, and on both?"""  # noqa: D400

import sys

from experiments.common import MAKE_REASONS, SHORTER, Experiment, Setting, Test, less
from experiments.measures import ACCURACY, AT_TOKENS, AVERAGE, ENTROPY, RIGHT, STEPS_TOKENS, WRONG, average
from experiments.reporting import main

GAP = average("mismatch_mean", "how far the log-probs of engine and learner are apart, mean over sampled tokens, nats")
SHOWS = (ACCURACY, AT_TOKENS, AVERAGE, GAP, ENTROPY, WRONG, RIGHT, STEPS_TOKENS)
WHERE = "where it runs"
NATIVE, VLLM, RANKS, BOTH = "native", "vLLM", "two ranks", "vLLM and two ranks"

EXPERIMENT = Experiment(
    name="i_engines",
    title="(i) vLLM and FSDP2",
    question="One recipe in one process, sampled by vLLM, learnt by two ranks of FSDP2, and with both, all else equal: is the "
             "accuracy the same?",
    claim="none of a paper: what runs where must not change what is learnt. The margin of 5 points is ours.",
    settings=(
        Setting(WHERE, {NATIVE: "dr_grpo", VLLM: "dr_grpo:engine=vllm", RANKS: "dr_grpo:parallel=fsdp2,ranks=2",
                        BOTH: "dr_grpo:engine=vllm,parallel=fsdp2,ranks=2"}, (*SHORTER, "--compute", "modules"), SHOWS),
    ),
    tests=tuple(Test(f"{what}, {arm} less native", WHERE, less(measure, arm, NATIVE), 0, 0.03, 0.05)
                for arm in (VLLM, RANKS, BOTH)
                for what, measure in (("accuracy at equal tokens", AT_TOKENS), ("accuracy of drawn answers", AVERAGE))),
    spread="the runs of (a) that begin with the same policy ended at 0.85 to 0.91.",
    bases=MAKE_REASONS,
    extra="The model's own modules in float32 in every arm, vLLM in float32 too. Samples of a seed are the same draws of the "
          "same problems natively and on two ranks, until rounding parts them; vLLM draws its own. vLLM's Python is that of "
          "`make setup-vllm`; run with `--jobs 1`, since vLLM and two ranks take all cores.",
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
