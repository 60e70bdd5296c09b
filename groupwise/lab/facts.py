"""Checks of what an objective claims of rewards, baselines, derivatives and being on policy."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from groupwise.errors import ObjectiveError
from groupwise.lab.samples import LIVE, Part, Row, Sample
from groupwise.lab.trials import (
    Found,
    Subject,
    apart,
    at_ids,
    compared,
    gradient,
    leaves,
    live,
    losses,
    policy_only,
    prepared,
    weighed,
    whole,
    worst,
)
from groupwise.objective.baselines import (
    BatchMean,
    BatchStd,
    BetaDensity,
    GroupMean,
    GroupStd,
    LeaveOneOut,
    LengthMean,
    NoBaseline,
    NonZeroShare,
    One,
)
from groupwise.objective.batch import Batch
from groupwise.objective.credit import Advantage, Blend, Reward
from groupwise.objective.objective import Objective
from groupwise.objective.terms import UNKNOWN, Policy

# ---- rewards -------------------------------------------------------------------------------------------------------------

CENTRED = (GroupMean, LeaveOneOut, BatchMean, LengthMean)


def shift_expected(credit: Any) -> bool | None:
    """Whether the advantage stays under r + c, from what the credit declares or is composed of; None if neither says."""
    said = getattr(credit, "shift_invariant", None)
    if said is not None or type(credit) not in (Advantage, Blend):
        return said
    if credit.whiten is not None and not credit.whiten.centre:
        return None
    if isinstance(credit, Blend):
        each = [shift_expected(part) for _, part in credit.parts]
        return None if None in each else all(each)
    of_baseline = getattr(credit.baseline, "shift_invariant", None)
    if credit.transform is not None or type(credit.signal) is not Reward or of_baseline is not None:
        return of_baseline
    if type(credit.baseline) is NoBaseline:
        return False if credit.whiten is None else None
    return True if type(credit.baseline) in CENTRED and type(credit.scale) in (One, GroupStd, BatchStd) else None


def degree_expected(credit: Any) -> int | None:
    """How the advantage goes with k r: 1 like k, 0 not at all; None if neither a declaration nor the composition says."""
    said = getattr(credit, "scale_degree", None)
    if said is not None or type(credit) not in (Advantage, Blend):
        return said
    if credit.whiten is not None:
        return None
    if isinstance(credit, Blend):
        each = {degree_expected(part) for _, part in credit.parts}
        return each.pop() if len(each) == 1 else None
    of_scale = getattr(credit.scale, "scale_degree", None)
    if credit.transform is not None or type(credit.signal) is not Reward or of_scale is not None:
        return of_scale
    if type(credit.baseline) not in (*CENTRED, NoBaseline):
        return None
    return {One: 1, GroupStd: 0, BatchStd: 0}.get(type(credit.scale))


def _advantages(subject: Subject, sample: Sample) -> Tensor:
    """[ids, 1]; 0 where a token was dropped."""
    batch = prepared(subject, sample)
    return at_ids(batch, batch.column("advantage") * batch.loss_mask, len(sample.table["logp"]))


def _paired(sample: Sample) -> Sample:
    """Without groups of one, whose singleton rule is another check's."""
    kept = tuple(rows for rows in sample.groups if len(rows) > 1)
    return replace(sample, groups=kept)


def shift(subject: Subject, sample: Sample) -> Found:
    """Advantages under r + c, as the credit declares or its composition says."""
    sample, wanted = _paired(sample), shift_expected(subject.objective.credit_by)
    if not sample.groups:
        return Found(skipped="no group of two")
    one = _advantages(subject, sample)
    try:
        moved = _advantages(subject, sample.rewarded(lambda r: r + 8.0))
    except ObjectiveError as error:
        return Found(note=f"rewards cannot be shifted: {error}")
    if wanted:
        return compared(one, moved, "8 added to all rewards changes the advantage, although the baseline is said to take a "
                        "constant away", ("A", "A, r + 8"))
    still = apart(one, moved) < 1e-6
    if wanted is False and still and bool((one != 0).any()):
        return Found(1.0, "the credit is said to move with a constant in the reward, but does not", one, moved, ("A", "A, r + 8"))
    how = "as declared" if wanted is False else "nothing is declared (shift_invariant)"
    return Found(note=f"a constant in the reward {'changes nothing' if still else 'changes the advantage'}; {how}")


