"""`groupwise replay`: one set of rollouts through many objectives, on the way that training takes: admission, shaping, credit,
weights, and the learner's own gradient. Nothing is updated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.episode import sequences
from groupwise.core.rollout import Completion, Context, Episode, Group, Prompt, Rollout, Span, Turn
from groupwise.core.verdict import Component, Verdict, weight_of
from groupwise.errors import ConfigError, GroupwiseError
from groupwise.lab.arms import split
from groupwise.learner.learner import Learner
from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.models.template import fill, pieces
from groupwise.objective.batch import Batch, pack
from groupwise.objective.terms import Live
from groupwise.run.assemble import Job, assemble, base_of, by_modules, compiler, form_of, kernels_of
from groupwise.run.compose import method_of
from groupwise.run.config import from_toml
from groupwise.run.disk import read_lines
from groupwise.run.evals import subjects
from groupwise.run.learning import learner_of
from groupwise.run.settings import Run
from groupwise.run.toml import text_of

PLACE, OVERLONG = "place", "overlong"
"""A column of our own, which remembers where a token was; a component that shaping adds, which every method does for itself."""
Row = Mapping[str, Any]
Old = dict[tuple[str, int], tuple[float, ...]]
"""Log-probs of a rollout's tokens, by its group's key and its place there."""


def replay(folder: Path, words: Sequence[str] = (), *, fresh: bool = False, step: int | None = None, weights: str = "",
           most: int = 0) -> dict[str, Any]:
    """The rollouts that a run kept of a step (`fresh`: sampled now, with the weights that are replayed at) through methods.

    As JSON values. A method that cannot be replayed is named with the reason. ConfigError: nothing was kept, or no such weights.
    """
    run = replace(from_toml(text_of(folder / "run.toml"), str(folder / "run.toml")), preflight="off")
    methods = [one for word in words or tuple(METHODS) for one in [_method(word, run)]]
    rows = [] if fresh else _kept(folder, step)
    at, place = _weights(folder, run, weights, rows[0]["step"] if rows else None)
    job = assemble(replace(run, method="reinforce", method_args={}, updates_per_batch=0), folder, place)
    with job.workers, job.grader:
        exact = fresh or at == rows[0]["step"] - 1
        groups, old = (_drawn(job), None) if fresh else _groups(job, rows)
        groups = groups[:most] if most else groups
        found = [_put(job, name, method, trouble, groups, None if exact else old) for name, method, trouble in methods]
    told = [one for one in found if "vector" in one]
    unit = [one["vector"] / max(one["norm"], 1e-30) for one in told]
    cosines = [[float(a @ b) for b in unit] for a in unit]
    for one in found:
        one.pop("vector", None)
    return {"run": str(folder), "step": rows[0]["step"] if rows else None, "weights": at, "on_policy": exact,
            "groups": _shown(job, groups),
            "methods": found, "replayed": [one["name"] for one in told], "cosines": cosines}


def _method(word: str, run: Run) -> tuple[str, Method | None, str]:
    """A method of a word (its name, the method, or what keeps it from being composed)."""
    name, arguments = split(word)
    try:
        return word, method_of(replace(run, method=name, method_args=arguments, updates_per_batch=0), run.sampling.max_tokens), ""
    except GroupwiseError as error:
        if name not in METHODS or arguments:
            raise
        return word, None, str(error)


def _kept(folder: Path, step: int | None) -> list[Row]:
    """The groups that were kept of a step."""
    rows = [row for row in read_lines(folder / "rollouts.jsonl") if any(r.get("ids") for r in row["rollouts"])]
    known = sorted({row["step"] for row in rows})
    if not known:
        raise ConfigError(f"{folder} kept no groups (keep_rollouts): give --fresh to sample some now")
    wanted = known[0] if step is None else step
    if wanted not in known:
        raise ConfigError(f"no groups of step {wanted} were kept; there are those of {', '.join(map(str, known))}")
    return [row for row in rows if row["step"] == wanted]


def _weights(folder: Path, run: Run, wanted: str, step: int | None) -> tuple[int, Path | None]:
    """Weights to replay at, as the steps they were trained for and their place (None: the base): those asked for; else the
    nearest that had not seen the rollouts, or, for fresh ones, the last.
    """
    there: dict[int, Path | None] = {0: None}
    for path in sorted((folder / "checkpoints").glob("step-*")):
        at = int(path.name.removeprefix("step-"))
        found = subjects([f"{folder}@{at}"])[0]
        there[at] = found.adapters or Path(found.source)
    last = max(there)
    if wanted in ("base", "0"):
        return 0, None
    if wanted == "model":
        return last, there[last]
    if wanted:
        if not wanted.isdecimal() or int(wanted) not in there:
            raise ConfigError(f"there are no weights {wanted!r}; there are base, model and the checkpoints "
                              f"{', '.join(str(at) for at in there if at) or '(none)'}")
        return int(wanted), there[int(wanted)]
    at = last if step is None else max(at for at in there if at < step)
    return at, there[at]


def _drawn(job: Job) -> list[Group]:
    """Groups of the first step's prompts, sampled now."""
    return [group for group in job.sampler.generate(job.sampler.draw(0)) if group.own]


