"""verl's functions in our words. Settings are translated, never computed with."""

import re
from collections.abc import Mapping
from typing import Any

from groupwise.errors import ConfigError, nearest
from groupwise.lab.fixture import Case
from groupwise.objective.aggregate import Aggregate, Constant, MicroTokenMean, SequenceMean, SequenceSum, TokenMean, TokenSum
from groupwise.objective.baselines import (
    CellMean,
    GroupMean,
    GroupStd,
    LeaveOneOut,
    LengthMean,
    NoBaseline,
    NonZeroShare,
    One,
    Scale,
    SecondBest,
)
from groupwise.objective.correction import Correction, Masked, Normalised, Rejected, Truncated, Uncorrected
from groupwise.objective.credit import Advantage, Blend, Credit, Reward, RewardMinusGreedy, Whiten
from groupwise.objective.gates import ClipCov
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Kl, KlCov, LogRatio
from groupwise.objective.ratio import HeldSequenceRatio, SequenceRatio, SequenceTokenRatio, TokenRatio
from groupwise.objective.returns import Gae, OptimalTokenBaseline, Returns
from groupwise.objective.soft import Divergence, Sigmoid
from groupwise.objective.terms import Policy, Term, ValueLoss
from groupwise.objective.trust import Clip, DetachCap, DetachClip, LogProb, Unclipped

GIVEN = Advantage(baseline=NoBaseline())
"""The fixture's advantages come in as rewards, and this credit passes them on."""
LOSS = {"loss": "loss", "grad": "grad", "ddp_mean_grad": "grad", "micro_losses": "micro_losses"}
CREDIT = {"advantages": "column:advantage", "advantages_masked": "column:advantage", "returns_masked": "column:returns",
          "advantages_per_sequence": "row:advantage"}
LOCAL = "a mean over micro-batches of their own token means: a variant that depends on the cut"
Vector = Mapping[str, Any]
Fixture = Mapping[str, Any]


def adapt(vector: Vector, fixture: Fixture) -> Case | None:
    """The case of a vector that verl gave; None: it is of a function that has no composition (see `direct`)."""
    function, config = str(vector["function"]), vector["config"]
    if found := re.fullmatch(r"core_algos\[(\w+)\]", function):
        return _credit(found[1], config, fixture)
    if function == "compute_value_loss":
        return _value(config, fixture)
    if function == "kl_penalty":
        return _penalty(config["kl_penalty"])
    if function == "compute_rollout_correction_weights":
        return Case(Objective(GIVEN, (Policy(),), correction=_weights(config)), {"weights": "factor"})
    if function == "compute_rollout_rejection_mask":
        return Case(Objective(GIVEN, (Policy(),), screen=_screen(config)), {"mask": "counted_mask"})
    if function == "compute_policy_loss_reinforce":
        return Case(Objective(GIVEN, (Policy(trust=LogProb(), aggregate=_aggregate(vector, fixture)),),
                              correction=_written_weights(config["weights"])), LOSS)
    if "bypass_mode" in function:
        return _bypass(vector, fixture)
    if function.startswith("dp_actor.update_policy"):
        return Case(_loss("vanilla", vector, fixture, MicroTokenMean()), LOSS, parts=config["micro_batches"],
                    ranks=config["ranks"], note=LOCAL)
    if found := re.search(r"policy_loss\[(\w+)\]", function):
        return Case(_loss(found[1], vector, fixture), LOSS, masked=_masked(vector), parts=config.get("micro_batches", ()),
                    ranks=config.get("dp_size", 1))
    return None


