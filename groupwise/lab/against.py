"""Golden vectors run on an installed TRL: does it still compute what it did? For other projects as much as for this one.

TRL's own loss is called with a stand-in for its trainer, whose model gives the fixture's log-probs. Vectors of its advantages
need a whole trainer and are left out, as are those of other frameworks.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupwise.errors import ConfigError
from groupwise.lab.conformance import Row, distance, tolerance

LOSS = "GRPOTrainer._compute_loss"


def against(name: str, data: Mapping[str, Any], only: str = "") -> list[Row]:
    """A row for every vector of its loss; ConfigError: the framework is unknown or not installed."""
    if name != "trl":
        raise ConfigError(f"--against {name!r} is not known; valid: trl")
    try:
        from trl import GRPOTrainer, __version__  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ConfigError(f"--against trl needs TRL here: pip install trl ({error})") from error
    rows = []
    for vector in data["vectors"]:
        if vector["function"] == LOSS and "trl" in vector["implementation"] and only in vector["id"]:
            rows.append(_one(GRPOTrainer, __version__, vector, data["fixtures"][vector.get("fixture", "main")]))
    return rows


def _one(trainer: Any, version: str, vector: Mapping[str, Any], fixture: Mapping[str, Any]) -> Row:
    limit, objective = tolerance(vector), f"trl {version} {vector['config']}"
    try:
        got = _losses(trainer, vector["config"], fixture)
    except (AttributeError, KeyError, TypeError) as error:  # another version of it may want another stand-in
        return Row(vector["id"], "error", float("nan"), limit, "trl", objective, note=f"{type(error).__name__}: {error}")
    mask = np.array(fixture["response_mask"]) > 0
    errors = {key: distance(got[key], wanted, mask) for key, wanted in vector["expected"].items() if key in got}
    worst = max(errors.values())
    return Row(vector["id"], "pass" if worst <= limit else "fail", worst, limit, "trl", objective, compared=errors)


def _losses(trainer: Any, config: Mapping[str, Any], fixture: Mapping[str, Any]) -> dict[str, Any]:
    """Loss and gradient by TRL's function, over ranks and micro-batches if the vector has them."""
    mask = _tensor(fixture["response_mask"])
    for row in config.get("fully_masked_rows", ()):
        mask[row] = 0.0
    logp = _tensor(fixture["new_logprobs"]).requires_grad_()
    ranks, parts = config.get("ranks", 1), config.get("micro_batches", [list(range(len(mask)))])
    inputs = _inputs(config, fixture, mask)
    losses = []
    for rows in parts:
        stand_in = _stand_in(trainer, config, logp[rows], _tensor(fixture["entropies"])[rows], ranks, len(parts) // ranks)
        losses.append(stand_in._compute_loss(None, {name: x if x.dim() == 0 else x[rows] for name, x in inputs.items()}))
    torch.autograd.backward(sum(losses) / ranks)
    assert logp.grad is not None
    gradient = logp.grad.numpy()
    return {"loss": float(sum(loss.detach() for loss in losses)), "grad": gradient, "ddp_mean_grad": gradient,
            "micro_losses": [float(loss.detach()) for loss in losses]}


def _inputs(config: Mapping[str, Any], fixture: Mapping[str, Any], mask: Tensor) -> dict[str, Tensor]:
    """What TRL's loss is given, besides the model."""
    old, engine = _tensor(fixture["old_logprobs"]), _tensor(fixture["rollout_logprobs"])
    zeros = torch.zeros(mask.shape, dtype=torch.long)
    out = {"prompt_ids": zeros[:, :1], "prompt_mask": zeros[:, :1] + 1, "completion_ids": zeros, "completion_mask": mask,
           "advantages": _tensor(fixture["advantages"]), "ref_per_token_logps": _tensor(fixture["ref_logprobs"]),
           "sampling_per_token_logps": engine, "num_items_in_batch": mask.sum()}
    if config.get("old_per_token_logps", "given") is not None:
        out["old_per_token_logps"] = old
    if "clip" in config:
        out["importance_sampling_ratio"] = ((old - engine) * mask).exp().clamp(*config["clip"])
    return out


def _stand_in(trainer: Any, config: Mapping[str, Any], logp: Tensor, entropy: Tensor, ranks: int, window: int) -> Any:
    """A trainer with no model: the attributes that the loss reads."""
    low = config.get("epsilon", 0.2)
    args = SimpleNamespace(
        use_bias_correction_kl=config.get("use_bias_correction_kl", True), delta=config.get("delta"), steps_per_generation=window,
        sapo_temperature_pos=config.get("tau_pos", 1.0), sapo_temperature_neg=config.get("tau_neg", 1.05),
        vespo_k_pos=config.get("k_pos", 2.0), vespo_lambda_pos=config.get("lambda_pos", 3.0),
        vespo_k_neg=config.get("k_neg", 3.0), vespo_lambda_neg=config.get("lambda_neg", 2.0))
    found = object.__new__(trainer)
    found.__dict__.update(
        args=args, model=SimpleNamespace(training=True), loss_type=config.get("loss_type", "grpo"), beta=config.get("beta", 0.0),
        epsilon_low=low, epsilon_high=config.get("epsilon_high", low), aux_loss_enabled=False, _entropy_bonus_enabled=False,
        importance_sampling_level=config.get("importance_sampling_level", "token"), use_adaptive_entropy=False,
        top_entropy_quantile=config.get("top_entropy_quantile", 1.0), use_vllm="clip" in config,
        vllm_importance_sampling_correction="clip" in config, max_completion_length=config.get("max_completion_length", 256),
        off_policy_mask_threshold=config.get("off_policy_mask_threshold"), current_gradient_accumulation_steps=window,
        _metrics=defaultdict(lambda: defaultdict(list)), accelerator=_Alone(ranks),
        _get_per_token_logps_and_entropies=lambda *args, **more: (logp, entropy, None))
    return found


class _Alone:
    """What the loss asks of accelerate: one process, which may be told that there are more."""

    def __init__(self, ranks: int) -> None:
        self.num_processes, self.sync_gradients, self.is_main_process = ranks, True, True

    def gather(self, x: Tensor) -> Tensor:
        """Its own."""
        return x

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        """Its own."""
        return x

    def pad_across_processes(self, x: Tensor, dim: int = 0, pad_index: float = 0.0) -> Tensor:
        """Nothing to pad to."""
        return x


def _tensor(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