def _groups(job: Job, rows: Sequence[Row]) -> tuple[list[Group], Old]:
    """Kept groups as they were before any shaping, and the learner's log-probs of their tokens before the update.

    Each episode is one turn here: what was not trained on is kept in its place.
    """
    if job.task.environment is not None:
        raise ConfigError("the kept groups of a task of several turns cannot be put together again: give --fresh")
    known = {p.id: p for p in job.task.train}
    asked = [known.get(row["prompt"]) or Prompt(row["prompt"], row["text"], row["answer"]) for row in rows]
    groups, old = [], Old()
    for row, prompt in zip(rows, fill(asked, job.policy.tokenizer, form_of(job.run), 2**31), strict=True):
        rollouts: list[Rollout] = []
        for r in (r for r in row["rollouts"] if r.get("ids")):
            old[row["group"], len(rollouts)] = _numbers(r.get("before") or r["engine"])
            spans = tuple(Span(i, i + 1, behaviour="default" if m == "1" else "none") for i, m in enumerate(r["mask"]))
            turn = Turn(Context(prompt.tokens), Completion(tuple(r["ids"]), _numbers(r["engine"]), r["finish"]),
                        spans if "1" in r["mask"] else (), text=r["text"])
            parts = tuple(Component(name, value, weight=weight_of(name, job.run.reward_weights))
                          for name, value in r["components"].items() if name != OVERLONG)
            rollouts.append(Rollout(Episode(prompt, (turn,), role=r.get("role", "policy")),
                                    Verdict(r["correct"], kind=r["kind"], extracted=r["extracted"]), parts))
        groups.append(Group(row["group"], prompt, tuple(rollouts)))
    return groups, old


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(float("nan") if x is None else x for x in values)