def _credit(name: str, config: Vector, fixture: Fixture) -> Case:
    rewards, eps = config.get("rewards", fixture.get("rewards")), config.get("epsilon", 1e-6)
    raw = GroupMean(singleton="raw")
    if name == "gdpo":
        names = ("rewards", "rewards_2")
        parts = tuple((weight, Advantage(raw, GroupStd(eps), Reward(which)))
                      for weight, which in zip(config["weights"], names, strict=True))
        return Case(Objective(Blend(parts, whiten=Whiten()), (Policy(),)), CREDIT,
                    components={"rewards": rewards, "rewards_2": config["rewards_2"]})
    scale: Scale = GroupStd(eps) if config.get("norm_adv_by_std_in_grpo", True) else One()
    alone = "raw" if config.get("handle_zero_tail", False) else "zero"
    gamma, whiten = config.get("gamma", 1.0), Whiten() if config.get("whiten", True) else None
    credits: dict[str, Credit] = {
        "grpo": Advantage(raw, scale),
        "grpo_vectorized": Advantage(raw, scale),
        "grpo_passk": Advantage(SecondBest(singleton="refuse"), scale),
        "rloo": Advantage(LeaveOneOut(singleton="raw")),
        "rloo_vectorized": Advantage(LeaveOneOut()),
        "opo": Advantage(LengthMean(singleton="raw")),
        "gpg": Advantage(raw, NonZeroShare(config.get("f_norm", 1.0))),
        "max_rl": Advantage(scale=CellMean()),
        "reinforce_plus_plus": Returns(gamma, whiten=Whiten()),
        "reinforce_plus_plus_baseline": Advantage(raw, whiten=Whiten()),
        "remax": Advantage(NoBaseline(), signal=RewardMinusGreedy()),
        "gae": Gae(gamma, config.get("lam", 1.0), whiten=whiten),
        "optimal_token_baseline": OptimalTokenBaseline(alone),
        "otb": OptimalTokenBaseline(alone),
    }
    if name not in credits:
        raise ConfigError(f"no estimator {name!r} of verl's is known here; {nearest(name, credits)}")
    columns = {"sum_p2": config["sum_pi_squared"]} if "sum_pi_squared" in config else {}
    return Case(Objective(credits[name], (Policy(),)), CREDIT, rewards=rewards, columns=columns,
                greedy=config.get("reward_baselines(greedy rollout)", config.get("reward_baselines", ())))


def _aggregate(vector: Vector, fixture: Fixture, mode: str = "") -> Aggregate:
    config, width = vector["config"], len(fixture["response_mask"][0])
    given = config.get("loss_scale_factor", config.get("global_batch_info", {}).get("loss_scale_factor"))
    known = "all" if "global_batch_size" in config else "live"  # verl counts live rows where it has no global counts
    norm: Aggregate = Constant(given or width)
    if str(vector["implementation"]).startswith("volcengine/verl"):
        norm = TokenSum(given or width)  # the earlier one: no mean over the batch
    modes: dict[str, Aggregate] = {
        "token-mean": TokenMean(counted=known), "seq-mean-token-mean": SequenceMean(known), "seq-mean-token-sum": SequenceSum(),
        "seq-mean-token-sum-norm": norm, "token-sum": TokenSum()}
    wanted = mode or config.get("loss_agg_mode", "token-mean")
    if wanted not in modes:
        raise ConfigError(f"no aggregation {wanted!r} of verl's is known here; {nearest(wanted, modes)}")
    return modes[wanted]


def _loss(name: str, vector: Vector, fixture: Fixture, aggregate: Aggregate | None = None) -> Objective:
    config = vector["config"]
    low = config.get("clip_ratio_low", config.get("clip_ratio", 0.2))
    high = config.get("clip_ratio_high", config.get("clip_ratio", 0.2))
    rule, rows = aggregate or _aggregate(vector, fixture), SequenceMean("live")
    far = config.get("clip_ratio_c", 3.0)
    clip_cov = ClipCov(config.get("clip_cov_ratio", 2e-4), config.get("clip_cov_lb", 1.0), config.get("clip_cov_ub", 5.0))
    terms: dict[str, tuple[Term, ...]] = {
        "vanilla": (Policy(trust=Clip(low, high, dual=far), aggregate=rule),),
        "gspo": (Policy(ratio=SequenceTokenRatio(), trust=Clip(low, high), aggregate=rows),),
        "sapo": (Policy(trust=Sigmoid(config.get("tau_pos", 1.0), config.get("tau_neg", 1.05)), aggregate=rows),),
        "gpg": (Policy(trust=LogProb(), aggregate=rule),),
        "cispo": (Policy(trust=DetachClip(low, high), aggregate=rule),),
        "geo_mean": (Policy(ratio=HeldSequenceRatio(low, high), trust=Unclipped(), aggregate=SequenceMean()),),
        "dppo_tv": (Policy(trust=Divergence("tv", low, high, cap=far), aggregate=rule),),
        "dppo_kl": (Policy(trust=Divergence("kl", low, high, cap=far), aggregate=rule),),
        "dro": (Policy(trust=LogProb(), aggregate=rule), LogRatio(coef=config.get("dro_beta", 0.1))),
        "kl_cov": (Policy(trust=Unclipped(), aggregate=rule),
                   KlCov(coef=config.get("ppo_kl_coef", 1.0), share=config.get("kl_cov_ratio", 2e-4))),
        "clip_cov": (Policy(trust=Clip(low, high), aggregate=rule, gates=(clip_cov,)),),
    }
    if name not in terms:
        raise ConfigError(f"no policy loss {name!r} of verl's is known here; {nearest(name, terms)}")
    return Objective(GIVEN, terms[name], correction=_written_weights(str(vector.get("notes", ""))))


