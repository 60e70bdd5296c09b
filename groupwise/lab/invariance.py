"""Checks that change the batch in a way that must not change the gradient, or must change it in a known way."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.errors import ObjectiveError
from groupwise.lab.samples import LIVE, SCORED, Row, Sample, groups, table
from groupwise.lab.trials import Found, Subject, at_ids, compared, gradient, leaves, prepared, weighed, whole, worst
from groupwise.objective.baselines import LengthMean
from groupwise.objective.batch import Batch
from groupwise.objective.credit import Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.ratio import TokenRatio
from groupwise.objective.returns import Gae, OptimalTokenBaseline, Returns
from groupwise.objective.terms import Policy


def order(subject: Subject, sample: Sample) -> Found:
    """Neither the order of groups, nor of rollouts in a group, nor of sequences in the batch matters."""
    turned = replace(sample, groups=tuple(rows[::-1] for rows in sample.groups[::-1]))
    batch = weighed(subject, sample)
    shuffled = batch.take(generator("check", "order").permutation(batch.layout.size("sequence")))
    one = gradient(subject.objective, [batch], leaves(sample))
    return worst([
        compared(one, whole(subject, turned), "groups and their rollouts in reverse order give another gradient"),
        compared(one, gradient(subject.objective, [shuffled], leaves(sample)),
                 "the sequences of the weighed batch in another order give another gradient")])


def padding(subject: Subject, sample: Sample) -> Found:
    """Tokens that are not trained on, more or fewer, change nothing."""
    n = len(sample.table["logp"])
    ids = iter(range(n, 10 * n + 100))
    padded = sample.map(lambda row: replace(row, parts=tuple(
        replace(part, tokens=(*part.tokens, next(ids)), off=part.off + 1, gap=(*part.gap, next(ids))) for part in row.parts)))
    added = next(ids) - n
    more = table(generator("check", "padding"), added, subject.wishes.columns)
    padded = padded.columns(**{name: torch.cat([column, more[name]]) for name, column in sample.table.items()})
    after = whole(subject, padded)
    return compared(whole(subject, sample), after[:n], "untrained tokens added to every turn change the gradient of the others")


def packing(subject: Subject, sample: Sample) -> Found:
    """An append-only episode in one sequence or cut in several: the same credit and weights, and the same gradient where no
    ratio or loss is about the sequence.
    """
    one = sample.map(lambda row: replace(row, parts=tuple(replace(part, cut=False) for part in row.parts)))
    many = sample.map(lambda row: replace(row, parts=tuple(replace(part, cut=i > 0) for i, part in enumerate(row.parts))))
    a, b = prepared(subject, one), prepared(subject, many)
    plain = all(type(t.ratio) is TokenRatio for t in subject.objective.terms if isinstance(t, Policy))
    if plain and subject.objective.reach in ("token", "group", "step") and not subject.declares("about_sequences"):
        return compared(whole(subject, one), whole(subject, many), "an episode cut in several sequences has another gradient "
                        "than in one", ("one sequence", "several"))
    rows = len(sample.table["logp"])
    found = [compared(at_ids(a, a.column(name) * a.counted, rows), at_ids(b, b.column(name) * b.counted, rows),
                      f"the credit {name!r} changes when an episode is cut in several sequences", ("one sequence", "several"))
             for name in a.credit]
    a, b = subject.objective.weigh(a), subject.objective.weigh(b)
    for name in (t.name for t in subject.objective.terms if t.unit == "token"):
        found.append(compared(at_ids(a, a.weights[name].values, rows), at_ids(b, b.weights[name].values, rows),
                              f"the weights of {name!r} change when an episode is cut in several sequences",
                              ("one sequence", "several")))
    return worst(found)


def lengthening(subject: Subject, sample: Sample) -> Found:
    """A statistic of credit counts an episode once, however many tokens it has."""
    if subject.objective.credit_by.needs or True in subject.declares("reads_lengths") or any(map(_by_tokens, subject.parts)):
        return Found(skipped="the credit reads lengths or per-token values by design")
    n = len(sample.table["logp"])
    found, before = [], prepared(subject, sample)
    longest = max(range(len(sample.rows)), key=lambda i: len(sample.rows[i].tokens))
    for chosen in {0, longest, len(sample.rows) - 1}:
        row = sample.rows[chosen]
        grown = replace(row, parts=(replace(row.parts[0], tokens=(*range(n, n + 5), *row.parts[0].tokens)), *row.parts[1:]))
        more = table(generator("check", "longer"), 5, subject.wishes.columns)
        longer = sample.map(partial(_swapped, row, grown))
        longer = longer.columns(**{name: torch.cat([column, more[name]]) for name, column in sample.table.items()})
        after = prepared(subject, longer)
        short, tall = (at_ids(b, b.column("advantage") * b.loss_mask, n + 5)[:n] for b in (before, after))
        found.append(compared(short, tall, f"five more trained tokens in rollout {chosen} (counted through) change the "
                              "advantage: a statistic weighs tokens where it should count each episode once", ("A", "A, longer")))
    return worst(found)


def _by_tokens(part: Any) -> bool:
    """Whether a part of the package weighs tokens on purpose."""
    if isinstance(part, Whiten):
        return part.over == "token"
    return isinstance(part, LengthMean | Returns | OptimalTokenBaseline | Gae)


def _swapped(old: Row, new: Row, row: Row) -> Row:
    return new if row is old else row


def ranks(subject: Subject, sample: Sample) -> Found:
    """The gradients of processes that each hold some groups add up to that of one process."""
    if subject.objective.reach == "step":
        return Found(skipped="a loss reaches over the step: processes share the work of one batch (see micro-batches)")
    batch = prepared(subject, sample)
    one = gradient(subject.objective, [subject.objective.weigh(batch)], leaves(sample))
    found = []
    for size in (2, 3):
        held = [batch.groups(share) for share in uneven(batch.layout.groups, size) if len(share)]
        parts = in_process(subject.objective, held)
        found.append(compared(one, gradient(subject.objective, parts, leaves(sample)), f"{len(held)} processes that add their "
                              "counts and gradients get another gradient than one process", ("one process", "sum")))
    return worst(found)


def uneven(groups: int, size: int) -> list[np.ndarray]:
    """Shares of very unequal size: the first process has what the others leave, one group each (or none)."""
    own = np.arange(groups)
    return [own[:max(1, groups - size + 1)], *[own[max(1, groups - size + 1):][i:i + 1] for i in range(size - 1)]]


def in_process(objective: Objective, parts: Sequence[Batch]) -> list[Batch]:
    """The parts weighed as processes would weigh them: counts are added over parts."""
    counted: list[list[Tensor]] = []
    for part in parts:
        asked: list[Tensor] = []

        def note(counts: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(counts)
            return counts

        objective.weigh(part, note)
        counted.append(asked)
    if len({len(asked) for asked in counted}) > 1:
        raise ObjectiveError("the parts ask for different numbers of totals, which would leave processes waiting for each other: "
                             "ask for the same totals whatever the batch holds")
    totals = [torch.stack(of_ranks).sum(0) for of_ranks in zip(*counted, strict=True)]
    made = []
    for part in parts:
        given = iter(totals)
        made.append(objective.weigh(part, lambda counts, given=given: next(given)))  # type: ignore[misc]
    return made


# ---- masks ---------------------------------------------------------------------------------------------------------------

GARBAGE = (float("nan"), float("inf"), -float("inf"), 1e30)


def garbage(subject: Subject, sample: Sample) -> Found:
    """Whatever stands at tokens that are not trained on changes nothing, and gets no gradient."""
    off, clean = ~sample.trained, whole(subject, sample)
    found = [compared(clean, torch.where(off[:, None], 0.0, clean), "tokens that are not trained on get a gradient",
                      ("gradient", "must be"))]
    for value in GARBAGE:
        dirty = _filled(sample, off, value, (*LIVE, *SCORED, *subject.wishes.columns))
        found.append(compared(clean, whole(subject, dirty), f"{value} in the columns of tokens that are not trained on changes "
                              "the gradient", ("clean", "with garbage")))
    return worst(found)


def _filled(sample: Sample, where: Tensor, value: float, names: tuple[str, ...]) -> Sample:
    return sample.columns(**{name: torch.where(where, value, sample.table[name]) for name in names})


def masked(subject: Subject, sample: Sample) -> Found:
    """A masked rollout has no gradient, whatever its log-probs, and leaves the numerator only: others keep theirs."""
    if not bool(sample.masked.any()):
        return Found(skipped="no rollout is masked")
    objective, hidden, one = subject.objective, sample.masked, whole(subject, sample)
    found = [compared(one, torch.where(hidden[:, None], 0.0, one), "a masked rollout has a gradient", ("gradient", "must be"))]
    dirty = weighed(subject, sample)
    values = torch.where(hidden[:, None], float("nan"), leaves(sample).detach()).requires_grad_()
    found.append(compared(one, gradient(objective, [dirty], values), "the log-probs of a masked rollout change the gradient",
                          ("gradient", "nan there")))
    if objective.reach in ("token", "sequence") and True not in subject.declares("shrinks_denominator"):
        shown = whole(subject, sample.map(lambda row: replace(row, masked=False)))
        found.append(compared(torch.where(hidden[:, None], 0.0, shown), one, "masking a rollout changes the gradient of others: "
                              "it left a denominator (a part that means this says shrinks_denominator = True)",
                              ("none masked", "masked")))
    return worst(found)


def all_masked(subject: Subject, sample: Sample) -> Found:
    """A batch in which everything is masked has a gradient of zero, not nan."""
    one = whole(subject, sample.map(lambda row: replace(row, masked=True)))
    return compared(one, torch.zeros_like(one), "a batch of masked rollouts only has a gradient", ("gradient", "must be"))


def truncated(subject: Subject, sample: Sample) -> Found:
    """Being cut off at the token limit changes a gradient only through the method's own shaping: a mask, or a reward."""
    if not any(row.truncated for row in sample.rows):
        return Found(skipped="no rollout is truncated")
    done = sample.map(lambda row: replace(row, truncated=False))
    found = [_shaped_away(subject, sample)] if subject.method.shape else []
    return worst([*found, compared(whole(subject, done), whole(subject, sample), "a rollout that was cut off at the token limit "
                    "is trained on in another way than one that ended, although no shaping says so", ("ended", "cut off"))])


