"""What a run will take, said before it starts: memory by component, tokens, seconds, and whether it fits here.

Parameters, gradients, moments and caches are counted by the bytes that they hold; what passes need besides is measured (`probe`).
The length of completions is not known beforehand: figures are given for the mean length that the probe saw and for `max_tokens`.
`bench/plan_error.py` compares plans with the runs themselves.
"""

import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from groupwise.engines.draw import AT_A_TIME
from groupwise.lab import probe
from groupwise.lab.probe import Generated, Trained
from groupwise.models.memory import release, used
from groupwise.run.assemble import Job, assemble
from groupwise.run.link import alone
from groupwise.run.settings import Run
from groupwise.run.track import duration

MIB = 2**20
MARGIN = 4 / 3
"""Real over predicted peak in the worst case measured: oneDNN keeps a program for every shape that it meets (docs/models.md)."""
TRANSIENT = ("training", "generation")


@dataclass(frozen=True)
class Times:
    """At one length of completions: tokens sampled in a step; seconds of a step by phase; of an evaluation; of the whole run."""

    length: float
    tokens: float
    generate: float
    verify: float
    train: float
    evaluate: float
    run: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.generate + self.verify + self.train


@dataclass(frozen=True)
class Outlook:
    """A plan. `memory`: bytes by component, of which training and generation take turns; `peak` of this process or GPU; `room`
    is what it can have (0: not known), `others` what further processes take.
    """

    settings: dict[str, Any]
    memory: dict[str, int]
    parts: dict[str, dict[str, int]]
    others: dict[str, int]
    peak: int
    room: int
    at_mean: Times
    at_most: Times
    cut: float
    steps: int
    lowered: dict[str, float]

    @property
    def fits(self) -> bool:
        """Whether there is room for it, as far as that is known."""
        return not self.room or self.peak + sum(self.others.values()) <= self.room


def plan(run: Run) -> Outlook:
    """Measure what a run needs; nothing is written. Errors are those of starting it."""
    with tempfile.TemporaryDirectory() as folder:
        job = assemble(alone(run), Path(folder))
        with job.workers, job.grader:
            return measured(job)


def measured(job: Job, **known: Any) -> Outlook:
    """The plan of a job, whose weights are not the policy's any more afterwards. `known` are fields of `Generated` (length, cut,
    informative, seconds_to_grade) that whole answers gave better than the few tokens of the probe; with the last of them nothing
    is graded here.
    """
    device = str(job.learner.device)
    release()
    start = used(device)
    made = replace(probe.generated(job, "seconds_to_grade" not in known), **known)
    prompt, most = max(1, round(made.prompt)), job.sampling.max_tokens
    long = probe.trained(job, prompt, most)
    mean = probe.trained(job, prompt, max(1, round(made.length)))
    weights = probe.storage_bytes([*job.policy.model.parameters(), *job.policy.model.buffers()])
    memory = {"weights": weights}
    frozen = [x for p in job.learner.models.frozen.values() for x in (*p.model.parameters(), *p.model.buffers())]
    memory["reference"] = probe.storage_bytes(frozen)
    memory["value head"] = probe.storage_bytes([p for n, p in job.learner.parameters.items() if n.startswith("value_head.")])
    memory["programs, libraries, packed copies"] = max(0, start - sum(memory.values()))
    memory["optimiser moments"] = long.moments
    rows = job.engine.at_a_time(made.rows)
    more = made.bytes_per_position * max(0.0, rows * most - made.positions)
    memory["training"] = max(0, max(long.highest, mean.highest) - start - long.moments)
    memory["generation"] = max(0, made.highest - start) + round(more)
    vocabulary = int(job.policy.model.config.get_text_config().vocab_size)
    logits = 8 * min(job.learner.budget.logit_chunk, long.sequences * most * vocabulary)
    parts = {"training": {"gradients": long.gradients, "activations of a micro-batch": memory["training"] - long.gradients,
                          "in them logits and their gradient": logits},
             "generation": {"KV cache, at most": round(made.bytes_per_position * rows * (prompt + most)),
                            "logits of a wave": 4 * rows * vocabulary + 24 * min(AT_A_TIME, rows * vocabulary)}}
    helping, grading = probe.others(job)
    fixed = sum(size for name, size in memory.items() if name not in TRANSIENT)
    return Outlook({"micro_tokens": job.learner.budget.micro_tokens, "logit_chunk": job.learner.budget.logit_chunk,
                    "max_rows": job.engine.max_rows, "device": device, "compute": job.run.learner.compute},
                   memory, parts, {"worker processes": helping, "graders": grading},
                   fixed + max(memory[name] for name in TRANSIENT), probe.room(job), _times(job, made, mean, long, made.length),
                   _times(job, made, mean, long, float(most)), made.cut, job.run.steps, job.lowered())


