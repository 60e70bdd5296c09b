"""The parts of an objective: the hash that names them, corrections, KL estimators, trust rules."""

import functools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from objectives_support import (
    FIVE,
    MAX_TOKENS,
    OBJECTIVES,
    RAW,
    TWO,
    VARIANTS,
    group,
    objective,
    ragged,
    rollout,
    run,
    tensor,
    turn,
    weighed,
    whole,
)

from groupwise.core.rollout import Span
from groupwise.errors import ObjectiveError
from groupwise.methods import METHODS
from groupwise.objective.aggregate import SequenceSum, TokenMean
from groupwise.objective.batch import pack
from groupwise.objective.correction import Masked, Truncated, Uncorrected
from groupwise.objective.objective import Objective, describe
from groupwise.objective.penalties import Kl
from groupwise.objective.ratio import SequenceRatio
from groupwise.objective.terms import Live, Policy
from groupwise.objective.trust import Clip, DetachClip, LogProb, Unclipped

# the hash


def test_equal_compositions_have_equal_hashes_here_and_in_another_process():
    for name, method in METHODS.items():
        given = {"max_tokens": MAX_TOKENS} if name in ("dr_grpo", "dapo") else {}
        assert method(**given).objective.hash == (VARIANTS[name] if name in VARIANTS else method(**given)).objective.hash
    program = "from groupwise.methods import METHODS; print(METHODS['grpo']().objective.hash)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == OBJECTIVES["grpo"].hash


def test_the_hash_tells_all_variants_apart():
    assert len({o.hash for o in OBJECTIVES.values()}) == len(OBJECTIVES)


def changes():
    """Every number of some compositions, changed one at a time."""
    yield "clip_low", METHODS["grpo"](clip_low=0.21)
    yield "clip_high", METHODS["grpo"](clip_high=0.2000001)
    yield "kl", METHODS["grpo"](kl=0.05)
    yield "estimator", METHODS["grpo"](kl_estimator="k2")
    yield "no kl", METHODS["grpo"](kl=0.0)
    base = METHODS["grpo"]()
    made = base.objective
    policy, kl = made.terms
    for name, other in {
        "eps": replace(made, credit_by=replace(made.credit_by, scale=replace(made.credit_by.scale, eps=1e-4))),
        "ddof": replace(made, credit_by=replace(made.credit_by, scale=replace(made.credit_by.scale, ddof=0))),
        "singleton": replace(made, credit_by=replace(made.credit_by, baseline=replace(made.credit_by.baseline, singleton="raw"))),
        "key": replace(made, credit_by=replace(made.credit_by, key="role")),
        "transform": replace(made, credit_by=replace(made.credit_by, transform=np.tanh)),
        "another transform": replace(made, credit_by=replace(made.credit_by, transform=np.sign)),
        "clipped": replace(made, credit_by=replace(made.credit_by, transform=functools.partial(np.clip, a_min=-1, a_max=1))),
        "wider": replace(made, credit_by=replace(made.credit_by, transform=functools.partial(np.clip, a_min=-1, a_max=2))),
        "dual": replace(made, terms=(replace(policy, trust=replace(policy.trust, dual=3.0)), kl)),
        "coef": replace(made, terms=(replace(policy, coef=2.0), kl)),
        "aggregate": replace(made, terms=(replace(policy, aggregate=TokenMean()), kl)),
        "within": replace(made, terms=(replace(policy, aggregate=TokenMean("group")), kl)),
        "ratio": replace(made, terms=(replace(policy, ratio=SequenceRatio()), kl)),
        "correction": replace(made, correction=Truncated(2.0)),
        "cap": replace(made, correction=Truncated(3.0)),
    }.items():
        yield name, replace(base, objective=other)


def test_the_hash_changes_with_any_number():
    found = {"grpo": OBJECTIVES["grpo"].hash} | {name: method.objective.hash for name, method in changes()}
    assert len(set(found.values())) == len(found)


def test_the_hash_changes_with_nothing_else():
    base = METHODS["dapo"](max_tokens=32)
    assert replace(base, refill=None, admit=(), shape=()).objective.hash == base.objective.hash
    assert METHODS["cispo"](clip_high=4).objective.hash == METHODS["cispo"](clip_high=4.0).objective.hash
    a, b = (replace(Policy(), needs=frozenset(x)) for x in (["old", "ref", "values"], ["values", "ref", "old"]))
    assert objective(a).hash == objective(b).hash
    assert Objective(RAW, (Policy(),), Uncorrected()).hash == objective(Policy()).hash