def _shaped_away(subject: Subject, sample: Sample) -> Found:
    """Rollouts that the method's shaping masks for being cut off have no gradient."""
    shaped = [reduce(lambda group, shape: shape(group), subject.method.shape, group) for group in groups(sample)]
    hidden = {(g, r) for g, group in enumerate(shaped) for r, rollout in enumerate(group.rollouts) if rollout.masked}
    sample = replace(sample, groups=tuple(tuple(replace(row, masked=(g, r) in hidden) for r, row in enumerate(rows))
                                          for g, rows in enumerate(sample.groups)))
    one, masked = whole(subject, sample), sample.masked[:, None]
    return compared(one, torch.where(masked, 0.0, one), "a rollout that the shaping masks has a gradient",
                    ("gradient", "must be"))


def dropped(subject: Subject, sample: Sample) -> Found:
    """A token that a mask drops has no gradient, and its log-probs change nothing: a ratio of its sequence ignores it."""
    batch, off = prepared(subject, sample), sample.flags(lambda row, part: part.tokens[:1])
    batch = replace(batch, loss_mask=batch.loss_mask & ~off[batch.tokens])
    objective, found = subject.objective, []
    batch = objective.weigh(batch)
    one = gradient(objective, [batch], leaves(sample))
    found.append(compared(one, torch.where(off[:, None], 0.0, one), "a dropped token has a gradient", ("gradient", "must be")))
    for shift in (3.0, -3.0):
        values = (leaves(sample).detach() + shift * off[:, None]).requires_grad_()
        found.append(compared(one, gradient(objective, [batch], values), "the log-prob of a dropped token changes the gradient "
                              "of others", ("gradient", f"{shift:+g} there")))
    return worst(found)
