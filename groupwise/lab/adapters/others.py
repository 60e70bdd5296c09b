"""OpenRLHF, slime, oat and prime-rl in our words, and vectors that were written from equations."""

from collections.abc import Mapping
from typing import Any

from groupwise.errors import ConfigError, nearest
from groupwise.lab.adapters.verl import CREDIT, GIVEN, LOSS
from groupwise.lab.fixture import Case
from groupwise.objective.aggregate import Aggregate, Constant, SequenceMean, SequenceSum, TokenMean
from groupwise.objective.baselines import BatchMean, CellMean, GroupMean, GroupStd
from groupwise.objective.correction import Correction, Masked, Rejected, Truncated, Uncorrected
from groupwise.objective.credit import Advantage, Whiten
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import LogRatio
from groupwise.objective.ratio import Ratio, SequenceRatio, TokenRatio
from groupwise.objective.soft import Divergence, Shaped
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip, DetachClip, LogProb, Trust

Vector = Mapping[str, Any]
Fixture = Mapping[str, Any]


def openrlhf(vector: Vector, fixture: Fixture) -> Case | None:
    """OpenRLHF's PolicyLoss."""
    config = vector["config"]
    if "PolicyLoss" not in str(vector["function"]):
        return None
    gspo, fixing = config.get("policy_loss_type") == "gspo", config.get("enable_vllm_is_correction", False)
    tokens = config.get("token_level_loss", True) and not gspo
    clip = Clip(config.get("clip_eps_low", 0.2), config.get("clip_eps_high", 0.2), dual=config.get("dual_clip"))
    correction: Correction = Uncorrected()
    if fixing and not gspo:
        low, high = config["vllm_is_truncated_threshold"]
        corrections: dict[str, Correction] = {
            "tis": Truncated(high, floor=low), "icepop": Masked(low, high),
            "seq-mask-tis": Rejected("ratio", "mean", low, high, weight=Truncated(float("inf")))}
        correction = corrections[config.get("vllm_is_correction_type", "tis")]
    ratio: Ratio = SequenceRatio() if gspo else TokenRatio()
    rule: Aggregate = TokenMean() if tokens else SequenceMean("live")
    return Case(Objective(GIVEN, (Policy(ratio=ratio, trust=clip, aggregate=rule),), correction=correction), LOSS,
                behaviour="recorded" if gspo and fixing else "old")


def slime(vector: Vector, fixture: Fixture) -> Case | None:
    """Slime's losses (means over samples of their own means) and its factors of the mismatch."""
    function, config = str(vector["function"]), vector["config"]
    if "compute_mis_weights" in function:
        return _mis(config)
    low, high = config.get("eps_clip", 0.2), config.get("eps_clip_high", config.get("eps_clip", 0.2))
    trusts: dict[str, Trust] = {"compute_policy_loss": Clip(low, high, dual=config.get("eps_clip_c")),
                                "compute_cispo_loss": DetachClip(low, high), "gspo_kl+policy_loss": Clip(low, high)}
    if function not in trusts:
        return None
    ratio: Ratio = SequenceRatio() if function.startswith("gspo") else TokenRatio()
    return Case(Objective(GIVEN, (Policy(ratio=ratio, trust=trusts[function], aggregate=SequenceMean("live")),)), LOSS)


def _mis(config: Vector) -> Case:
    """Levels token, sequence and geometric; "mask" leaves the weight as it is and takes tokens out of the mask."""
    low, high = config["bounds"]
    level, mode = str(config["tis_level"]), str(config["tis_mode"])
    over = {"token": "token", "sequence": "sum", "geometric": "mean"}[level]
    bounds = {"truncate": (high, None), "clip": (high, low), "mask": (float("inf"), None)}[mode]
    correction = Truncated(bounds[0], "token" if level == "token" else "sequence", bounds[1], mean=level == "geometric")
    screen = (Rejected("ratio", over, low, high),) if mode == "mask" else ()
    return Case(Objective(GIVEN, (Policy(),), correction=correction, screen=screen),
                {"weights": "factor", "modified_mask": "counted_mask"})


def oat(vector: Vector, fixture: Fixture) -> Case | None:
    """Oat's PPO learner, with its group credit."""
    config = vector["config"]
    low = config.get("cliprange", 0.2)
    by_std = config["critic_type"] == "grpo"
    credit = Advantage(scale=GroupStd(1e-8)) if by_std else Advantage()
    rule: Aggregate = SequenceMean() if by_std else Constant(config["generate_max_length"])
    correction = Truncated(config["tis_c"]) if config.get("tis_c") else Uncorrected()
    return Case(Objective(credit, (Policy(trust=Clip(low, low), aggregate=rule),), correction=correction), {**LOSS, **CREDIT},
                rewards=fixture["rewards"])


def prime_rl(vector: Vector, fixture: Fixture) -> Case | None:
    """prime-rl's default loss: the ratio itself is differentiated, and every token is pulled towards the sampler."""
    config = vector["config"]
    trust = Divergence("tv", config["dppo_mask_low"], config["dppo_mask_high"], cap=None, detach=False)
    policy = Policy(trust=trust, coef=config.get("adv_tau", 1.0), aggregate=TokenMean())
    pull = LogRatio(coef=config["kl_tau"], against="engine_logp", half=False)
    return Case(Objective(GIVEN, (policy, pull)), LOSS, behaviour="recorded")


def equation(vector: Vector, fixture: Fixture) -> Case | None:
    """Vectors without a reference implementation, by the second word of their names."""
    config, name = vector["config"], str(vector["id"]).split(".")[1]
    if name in ("soft_overlong", "pass_at_k"):
        return None
    reinforce = Policy(trust=LogProb(), aggregate=SequenceSum())
    mirror = LogRatio(coef=config.get("tau", 0.1), unit="sequence", aggregate=SequenceMean())
    traces = Policy(trust=Clip(0.2, 0.2), elsewhere=Shaped(config.get("gamma", 0.1)), aggregate=TokenMean())
    whole = Whiten(ddof=0, place="floor")
    objectives = {
        "reinforce_batch_baseline": Objective(Advantage(BatchMean()), (reinforce,)),
        "reinforce_baseline": Objective(Advantage(GroupMean(singleton="raw"), whiten=whole), (Policy(),)),
        "max_rl": Objective(Advantage(scale=CellMean()), (Policy(),)),
        "luffy": Objective(GIVEN, (traces,)),
        "kimi_k1": Objective(Advantage(), (reinforce, mirror)),
    }
    if name not in objectives:
        raise ConfigError(f"no equation {name!r} is known here; {nearest(name, objectives)}")
    return Case(objectives[name], {**LOSS, **CREDIT}, rewards=None if name == "luffy" else fixture["rewards"],
                unknown=config.get("off_policy_rows", ()))
