"""TRL's settings in our words. Settings are translated, never computed with."""

from collections.abc import Mapping
from typing import Any

from groupwise.errors import ConfigError, nearest
from groupwise.lab.adapters.verl import CREDIT, GIVEN, LOCAL, LOSS
from groupwise.lab.fixture import Case
from groupwise.objective.aggregate import Aggregate, Constant, MicroTokenMean, SequenceMean, SequenceSum, TokenMean
from groupwise.objective.baselines import BatchStd, GroupStd, LeaveOneOut, One, Scale
from groupwise.objective.correction import Correction, Masked, Truncated, Uncorrected
from groupwise.objective.credit import Advantage, Blend, Reward, Whiten
from groupwise.objective.gates import Gate, OffPolicyRows, TopEntropy
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Kl
from groupwise.objective.ratio import HeldSequenceRatio, Ratio, SequenceRatio, SequenceTokenRatio, TokenRatio
from groupwise.objective.soft import GammaWeight, Sigmoid
from groupwise.objective.terms import Policy, Term
from groupwise.objective.trust import Clip, DetachCap, Trust, Unclipped

EPS = 1e-4
"""What TRL adds to a std."""


def adapt(vector: Mapping[str, Any], fixture: Mapping[str, Any]) -> Case | None:
    """The case of a vector that TRL gave; None: it is of a function that has no composition (see `direct`)."""
    function, config = str(vector["function"]), vector["config"]
    if function.endswith("_generate_and_score_completions"):
        return _scored(config, fixture)
    if function.startswith("RLOOTrainer"):
        policy = Policy(ratio=SequenceRatio(mean=False), trust=_clip(config), aggregate=SequenceMean())
        return Case(Objective(Advantage(LeaveOneOut()), (policy,)), {**LOSS, **CREDIT}, rewards=fixture["rewards"])
    if "gmpo" in function:
        held = config.get("epsilon_log", 0.4)
        policy = Policy(ratio=HeldSequenceRatio(held, held), trust=Unclipped(), aggregate=SequenceMean(), corrected="none")
        return Case(Objective(GIVEN, (policy,)), LOSS)
    if function.endswith("_compute_loss"):
        return _loss(config)
    return None


def _scored(config: Mapping[str, Any], fixture: Mapping[str, Any]) -> Case:
    """Advantages, masks and the factors of the mismatch: what TRL makes before the loss."""
    scales: dict[str, Scale] = {"group": GroupStd(EPS), "none": One(), "batch": BatchStd(EPS)}
    credit: Advantage | Blend = Advantage(scale=scales[str(config.get("scale_rewards", "group"))])
    components: dict[str, Any] = {}
    if "rewards_2" in config:
        components = {"rewards": fixture["rewards"], "rewards_2": config["rewards_2"]}
        parts = tuple((weight, Advantage(scale=GroupStd(EPS), signal=Reward(name)))
                      for name, weight in zip(components, config["weights"], strict=True))
        credit = Blend(parts, whiten=Whiten(over="unit", eps=EPS, place="std"))
    silent = config.get("unscorable_rows", ())
    rewards = [None if row in silent else reward for row, reward in enumerate(fixture["rewards"])]
    counted = "live" if config.get("mask_truncated_completions") else "all"
    policy = Policy(aggregate=TokenMean(counted=counted))
    outputs = {**CREDIT, "importance_sampling_ratio": "factor", "completion_mask": "loss_mask", "num_items_in_batch": "tokens"}
    return Case(Objective(credit, (policy,), correction=_correction(config)), outputs, rewards=rewards, components=components,
                masked=config.get("truncated_rows", ()))


def _loss(config: Mapping[str, Any]) -> Case:
    kind = str(config.get("loss_type", "grpo"))
    rules: dict[str, Aggregate] = {
        "grpo": SequenceMean(), "sapo": SequenceMean(), "bnpo": MicroTokenMean(), "dapo": TokenMean(), "cispo": TokenMean(),
        "vespo": TokenMean(), "luspo": SequenceSum(), "dr_grpo": Constant(config.get("max_completion_length", 256))}
    if kind not in rules:
        raise ConfigError(f"no loss_type {kind!r} of TRL's is known here; {nearest(kind, rules)}")
    ratios: dict[str, Ratio] = {"token": TokenRatio(), "sequence": SequenceRatio(), "sequence_token": SequenceTokenRatio()}
    trusts: dict[str, Trust] = {
        "cispo": DetachCap(config.get("epsilon_high", config.get("epsilon", 0.2)), below_one=True),
        "sapo": Sigmoid(config.get("tau_pos", 1.0), config.get("tau_neg", 1.05)),
        "vespo": GammaWeight(config.get("k_pos", 2.0), config.get("lambda_pos", 3.0), config.get("k_neg", 3.0),
                             config.get("lambda_neg", 2.0))}
    whole = kind == "vespo"
    ratio = SequenceRatio(mean=False) if whole else ratios[str(config.get("importance_sampling_level", "token"))]
    policy = Policy(ratio=ratio, trust=trusts.get(kind, _clip(config)), aggregate=rules[kind], gates=_gates(config),
                    corrected="inside" if whole else "outside")
    fresh = "old_per_token_logps" in config and config["old_per_token_logps"] is None
    return Case(Objective(GIVEN, (policy, *_kl(config)), correction=_correction(config)), LOSS,
                masked=config.get("fully_masked_rows", ()), behaviour="self" if fresh else "old",
                parts=config.get("micro_batches", ()), ranks=config.get("ranks", 1),
                note=LOCAL if kind == "bnpo" else "")


def _clip(config: Mapping[str, Any]) -> Clip:
    low = config.get("epsilon", 0.2)
    return Clip(low, config.get("epsilon_high", low), cap=config.get("delta"))


def _kl(config: Mapping[str, Any]) -> tuple[Term, ...]:
    if not config.get("beta"):
        return ()
    return (Kl(coef=config["beta"], estimator="k3_weighted" if config.get("use_bias_correction_kl", True) else "k3"),)


def _gates(config: Mapping[str, Any]) -> tuple[Gate, ...]:
    share, delta = config.get("top_entropy_quantile", 1.0), config.get("off_policy_mask_threshold")
    by_entropy = (TopEntropy(share),) if share < 1 else ()
    by_row = (OffPolicyRows(delta, "engine_logp"),) if delta is not None else ()
    return (*by_entropy, *by_row)


def _correction(config: Mapping[str, Any]) -> Correction:
    mode = config.get("vllm_importance_sampling_mode")
    if mode is None:
        return Uncorrected()
    unit, _, how = str(mode).partition("_")
    low, high = config.get("clip", (config.get("clip_min"), config.get("clip_max", 3.0)))
    return Truncated(high, unit, floor=low) if how == "truncate" else Masked(low or 0.0, high, unit)