def _bypass(vector: Vector, fixture: Fixture) -> Case:
    """The ratio divides by the sampler; what is rejected is judged by the live weights: those of the first step's pre-pass."""
    config = vector["config"]
    if config["loss_type"] == "reinforce":
        ratio = TokenRatio() if config.get("rollout_is") == "token" else SequenceRatio(mean=False)
        policy = Policy(ratio=ratio, trust=DetachCap(config["rollout_is_threshold"]), aggregate=_aggregate(vector, fixture))
    else:
        policy = Policy(trust=Clip(dual=config.get("clip_ratio_c", 3.0)), aggregate=_aggregate(vector, fixture))
    return Case(Objective(GIVEN, (policy,), screen=_screen(config)), LOSS, behaviour="recorded",
                columns={"old_logp": fixture["new_logprobs"]},
                note="the rejection compares the live policy with the sampler: the first step, whose pre-pass is the live policy")


def _value(config: Vector, fixture: Fixture) -> Case:
    value = ValueLoss(clip=config["cliprange_value"], aggregate=TokenMean())
    outputs = {"loss": "loss", "grad_wrt_vpreds": "value_grad"}
    return Case(Objective(Gae(1.0, 0.95), (value,)), outputs, rewards=fixture["rewards"],
                columns={"live_values": config["vpreds"]}, note="the returns are those of GAE with lambda 0.95")


def _penalty(name: str) -> Case | None:
    plain = name.removesuffix("+")
    estimator = {"k3": "k3_held", "low_var_kl": "k3_held", "kl": "k1", "mse": "k2"}.get(plain, plain)
    if name == "k1":
        return None  # refused in a loss
    term = Kl(estimator=estimator, straight_through=name.endswith("+"), aggregate=TokenSum())
    return Case(Objective(GIVEN, (term,)), {"value_masked": "per_token", "grad_of_masked_sum": "grad"})


def _bounds(text: Any) -> list[float]:
    """Thresholds, which verl writes as one number or as "low_high"."""
    return [float(part) for part in str(text).split("_")]


def _weights(config: Vector) -> Correction:
    bounds, unit = _bounds(config["rollout_is_threshold"]), config["rollout_is"]
    inner = Truncated(bounds[0], unit) if len(bounds) == 1 else Masked(bounds[0], bounds[1], unit)
    return Normalised(inner) if config.get("batch_normalize") else inner


def _screen(config: Vector) -> tuple[Rejected, ...]:
    bounds, option = _bounds(config["rollout_rs_threshold"]), str(config["rollout_rs"])
    unit, _, statistic = option.rpartition("_")
    over = {"token": "token", "seq_sum": "sum", "seq_mean": "mean", "seq_max": "max"}[unit]
    if statistic == "k1":  # bounds the inverse ratio
        low, high = bounds
        return (Rejected("inverse", over, low, high),)
    return (Rejected(statistic, over, None, max(bounds)),)


def _written_weights(text: str) -> Correction:
    """Weights given to a loss, as vectors describe them: min(exp(old-rollout), C), or with a sum inside."""
    found = re.search(r"min\(exp\((sum\()?old-rollout\)+, ?([\d.]+)\)", text)
    return Truncated(float(found[2]), "sequence" if found[1] else "token") if found else Uncorrected()


def _masked(vector: Vector) -> list[int]:
    """Rows that are masked altogether: a setting, or a remark."""
    remark = re.search(r"rows ([\d, and]+) fully masked", str(vector.get("notes", "")))
    return list(vector["config"].get("fully_masked_rows", map(int, re.findall(r"\d+", remark[1])) if remark else ()))
