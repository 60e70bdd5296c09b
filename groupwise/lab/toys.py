"""Checks on a policy whose actions can be enumerated: the ratio's distribution, and the pull towards a reference, exactly."""

from dataclasses import replace

import torch
from torch import Tensor

from groupwise.core.keyed import generator
from groupwise.lab.samples import Part, Row, Sample, table
from groupwise.lab.trials import Found, Subject, apart, compared, losses, weighed, whole


def _actions(subject: Subject, counts: tuple[int, ...], rewards: tuple[float, ...], **columns: Tensor) -> tuple[Sample, Tensor]:
    """One group of one-token rollouts, `counts[a]` of action a, and the action of each id. Columns have one value per action."""
    chosen = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    names = subject.wishes.names
    part = [None if not subject.wishes.turn_rewards else 0.0]
    rows = tuple(Row(0, (Part((i + 1,), reward=part[0]),), (rewards[a],) * len(names)) for i, a in enumerate(chosen.tolist()))
    spread = torch.cat([torch.zeros(1, dtype=torch.long), chosen])
    made = table(generator("check", "actions"), len(spread), subject.wishes.columns)
    made |= {"values": torch.zeros(len(spread), dtype=torch.float64), "old_values": torch.zeros(len(spread), dtype=torch.float64)}
    made |= {name: column[spread] for name, column in columns.items()}
    return Sample((rows,), made, "self", names), spread


def ratio_of_sampler(subject: Subject, sample: Sample) -> Found:
    """A ratio is taken under the distribution that was sampled from: sum_a mu(a) rho(a) = 1 over the actions of a policy whose
    log-probs are under the sampling temperature, and rho = 1 where the policies are equal.
    """
    worst_found = Found(skipped="no term has a ratio")
    for temperature in (1.0, 0.7):
        old, new = (torch.log_softmax(torch.tensor(z, dtype=torch.float64) / temperature, 0)
                    for z in ([0.6, -0.2, -0.4], [0.4, 0.1, -0.7]))
        for now in (new, old):
            toy, action = _actions(subject, (1, 1, 1), (0.0, 0.5, 1.0), logp=now, old_logp=old, ref_logp=old, engine_logp=old)
            toy = replace(toy, default="old")
            batch = weighed(subject, toy)
            for seen in losses(subject, toy, batch).seen:
                if seen.ratio is None or not bool(seen.mask.all()):
                    continue
                total = float((old.exp()[action[batch.tokens]] * seen.ratio).sum())
                right = torch.ones(len(action), 1, dtype=torch.float64)
                taken = right.index_put((batch.tokens,), seen.ratio[:, None])
                right = right.index_put((batch.tokens,), (now - old).exp()[action[batch.tokens]][:, None])
                found = compared(right, taken, f"the ratio of the term {seen.term.name!r} is not pi/mu under the "
                                 f"sampling temperature {temperature:g}: its mean over samples of mu is {total:.4f}, not 1",
                                 ("pi/mu", "ratio"))
                worst_found = max(worst_found, replace(found, sample=toy), key=lambda f: (not f.skipped, f.error))
    return worst_found


def pull(subject: Subject, sample: Sample) -> Found:
    """A step along the expected gradient of the reference's part lowers the exact KL of a policy that can be enumerated."""
    if "ref" not in subject.method.needs | subject.objective.needs:
        return Found(skipped="no reference")
    counts = (2, 1, 1)
    pi = torch.tensor(counts, dtype=torch.float64) / 4
    ref = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    columns = {"logp": pi.log(), "old_logp": pi.log(), "engine_logp": pi.log()}
    toy, action = _actions(subject, counts, (0.5,) * 3, **columns, ref_logp=ref.log())
    same, _ = _actions(subject, counts, (0.5,) * 3, **columns, ref_logp=pi.log())
    by_logp = (whole(subject, toy) - whole(subject, same))[1:, 0]
    rows = torch.eye(3, dtype=torch.float64)[action[1:]]
    expected = (by_logp[:, None] * (rows - pi)).sum(0)  # by the logits of the softmax
    size = float(expected.norm())
    shown = torch.zeros(5, 1, dtype=torch.float64).index_put((torch.arange(1, 5), torch.tensor(0)), by_logp)
    wrong = Found(1.0, before=shown, after=shown, labels=("", "the reference's part of the gradient"), sample=toy)
    if size < 1e-9:
        return replace(wrong, message="the reference has no pull: its expected gradient on samples of the policy is 0 (as that "
                       "of k1 in the loss)")
    stepped = torch.log_softmax(pi.log() - 1e-4 * expected / size, 0)
    now, then = _divergences(pi, ref), _divergences(stepped.exp(), ref)
    rise = {name: (then[name] - now[name]) / 1e-4 for name in now}
    if all(change >= 0 for change in rise.values()):
        return replace(wrong, message="a gradient step moves the policy away from the reference: " + ", ".join(
            f"{name} rises from {now[name]:.4f} at a rate of {rise[name]:.3g}" for name in now))
    kind = {"KL(pi||ref)": pi * (pi / ref).log() - pi * now["KL(pi||ref)"], "KL(ref||pi)": pi - ref,
            "chi2(pi||ref)": pi * (pi / ref) - pi * float((pi * pi / ref).sum())}
    like = [name for name, exact in kind.items() if apart(exact / exact.norm(), expected / size) < 1e-9]
    if like == ["chi2(pi||ref)"]:
        return replace(wrong, message="the reference's pull is the gradient of chi2(pi||ref), not of a KL: the estimator's "
                       "log-ratio is taken the wrong way round (u is log ref - log pi)")
    return Found(note=f"the reference pulls along the gradient of {like[0]}" if like else "the reference pulls towards itself")


def _divergences(pi: Tensor, ref: Tensor) -> dict[str, float]:
    return {"KL(pi||ref)": float((pi * (pi / ref).log()).sum()), "KL(ref||pi)": float((ref * (ref / pi).log()).sum())}
