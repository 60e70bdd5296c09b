"""What docs/equations.md says of this project, topic by topic."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from objectives_support import group, ragged, rollout, turn

from groupwise.core.services import Sampling
from groupwise.errors import ObjectiveError
from groupwise.methods import METHODS
from groupwise.models.head import sampling_logp
from groupwise.objective import aggregate, correction, penalties, trust
from groupwise.objective.baselines import GroupMean, GroupStd, One
from groupwise.objective.batch import pack
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Live, Policy
from groupwise.run.assemble import method_of
from groupwise.run.settings import Run

PAGE = (Path(__file__).parent.parent / "docs" / "equations.md").read_text()


def default():
    run = Run()
    return method_of(run, 64)


def policy_of(name, **arguments):
    return next(t for t in METHODS[name](**arguments).objective.terms if isinstance(t, Policy))


def the_default():
    made, term = default().objective, default().objective.terms[0]
    assert Run().method == "dr_grpo"
    assert made.terms == (Policy(trust=trust.Clip(0.2, 0.2), aggregate=aggregate.Constant(64)),)
    assert (made.credit_by.baseline, made.credit_by.scale) == (GroupMean(), One())
    assert term.aggregate.length == 64


def std_of_a_group():
    assert METHODS["grpo"]().objective.credit_by.scale == GroupStd(eps=1e-6, ddof=1)
    groups = [group("a", *(rollout(r, turn((0,))) for r in (1.0, 0.0, 0.0, 0.0)))]
    got = METHODS["grpo"]().objective.credit(groups, pack(groups), {})["advantage"].values
    np.testing.assert_allclose(got, [1.5, -0.5, -0.5, -0.5], atol=1e-5)


def group_of_one():
    for name in METHODS:
        credit = METHODS[name](**({"max_tokens": 8} if name in ("dr_grpo", "dapo") else {})).objective.credit_by
        if getattr(getattr(credit, "baseline", None), "within_cells", False):
            assert credit.baseline.singleton == "zero"
    for rule in ("raw", "drop", "refuse"):
        assert GroupMean(singleton=rule).singleton == rule


def constant_of_dr_grpo():
    assert policy_of("dr_grpo", max_tokens=77).aggregate == aggregate.Constant(77)
    case = ragged(0)
    objective = METHODS["dr_grpo"](max_tokens=10).objective
    weights = objective.weigh(case.prepared(objective)).weights["policy"].values
    episodes = case.batch().layout.size("episode")
    assert float(weights.max()) == pytest.approx(1 / (10 * episodes))


def token_mean():
    case = ragged(0)
    objective = METHODS["dapo"](max_tokens=16).objective
    batch = case.prepared(objective)
    one = objective.weigh(batch).weights["policy"].values.max()
    two = objective.weigh(batch, lambda counts: 2 * counts).weights["policy"].values.max()  # as much again on another rank
    assert float(one) == pytest.approx(1 / int(batch.counted.sum()))
    assert float(two) == pytest.approx(float(one) / 2)


def masked_rows():
    case = ragged(0)
    assert case.masked.any()
    objective = METHODS["dapo"](max_tokens=16).objective
    batch = case.prepared(objective)
    assert int(batch.loss_mask.sum()) < int(batch.counted.sum())
    assert float(objective.weigh(batch).weights["policy"].values.max()) == pytest.approx(1 / int(batch.counted.sum()))
    live = Objective(objective.credit_by, (Policy(aggregate=aggregate.TokenMean(counted="live")),))
    assert float(live.weigh(batch).weights["policy"].values.max()) == pytest.approx(1 / int(batch.loss_mask.sum()))


def mismatch_correction():
    for name in METHODS:
        made = METHODS[name](**({"max_tokens": 8} if name in ("dr_grpo", "dapo") else {})).objective
        assert not made.correction.active
    assert {"Truncated", "Masked", "Rejected", "Normalised"} <= set(vars(correction))


def rloo_s_loss():
    term = policy_of("rloo")
    assert (term.trust, term.aggregate) == (trust.LogProb(), aggregate.SequenceSum())


def kl_in_the_loss():
    assert METHODS["grpo"]().objective.terms[1].estimator == "k3"
    for name in ("k2", "k3_weighted", "k3_held"):
        assert penalties.Kl(estimator=name).estimator == name
    assert penalties.Kl(straight_through=True).straight_through
    with pytest.raises(ObjectiveError, match="k1"):
        penalties.Kl(estimator="k1")


def bounds_of_cispo():
    assert policy_of("cispo").trust == trust.DetachClip(None, 4.0)
    assert float(trust.DetachClip()(torch.tensor([9.0]), torch.ones(1), torch.ones(1))) == 5.0


def dual_clip():
    assert all(getattr(policy_of(n, **k).trust, "dual", None) is None
               for n, k in (("grpo", {}), ("dr_grpo", {"max_tokens": 8}), ("dapo", {"max_tokens": 8}), ("gspo", {})))
    assert trust.Clip(dual=3.0).dual == 3.0
    assert trust.Clip(cap=2.0).cap == 2.0


def ratio_on_fresh_data():
    assert default().update.steps == 1
    case = ragged(0)
    objective = METHODS["grpo"](kl=0.0).objective
    batch = objective.weigh(case.prepared(objective, "self"))
    loss = objective.loss(Live(logp=case.table["logp"][batch.tokens]), batch)
    assert set(loss.seen[0].ratio[loss.seen[0].mask].tolist()) == {1.0}


def temperature_in_log_probs():
    logits = torch.randn(3, 7)
    got = sampling_logp(logits, Sampling(8, 0.5))
    torch.testing.assert_close(got, torch.log_softmax(logits / 0.5, -1))


CHECKS = {"default": the_default, "std of a group": std_of_a_group, "group of one": group_of_one,
          "constant of Dr. GRPO": constant_of_dr_grpo, "token mean": token_mean, "masked rows": masked_rows,
          "mismatch correction": mismatch_correction, "RLOO's loss": rloo_s_loss, "KL in the loss": kl_in_the_loss,
          "bounds of CISPO": bounds_of_cispo, "dual clip": dual_clip, "ratio on fresh data": ratio_on_fresh_data,
          "temperature in log-probs": temperature_in_log_probs}


@pytest.mark.parametrize("topic", CHECKS)
def test_our_cell(topic):
    CHECKS[topic]()


def test_every_topic_of_the_page_is_checked():
    table = PAGE.split("## The same topic in five systems")[1].split("## From TRL")[0]
    topics = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
    assert topics == list(CHECKS)


def test_methods_and_parts_that_the_page_names_exist():
    named = set(re.findall(r"--method (\w+)", PAGE))
    assert named
    assert named <= set(METHODS)
    listed = re.findall(r"`--method \w+`((?:, `\w+`)+)", PAGE)
    assert {name for some in listed for name in re.findall(r"\w+", some)} <= set(METHODS) | {"measure", "tv", "or", "kl"}
    known = {name for module in (aggregate, correction, penalties, trust) for name in vars(module)} | {
        "Policy", "OffPolicyRows", "Objective", "Method"}
    assert set(re.findall(r"`(?:\w+\()?([A-Z]\w+)\(", PAGE)) <= known