def _put(job: Job, name: str, method: Method | None, trouble: str, groups: Sequence[Group], old: Old | None) -> dict[str, Any]:
    """One method: what it makes of the groups, or what keeps it from it. `old` are the log-probs of the weights that sampled, if
    these are other weights than the present ones.
    """
    if method is None:
        return {"name": name, "trouble": trouble}
    refused = [next((reason for rule in method.admit for reason in [rule(group)] if reason), "") for group in groups]
    admitted = [group for group, reason in zip(groups, refused, strict=True) if not reason]
    for shape in method.shape:
        admitted = [shape(group) for group in admitted]
    if not admitted:
        return {"name": name, "trouble": f"it admits none of the groups ({', '.join(sorted(set(refused)))})"}
    try:
        learner = learner_of(replace(job.run, method=name), job.policy, method, _base(job), _compiler(job))
        batch = _batch(learner, method, admitted, old)
    except GroupwiseError as error:
        return {"name": name, "trouble": str(error)}
    objective = method.objective
    own = batch.with_columns({PLACE: torch.arange(len(batch.tokens), device=batch.tokens.device).double()}, {})
    own = own.written_by(learner.policy_id)
    weighed = objective.weigh(learner.planned(own, objective))
    learner.discard()
    stats = learner.gradients(weighed, objective)
    vector = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).detach().double().cpu().reshape(-1)
                        for p in job.policy.model.parameters()])
    learner.discard()
    slopes = np.zeros(len(batch.tokens))
    found = _slopes(learner, method, weighed)
    slopes[weighed.columns[PLACE].long().cpu().numpy()] = found.cpu().numpy()
    of, keys = batch.layout.ids("token", "episode"), [(g.key, i) for g in admitted for i, r in enumerate(g.rollouts) if _wrote(r)]
    return {"name": name, "hash": objective.hash, "admitted": len(admitted), "refused": [reason for reason in refused if reason],
            "loss": stats["loss"], "norm": float(vector.norm()), "vector": vector,
            "clipped": [stats.get("clip_low"), stats.get("clip_high")], "pulled": int((slopes != 0).sum()),
            "slopes": {f"{key}#{i}": slopes[of == e].tolist() for e, (key, i) in enumerate(keys)}}


def _batch(learner: Learner, method: Method, groups: Sequence[Group], old: Old | None) -> Batch:
    """The credited batch; with `old`, ratios divide by these (or by the engine's, where the method does)."""
    default = method.divides_by if old is None or method.divides_by == "recorded" else "old"
    batch = pack(groups, default=default, device=str(learner.device))
    known: dict[str, Tensor] = {}
    if old is not None:
        rows = [x for g in groups for i, r in enumerate(g.rollouts) if _wrote(r) for x in old[g.key, i]]
        known["old_logp"] = torch.tensor(rows, device=learner.device)
    batch, needed = learner.scored(batch, groups, method.needs - ({"old"} if old is not None else set()))
    needed |= known
    return batch.with_columns(needed, method.objective.credit(groups, batch, needed, method.state()))


def _slopes(learner: Learner, method: Method, batch: Batch) -> Tensor:
    """dL/dlogp of every token [t] at the present weights, by autograd on the objective's own loss: the other quantities that a
    term may look at (entropy, values) are held.
    """
    wanted = frozenset({"old", "entropy"}) | (method.objective.needs & {"values", "sum_p2"})
    now = learner.logprobs(batch, (), wanted)
    leaf = now["old_logp"].detach().requires_grad_()
    live = Live(logp=leaf, **{name: now[name] for name in ("entropy", "values", "sum_p2") if name in now})
    (found,) = torch.autograd.grad(method.objective.loss(live, batch).value, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else torch.nan_to_num(found)


def _compiler(job: Job) -> Any:
    library = by_modules(job.run.learner) or kernels_of(job.run.learner.compute, job.policy, str(job.learner.device))
    return compiler(library, job.run.learner.threads, job.run.learner.dtype)


def _base(job: Job) -> str | Path:
    return job.folder / "base" if (job.folder / "base").is_dir() else base_of(job.run)


def _wrote(rollout: Rollout) -> bool:
    return any(turn.completion.tokens for turn in rollout.episode.turns)


def _shown(job: Job, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The rollouts as they can be read."""
    return [{"group": g.key, "text": g.prompt.text, "answer": g.prompt.answer, "rollouts": [
        {"key": f"{g.key}#{i}", "text": r.episode.text, "reward": r.reward, "correct": r.verdict.correct,
         "tokens": pieces(job.policy.tokenizer, [x for s in sequences(r.episode) for x in s.tokens])}
        for i, r in enumerate(g.rollouts) if _wrote(r)]} for g in groups]