def test_a_description_says_every_number():
    assert describe(Clip(0.2, 0.28)) == "Clip(low=0.2, high=0.28, dual=None, cap=None)"
    assert describe((1.0, "a", None, True, float("inf"))) == "(1, 'a', None, True, inf)"
    assert describe(np.tanh) == "numpy.tanh"


@pytest.mark.parametrize("nameless", [lambda v: 2 * v, functools.partial(lambda v, k: k * v, k=3), object().__repr__])
def test_what_has_no_name_has_no_hash(nameless):
    with pytest.raises(ObjectiveError, match="no name"):
        describe(nameless)


# corrections


def corrected(correction, gap, default="self", groups=TWO, policy=None):
    """(Loss, gradient, batch): the engine's log-probs lie `gap` below those of the weights that sampled."""
    case = [group(g.key, *g.rollouts) for g in groups]
    made = objective(policy or Policy(aggregate=SequenceSum()), correction=correction)
    columns = {"engine_logp": tensor(FIVE) - tensor(gap), "old_logp": tensor(FIVE)}
    batch = weighed(made, case, columns, default=default)
    return *run(made, batch, FIVE), batch


GAP = np.log([1.5, 3.0, 0.2, 1.1, 0.4])


@pytest.mark.parametrize("default", ["self", "old"])
@pytest.mark.parametrize(("correction", "expected"), [
    (Uncorrected(), [1, 1, 1, 1, 1]),
    (Truncated(2.0), [1.5, 2.0, 0.2, 1.1, 0.4]),
    (Masked(0.5, 2.0), [1.5, 0.0, 0.0, 1.1, 0.0]),
    (Truncated(0.8, unit="sequence"), [0.8, 0.8, 0.8, 0.44, 0.44]),
    (Masked(0.5, 2.0, unit="sequence"), [0.9, 0.9, 0.9, 0.0, 0.0]),
])
def test_a_correction_multiplies_the_policy_term_once(correction, expected, default):
    loss, gradient, batch = corrected(correction, GAP, default)
    np.testing.assert_allclose(loss.correction, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, -np.array(expected) * batch.column("advantage").numpy() / 2, rtol=1e-12)
    assert not loss.correction.requires_grad


def test_a_correction_does_not_move_with_the_live_policy_under_old():
    made = objective(Policy(), correction=Truncated(10.0))
    batch = weighed(made, TWO, {"engine_logp": tensor(FIVE) - tensor(GAP), "old_logp": tensor(FIVE)}, default="old")
    moved, _ = run(made, batch, [x + 0.7 for x in FIVE])
    np.testing.assert_allclose(moved.correction, np.exp(GAP))


def test_a_correction_leaves_the_other_terms_alone():
    made = objective(Policy(aggregate=SequenceSum()), Kl(coef=1.0, estimator="k2"), correction=Truncated(2.0))
    columns = {"engine_logp": tensor(FIVE) - tensor(GAP), "ref_logp": tensor(FIVE) + 0.1}
    _, gradient = run(made, weighed(made, TWO, columns), FIVE)
    expected = -np.array([1.5, 2.0, 0.2, 1.1, 0.4]) * [1, 1, 1, -2, -2] / 2 - 0.1 / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)


@pytest.mark.parametrize("correction", [Truncated(2.0), Masked(), Truncated(unit="sequence"), Masked(unit="sequence")])
def test_recorded_tokens_are_not_corrected_twice(correction):
    engine = [x - 0.2 for x in FIVE]
    groups = [group("g", rollout(1.0, turn((0, 1, 2), engine[:3], spans=(Span(0, 3, behaviour="recorded"),))),
                    rollout(-2.0, turn((3, 4), engine[3:], spans=(Span(0, 1, behaviour="recorded"), Span(1, 2)))))]
    made = objective(Policy(trust=Unclipped(), aggregate=SequenceSum()), correction=correction)
    loss, gradient = run(made, weighed(made, groups), FIVE)
    ratio = np.exp(0.2)
    assert loss.seen[0].ratio.tolist() == pytest.approx([ratio] * 4 + [1.0])
    factor = [1.0] * 3 + ([1.0, ratio] if correction.unit == "token" else [ratio, ratio])
    np.testing.assert_allclose(loss.correction, factor)
    np.testing.assert_allclose(gradient, -np.array(factor) * [ratio, ratio, ratio, -2 * ratio, -2] / 2)


