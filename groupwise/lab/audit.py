"""`groupwise audit`: what a method's gradient is in the mean, next to the policy gradient of the expected reward.

With g the true gradient, E the method's expected one and s the scalar for which s g is nearest to E, a row says

    bias       relative |E - s g| / |s g|, cosine of E and g, scale s
    variance   trace of the covariance / |s g|^2, of one optimiser step
    mse        relative^2 + variance: the mean of |gradient / s - g|^2 / |g|^2
    prompts    weight: how much of s g_p the part of prompt p has, along g_p, so 1 is as much as the truth has
    length     tokens that wrong, and right, answers grow per unit of expected reward that a step along E gains
    dropped    the share of tokens with an advantage, in right and in wrong answers, whose gradient the trust rule stopped
    error      the standard error of E / |s g| where steps were drawn; 0 is exact
"""

import itertools
import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from groupwise.errors import ConfigError, nearest
from groupwise.lab.enumerated import Table, policy
from groupwise.lab.expectation import Limits, Moments, moments
from groupwise.lab.rehearsal import Rehearsal, Stage
from groupwise.lab.subjects import subject_of
from groupwise.lab.trials import Subject
from groupwise.lab.worlds import World, of_function, toy, with_successes
from groupwise.methods import METHODS
from groupwise.run.toml import parse_words

SWEPT = {"group-size": int, "prompts-per-step": int, "success": float, "off-policy": float}
"""Settings that a sweep may vary, and what their values are."""


@dataclass(frozen=True)
class Settings:
    """Where methods are audited. `success` sets the prompts' success rates, `off_policy` how far the trained policy is from the
    one that sampled (`Table.moved`); `task`, `alphabet`, `tokens` and `prompts` are those of `worlds.of_function`.
    """

    group_size: int = 4
    prompts_per_step: int = 2
    success: tuple[float, ...] = ()
    off_policy: float = 0.0
    policy: str = "tabular"
    task: str = ""
    alphabet: str = "01"
    tokens: int = 2
    prompts: int = 3
    listed: int = 4000
    drawn: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("group_size", 1), ("prompts_per_step", 1), ("prompts", 1), ("listed", 0), ("drawn", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name.replace('_', '-')} is at least {least}; got {getattr(self, name)}")
        if not 0 <= self.off_policy < math.inf:
            raise ConfigError(f"off-policy is a number of nats, at least 0; got {self.off_policy}")


@cache
def _base(task: str, alphabet: str, tokens: int, prompts: int, seed: int) -> World:
    return of_function(task, alphabet=alphabet, tokens=tokens, prompts=prompts, seed=seed) if task else toy()


def world_of(settings: Settings) -> World:
    """The prompts and their answers."""
    s = settings
    return with_successes(_base(s.task, s.alphabet, s.tokens, s.prompts, s.seed), s.success)