def scaling(subject: Subject, sample: Sample) -> Found:
    """Advantages under k r, as the credit declares or its composition says."""
    sample, wanted = _paired(sample), degree_expected(subject.objective.credit_by)
    if not sample.groups:
        return Found(skipped="no group of two")
    one = _advantages(subject, sample)
    try:
        moved = _advantages(subject, sample.rewarded(lambda r: 4.0 * r))
    except ObjectiveError as error:
        return Found(note=f"rewards cannot be scaled: {error}")
    if wanted is None:
        like = next((f"goes like k^{d}" for d in (0, 1, 2) if apart(one * 4.0**d, moved) < 1e-3), "is no power of k")
        return Found(note=f"under k r the advantage {like}; nothing is declared (scale_degree)")
    found = compared(one * 4.0**wanted, moved, f"under 4 r the advantage should be {4**wanted} A", (f"{4**wanted} A", "A, 4 r"))
    # A standard deviation has a small number beside it, so that rewards that hardly differ do not divide by 0.
    return replace(found, error=0.0) if wanted == 0 and found.error < 1e-4 else found


def _by_group(credit: Any) -> bool:
    """Whether the composition says that each group's mean (or that of the others) is taken away."""
    if getattr(credit, "whiten", None) is not None:
        return False
    if isinstance(credit, Blend):
        return all(_by_group(part) for _, part in credit.parts)
    return isinstance(credit, Advantage) and type(credit.baseline) in (GroupMean, LeaveOneOut) and credit.key == "group" \
        and type(credit.signal) is Reward and credit.transform is None


def flat_groups(subject: Subject, sample: Sample) -> Found:
    """A group without variance has no policy gradient, where a group's mean is the baseline, and stays in the denominators."""
    alone, sample = policy_only(subject), _paired(sample)
    if not sample.groups or alone is None:
        return Found(skipped="no policy term that stands alone")
    if not (_by_group(subject.objective.credit_by) or getattr(subject.objective.credit_by, "flat_is_zero", False)):
        return Found(skipped="the baseline is not the group's mean")
    level = replace(sample, groups=tuple(_level(rows) if g == 0 else rows for g, rows in enumerate(sample.groups)))
    first = replace(sample, groups=sample.groups[:1]).flags(lambda row, part: part.tokens)[:, None]
    one = whole(alone, level)
    found = [compared(torch.where(first, 0.0, one), one, "a group whose rewards are all equal has a policy gradient",
                      ("must be", "gradient"))]
    of_batch = {type(part) for part in subject.parts} & {BatchStd, NonZeroShare, BetaDensity}
    if subject.objective.reach in ("token", "sequence") and not of_batch:
        mixed = replace(level, groups=(tuple(replace(row, rewards=(float(i % 2),) * len(row.rewards))
                                             for i, row in enumerate(level.groups[0])), *level.groups[1:]))
        found.append(compared(torch.where(first, 0.0, whole(alone, mixed)), one, "a group without variance leaves a denominator: "
                              "others have another gradient beside it than beside a group with variance",
                              ("beside mixed", "beside flat")))
    return worst(found)