def test_tokens_that_no_engine_sampled_are_not_corrected():
    loss, _, _ = corrected(Truncated(2.0), [*GAP[:3], np.nan, np.nan])
    np.testing.assert_allclose(loss.correction, [1.5, 2.0, 0.2, 1.0, 1.0])


# KL estimators


@pytest.mark.parametrize(("estimator", "target"), [
    ("k2", "reverse"), ("k3", "forward"), ("k1", "zero"), ("k3_weighted", "reverse"),
])
def test_the_expected_gradients_of_the_kl_estimators(estimator, target):
    """Over a vocabulary of four tokens that can be summed out: each token is one sample, weighed by its probability."""
    logits, ref = tensor([0.3, -0.8, 1.1, 0.2]).requires_grad_(), torch.log_softmax(tensor([-0.4, 0.5, 0.3, 0.9]), 0)
    logp = torch.log_softmax(logits, 0)
    if estimator == "k1":  # refused as a term: its expectation says why
        losses = logp - ref
    else:
        groups = [group("g", *(rollout(1.0, turn((t,))) for t in range(4)))]
        term = Kl(estimator=estimator, aggregate=SequenceSum())
        batch = weighed(objective(term), groups, {"ref_logp": ref})
        losses = term.losses(Live(logp=logp), batch, batch.loss_mask, torch.ones(4, dtype=torch.float64))
    found, = torch.autograd.grad((logp.exp().detach() * losses).sum(), logits, retain_graph=True)
    reverse, forward = (logp.exp() * (logp - ref)).sum(), (ref.exp() * (ref - logp)).sum()
    expected = {"reverse": torch.autograd.grad(reverse, logits, retain_graph=True)[0],
                "forward": torch.autograd.grad(forward, logits, retain_graph=True)[0], "zero": torch.zeros(4)}
    np.testing.assert_allclose(found, expected[target], atol=1e-14)
    if estimator in ("k3", "k3_weighted"):  # the value is unbiased
        assert (logp.exp() * losses).sum().item() == pytest.approx(reverse.item())


def test_the_weighted_estimator_is_unbiased_off_policy_too():
    """Samples of an older policy: its own expectation, but the gradient of the reverse KL of the live one."""
    logits, old = tensor([0.3, -0.8, 1.1, 0.2]).requires_grad_(), torch.log_softmax(tensor([0.1, 0.2, 0.3, -0.4]), 0)
    ref, logp = torch.log_softmax(tensor([-0.4, 0.5, 0.3, 0.9]), 0), torch.log_softmax(logits, 0)
    term = Kl(estimator="k3_weighted", aggregate=SequenceSum())
    groups = [group("g", *(rollout(1.0, turn((t,))) for t in range(4)))]
    batch = weighed(objective(term), groups, {"ref_logp": ref, "old_logp": old}, default="old")
    losses = term.losses(Live(logp=logp), batch, batch.loss_mask, torch.ones(4, dtype=torch.float64))
    found, = torch.autograd.grad((old.exp() * losses).sum(), logits, retain_graph=True)
    expected, = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits)
    np.testing.assert_allclose(found, expected, atol=1e-14)


# trust


@pytest.mark.parametrize("trust", [
    Clip(0.2, 0.28), Clip(0.2, 0.2, dual=3.0), DetachClip(0.2, 0.2), DetachClip(), LogProb(), Unclipped(),
])
def test_stopped_is_where_the_gradient_is_zero_although_the_advantage_is_not(trust):
    rho = tensor(np.concatenate([np.linspace(0.05, 6.0, 60)] * 3)).requires_grad_()
    advantage = tensor(np.repeat([1.0, -1.0, 0.0], 60))
    logp = rho.log()
    slope, = torch.autograd.grad(trust(rho, advantage, logp).sum(), rho)
    assert trust.stopped(rho, advantage, logp).tolist() == ((slope == 0) & (advantage != 0)).tolist()


def test_single_precision_batches_train_in_single_precision():
    case = ragged(0)
    made = OBJECTIVES["grpo"]
    batch = pack(case.groups, default="old")
    needed = {name: case.table[name].float()[batch.tokens] for name in ("old_logp", "ref_logp")}
    batch = made.weigh(batch.with_columns(needed, made.credit(case.groups, batch, needed)))
    leaf = case.table["logp"].float().requires_grad_()
    loss = made.loss(Live(logp=leaf[batch.tokens]), batch)
    loss.value.backward()
    assert loss.value.dtype == torch.float32
    np.testing.assert_allclose(leaf.grad, whole(made, case)[1], atol=1e-6)