def _times(job: Job, made: Generated, mean: Trained, long: Trained, length: float) -> Times:
    """Seconds at a length of completions. At the mean length only groups whose rewards differed in the probe have a gradient."""
    run, whole = job.run, length >= job.sampling.max_tokens
    rollouts = run.prompts_per_step * run.group_size
    share = 1.0 if whole or made.cut > 0.5 else made.informative
    rounds = 1.0
    if job.method.refill:
        rounds, share = min(float(job.method.refill.rounds), 1.0 / max(share, 1e-3)), 1.0

    def sampled(answers: float) -> float:
        waves = math.ceil(answers / max(1, made.rows))
        token = made.seconds_per_token + made.seconds_per_position * length / 2
        return waves * made.seconds_of_prompts + answers * length * token

    at = long if whole else mean
    generate, verify = rounds * sampled(rollouts), rounds * rollouts * made.seconds_to_grade
    train = rollouts * (at.scoring + share * at.passes * at.gradient) + job.method.update.steps * at.apply
    count = 1 + math.ceil(run.steps / run.eval_every) if run.eval_every else 0
    evaluate = sampled(len(job.heldout)) + len(job.heldout) * made.seconds_to_grade
    return Times(length, rounds * rollouts * length, generate, verify, train, evaluate,
                 run.steps * (generate + verify + train) + count * evaluate)


def as_json(found: Outlook) -> dict[str, Any]:
    """The plan as JSON values, bytes and seconds."""
    return asdict(found) | {"fits": found.fits, "advice": advice(found)}


def lines(found: Outlook) -> list[str]:
    """The plan in words."""
    where = "GPU" if found.settings["device"].startswith("cuda") else "this process"
    out = [f"memory of {where}, MiB"]
    out += [f"  {name:<40}{size / MIB:>10,.0f}" for name, size in found.memory.items() if size and name not in TRANSIENT]
    out.append(f"  {'and by turns:':<40}")
    for turn in TRANSIENT:
        out.append(f"    {turn:<38}{found.memory[turn] / MIB:>10,.0f}")
        out += [f"      {name:<36}{size / MIB:>10,.0f}" for name, size in found.parts[turn].items()]
    out.append(f"  {'at its highest':<40}{found.peak / MIB:>10,.0f}")
    out += [f"  besides: {name:<31}{size / MIB:>10,.0f}" for name, size in found.others.items() if size]
    out += ["", f"{'completions of':<32}{'tokens a step':>14}{'generate':>11}{'verify':>9}{'train':>9}{'step':>9}{'all':>9}"]
    for name, at in (("the probe's mean", found.at_mean), ("at most", found.at_most)):
        seconds = "".join(f"{x:>{width},.2f}s" for x, width in ((at.generate, 10), (at.verify, 8), (at.train, 8), (at.step, 8)))
        out.append(f"{f'{at.length:,.0f} tokens ({name})':<32}{at.tokens:>14,.0f}{seconds}{duration(at.run):>9}")
    out.append(f"{found.at_mean.tokens * found.steps:,.0f} to {found.at_most.tokens * found.steps:,.0f} tokens in all")
    if found.cut > 0.5:
        out.append(f"{found.cut:.0%} of the probe's completions were cut at {probe.LONG} tokens: their mean is not known yet")
    return [*out, "", advice(found)]


def advice(found: Outlook) -> str:
    """The verdict in one line, with the settings to change if it does not fit."""
    need, room = found.peak + sum(found.others.values()), found.room
    if found.lowered:
        words = " ".join(f"--{name.replace('_', '-')} {value:.0f}" for name, value in found.lowered.items())
        return f"does not fit as set: memory ran out in the probe, which went on with {words}"
    if not room:
        return f"needs {need / MIB:,.0f} MiB; how much is free is not known on this system"
    if found.fits:
        close = ", which is close: plans have been a quarter too low" if MARGIN * need > room else ""
        return f"fits: needs {need / MIB:,.0f} of {room / MIB:,.0f} MiB{close}"
    own = found.settings
    ways = {"training": f"--micro-tokens {own['micro_tokens'] // 2} or --logit-chunk {own['logit_chunk'] // 2}",
            "generation": f"--max-rows {max(1, own['max_rows'] // 2)} or a lower --max-tokens"}
    most = max(found.memory, key=lambda name: found.memory[name])
    return (f"does not fit: needs {need / MIB:,.0f} of {room / MIB:,.0f} MiB, most of it for {most}; take "
            f"{ways.get(most, 'a smaller model, or train fewer parameters (LoRA)')}")