def _level(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    def parts(row: Row) -> tuple[Part, ...]:
        return tuple(replace(part, reward=None if part.reward is None else 0.0) for part in row.parts)

    return tuple(replace(row, rewards=rows[0].rewards, parts=parts(row)) for row in rows)


def singletons(subject: Subject, sample: Sample) -> Found:
    """A group of one gets what its baseline declares: zero, its raw reward, nothing at all (drop), or a refusal."""
    credit = subject.objective.credit_by
    if type(credit) is not Advantage or credit.key != "group" or type(credit.signal) is not Reward or credit.transform:
        return Found(skipped="the credit is not one advantage over groups")
    if not credit.baseline.within_cells or credit.whiten is not None:
        return Found(skipped="the baseline needs no siblings, or the whole batch is whitened")
    row = replace(sample.rows[0], masked=False, rewards=(0.75,) * len(sample.names))
    one, rule = replace(sample, groups=((row,),)), credit.baseline.singleton
    try:
        batch = prepared(subject, one)
    except ObjectiveError as error:
        return Found() if rule == "refuse" else Found(1.0, f"a group of one is refused although the rule is {rule!r}: {error}")
    raw = sum(row.rewards) if credit.signal.component is None else 0.75
    mine, live_tokens = batch.column("advantage"), batch.loss_mask
    right = {"zero": bool((mine == 0).all() & (live_tokens == batch.counted).all()),
             "raw": bool(torch.isclose(mine, mine.new_tensor(raw), rtol=1e-5).all()),
             "drop": not bool(live_tokens.any()), "refuse": False}[rule]
    return Found(0.0 if right else 1.0, f"a group of one has advantage {float(mine[0]):g}, but its rule is {rule!r}")


# ---- derivatives ---------------------------------------------------------------------------------------------------------


def differences(subject: Subject, sample: Sample) -> Found:
    """Autograd agrees with central differences; what `.detach()` gave is held at its value, as a stop-gradient means it."""
    batch, values = weighed(subject, sample), leaves(sample)
    objective, point, keep = subject.objective, values.detach(), torch.Tensor.detach
    one, held, by_hand = gradient(objective, [batch], values), [], torch.zeros_like(point)
    asked = {n.partition(":")[0] for n in objective.needs} | {"logp"}

    def recorded(x: Tensor) -> Tensor:
        held.append(keep(x).clone())
        return held[-1]

    try:
        torch.Tensor.detach = recorded  # type: ignore[assignment]
        _value(objective, batch, point)
        for i in batch.tokens[batch.loss_mask].tolist():
            for j in [j for j, name in enumerate(LIVE) if name in asked]:
                ends = []
                for step in (1e-6, -1e-6):
                    moved = point.clone()
                    moved[i, j] += step
                    torch.Tensor.detach = _replayed(held)  # type: ignore[assignment]
                    ends.append(_value(objective, batch, moved))
                by_hand[i, j] = (ends[0] - ends[1]) / 2e-6
    finally:
        torch.Tensor.detach = keep
    return compared(by_hand, one, "autograd and central differences disagree (a stop-gradient is written with .detach())",
                    ("differences", "autograd"))


def _replayed(held: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A `detach` that gives what was recorded, in order."""
    left = iter(held)
    return lambda x: next(left)


def _value(objective: Objective, batch: Batch, values: Tensor) -> float:
    return float(objective.loss(live(values, batch), batch).value)


def on_policy(subject: Subject, sample: Sample) -> Found:
    """On policy every ratio is 1: behaviour `self` and old log-probs equal to the live ones give one gradient, which for the
    policy term by itself is -w A.
    """
    here = sample.table["logp"]
    fresh = replace(sample.columns(engine_logp=here, old_logp=here), default="self")
    one = whole(subject, fresh)
    found = [compared(one, whole(subject, replace(fresh, default="old")), "old log-probs equal to the live ones give another "
                      "gradient than the live ones by themselves", ("self", "old"))]
    batch = weighed(subject, fresh)
    for seen in losses(subject, fresh, batch).seen:
        acting = seen.mask & (batch.behaviour != UNKNOWN)
        if seen.ratio is not None:
            ratio = torch.ones(len(here), 1, dtype=torch.float64).index_put(
                (batch.tokens,), torch.where(acting, seen.ratio, 1.0)[:, None])
            found.append(compared(torch.ones_like(ratio), ratio, f"the ratio of the term {seen.term.name!r} is not 1 on policy",
                                  ("must be", "ratio")))
    alone = policy_only(subject)
    if alone is not None and all(type(t) is Policy and t.unit == "token" for t in alone.objective.terms):
        batch = weighed(alone, fresh)
        if not bool((batch.counted & (batch.behaviour == UNKNOWN)).any()):
            found.append(_reinforce(alone, fresh, batch))
    return worst(found)


def _reinforce(subject: Subject, sample: Sample, batch: Batch) -> Found:
    """The gradient of policy terms against -w A."""
    wanted = torch.zeros_like(leaves(sample))
    for term in subject.objective.terms:
        if getattr(term.trust, "on_policy_slope", 1.0) is None or term.gates:  # type: ignore[attr-defined]
            return Found()
        slope = -term.coef * batch.weights[term.name].values * batch.column(term.credit)  # type: ignore[attr-defined]
        mask = (term.mask(batch) & batch.loss_mask) * getattr(term.trust, "on_policy_slope", 1.0)  # type: ignore[attr-defined]
        wanted = wanted.detach().index_put((batch.tokens, torch.tensor(0)), slope * mask, accumulate=True)
    return compared(wanted, gradient(subject.objective, [batch], leaves(sample)), "on policy the gradient is not -w A: the "
                    "ratio is not that of the distribution that was sampled from, or the trust rule has another slope at 1 "
                    "(declare it: on_policy_slope)", ("-w A", "gradient"))