def named(words: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Methods with their arguments: "grpo", or "grpo,kl=0,clip_high=0.28". No words: every shipped method."""
    return [(word.split(",")[0], parse_words(word.split(",")[1:])) for word in words or METHODS]


def sweeps(words: Sequence[str]) -> list[dict[str, int | float]]:
    """The points of "group-size=2,4,8" (several: every combination). No words: one point, where nothing is varied."""
    axes = []
    for word in words:
        name, _, values = word.partition("=")
        if name not in SWEPT:
            raise ConfigError(f"a sweep is written as group-size=2,4,8; nothing is called {name!r}: {nearest(name, SWEPT)}")
        try:
            axes.append([(name, SWEPT[name](value)) for value in values.split(",")])
        except ValueError:
            raise ConfigError(f"sweep {word!r}: give numbers with commas, such as {name}=1,2") from None
    return [dict(point) for point in itertools.product(*axes)]


def at(settings: Settings, point: Mapping[str, int | float]) -> Settings:
    """The settings of a point of a sweep."""
    changed: dict[str, Any] = {name.replace("-", "_"): (value,) if name == "success" else value for name, value in point.items()}
    return replace(settings, **changed)


def audit(words: Sequence[str], settings: Settings, points: Sequence[Mapping[str, int | float]] = ({},),
          workers: int = 1) -> Iterator[dict[str, Any]]:
    """One row for every method at every point, in this order, as JSON values. Raises ConfigError before any work."""
    places = [at(settings, point) for point in points]
    worlds = [world_of(place) for place in places]
    wanted = named(words)
    for name, arguments in wanted:
        subject_of(name, arguments)
    for place, world in zip(places, worlds, strict=True):
        tables(place, world)
    jobs = [(name, arguments, place, dict(point), world) for name, arguments in wanted
            for point, place, world in zip(points, places, worlds, strict=True)]
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        yield from itertools.starmap(_row, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for made in [pool.submit(_apart, *job) for job in jobs]:
            yield made.result()


def _apart(*job: Any) -> dict[str, Any]:
    """A row in a process of its own."""
    torch.set_num_threads(1)
    return _row(*job)


def _row(name: str, arguments: dict[str, Any], settings: Settings, point: dict[str, int | float], world: World) -> dict[str, Any]:
    pair = tables(settings, world)
    subject = subject_of(name, arguments, max_tokens=int(pair[0].space.length.max()))
    return {"method": name, "arguments": arguments, "at": point} | measured(subject, settings, *pair)


def tables(settings: Settings, world: World) -> tuple[Table, Table]:
    """The policy that samples, and the one that is trained."""
    own = policy(world, settings.policy, settings.seed)
    old = own.at(own.parameters)
    if float(old.gradient.norm()) < 1e-12:
        raise ConfigError("the expected reward has no gradient here: some prompt needs answers of different rewards")
    return old, old.moved(settings.off_policy, settings.seed)


def measured(subject: Subject, settings: Settings, old: Table, now: Table) -> dict[str, Any]:
    """What an audit says of a method, where `old` samples and `now` is trained."""
    stage = Stage(subject, old, prompts_per_step=settings.prompts_per_step, group_size=settings.group_size, seed=settings.seed)
    found = moments(stage, Rehearsal(subject, old, now, settings.seed), Limits(settings.listed, settings.drawn))
    true, mean = now.gradient, found.mean
    scale = float(mean @ true / (true @ true))
    size = abs(scale) * float(true.norm())
    relative = _share(float((mean - scale * true).norm()), size)
    variance = _share(found.spread, size**2)
    note = f"drawn, for {found.why}" if found.why else ""
    return {
        "bias": {"relative": relative, "cosine": _share(float(mean @ true), float(mean.norm() * true.norm())), "scale": scale},
        "variance": variance, "mse": None if relative is None or variance is None else relative**2 + variance,
        "exact": not found.why, "error": _share(found.error, size), "steps": found.steps, "note": note,
        "prompts": _prompts(found, old, now, scale), "length": _lengths(mean, now), "dropped": _dropped(found, old)}


def _share(a: float, b: float) -> float | None:
    """A / b; None where b is nothing."""
    return a / b if b > 1e-12 else None


def _prompts(found: Moments, old: Table, now: Table, scale: float) -> list[dict[str, Any]]:
    """How much of the true gradient of each prompt the method has."""
    of_row, out = now.space.problem[now.space.answer], []
    for p, own in enumerate(now.space.world):
        true = now.gradients[p] / len(now.space.world)
        part = torch.where((of_row == p)[:, None], found.slopes, 0.0).flatten() @ now.jacobian
        weight = _share(float(part @ true), scale * float(true @ true)) if scale > 0 else None
        out.append({"prompt": own.name, "success": float(old.success[p]), "weight": weight,
                    "cosine": _share(float(part @ true), float(part.norm() * true.norm()))})
    return out


def _lengths(mean: Tensor, now: Table) -> dict[str, float | None]:
    """Tokens per unit of expected reward, along the method's gradient and along the true one."""
    out: dict[str, float | None] = {}
    for name, correct in (("wrong", False), ("right", True)):
        slope = now.length_slope(correct)
        for which, way in ((name, mean), (f"{name}_true", now.gradient)):
            out[which] = None if slope is None else _share(float(slope @ way), float(now.gradient @ way))
    return out


def _dropped(found: Moments, old: Table) -> dict[str, float | None]:
    """The share of tokens with an advantage that the trust rule stopped."""
    right = old.space.column("correct").bool()[old.space.answer]
    return {name: _share(float(found.stopped[of].sum()), float(found.seen[of].sum()))
            for name, of in (("right", right), ("wrong", ~right))}


def as_json(settings: Settings, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report as JSON values; `methods` has a row for each method (at each point of a sweep)."""
    old, _ = tables(replace(settings, off_policy=0.0), world_of(settings))
    prompts = [{"prompt": own.name, "success": float(old.success[p]),
                "answers": [asdict(a) for a in own.answers]} for p, own in enumerate(old.space.world)]
    return {"settings": asdict(settings), "prompts": prompts, "parameters": len(old.parameters), "methods": list(rows)}


def header(rows: Sequence[Mapping[str, Any]]) -> str:
    """The heads of the lines that `line` gives."""
    prompts = " ".join(f"{p['prompt'][:7]:>7}" for p in rows[0]["prompts"])
    return (f"{'method':<30} {'bias':>8} {'cosine':>7} {'variance':>8} {'mse':>8}  {prompts}  {'wrong':>7} {'right':>7}  "
            f"{'dropped':>11}  how")


def line(row: Mapping[str, Any]) -> str:
    """A row as one line of text."""
    what = ",".join([row["method"], *(f"{k}={v}" for k, v in row["arguments"].items())])
    where = " ".join(f"{k}={v:g}" for k, v in row["at"].items())
    prompts = " ".join(_cell(p["weight"], 7) for p in row["prompts"])
    cells = " ".join(_cell(row[name], 8) for name in ("variance", "mse"))
    dropped = "/".join(_cell(row["dropped"][name], 0) for name in ("right", "wrong"))
    how = f"{row['steps']} steps" if row["exact"] else f"+-{_cell(row['error'], 0)}, {row['note']}"
    return (f"{f'{what} {where}'.strip():<30} {_cell(row['bias']['relative'], 8)} {_cell(row['bias']['cosine'], 7)} {cells}  "
            f"{prompts}  {_cell(row['length']['wrong'], 7)} {_cell(row['length']['right'], 7)}  {dropped:>11}  {how}")


def _cell(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{round(value, 3) + 0.0:.3f}':>{width}}"
