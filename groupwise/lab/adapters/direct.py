"""What a vector asks of one of our functions alone, without an objective around it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from groupwise.errors import ConfigError
from groupwise.lab.adapters.verl import GIVEN
from groupwise.lab.fixture import Case, Table
from groupwise.objective.gates import OffPolicyRows, Sight
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import ESTIMATORS
from groupwise.objective.soft import Divergence
from groupwise.objective.terms import Policy
from groupwise.run.evaluate import pass_at_k
from groupwise.verify.shaping import soft_overlong

Outputs = dict[str, Any]


@dataclass(frozen=True)
class Direct:
    """The part that is asked, what it answers, and why it is not asked through an objective."""

    part: str
    reason: str
    call: Callable[[], Outputs]


def direct(vector: Mapping[str, Any], fixture: Mapping[str, Any]) -> Direct:
    """The function that a vector is about. ConfigError: none is known."""
    function, config, name = str(vector["function"]), vector["config"], str(vector["id"]).split(".")[1]
    if function == "kl_penalty":
        return Direct("k1", "k1 in a loss is refused: it has no gradient in expectation", lambda: _penalty(config, fixture))
    if "divergence_mask" in function:
        trust = Divergence(str(config["divergence_type"]).removeprefix("binary_"), config["epsilon"], config["epsilon_high"])
        return Direct(repr(trust), "the mask alone is asked for, also where nothing is to be learned",
                      lambda: _far(trust, fixture))
    if "opsm" in function:
        gate = OffPolicyRows(config["opsm_delta"])
        return Direct(repr(gate), "the rows alone are asked for, without a loss", lambda: _rows(gate, fixture))
    if name == "soft_overlong":
        limit = config.get("L_max", config.get("max_completion_len"))
        cache = config.get("L_cache", config.get("soft_punish_cache"))
        return Direct("soft_overlong", "a reward, not a loss",
                      lambda: {"penalty": [soft_overlong(n, limit, cache) for n in config["lengths"]]})
    if name == "pass_at_k":
        return Direct("pass_at_k", "a metric, not a loss",
                      lambda: {"pass_at_k": [pass_at_k(*counts) for counts in config["cases(n,c,k)"]]})
    raise ConfigError(f"vector {vector['id']!r}: no part is known for function {function!r} of {vector['implementation']!r}; "
                      "add an adapter to groupwise/lab/adapters, or take the vector out of the file")


def _penalty(config: Mapping[str, Any], fixture: Mapping[str, Any]) -> Outputs:
    table = Table(Case(Objective(GIVEN, (Policy(),)), {}), fixture)
    live = table.column("logp").requires_grad_()
    value = ESTIMATORS[config["kl_penalty"]](table.column("ref_logp") - live)
    kept = torch.where(torch.from_numpy(table.mask.flatten()), value, 0.0)
    slope, = torch.autograd.grad(kept.sum(), live)
    return {name: x.detach().numpy().reshape(table.mask.shape)
            for name, x in (("value_masked", kept), ("grad_of_masked_sum", slope))}


def _far(trust: Divergence, fixture: Mapping[str, Any]) -> Outputs:
    table = Table(Case(Objective(GIVEN, (Policy(),)), {}), fixture)
    logp, engine = table.column("logp"), table.column("rollout_logprobs")
    advantage = torch.tensor(fixture["advantages"], dtype=torch.float64).repeat_interleave(table.mask.shape[1])
    far = trust.far((logp - engine).exp(), advantage, logp).numpy().reshape(table.mask.shape)
    return {"mask": np.where(far | ~table.mask, 0.0, 1.0)}


def _rows(gate: OffPolicyRows, fixture: Mapping[str, Any]) -> Outputs:
    table = Table(Case(Objective(GIVEN, (Policy(),)), {}), fixture)
    groups = table.groups()
    batch = table.batch(groups)
    batch = batch.with_columns({}, GIVEN_OBJECTIVE.credit(groups, batch, {}))
    known = torch.ones_like(batch.counted)
    sight = Sight(batch, known, table.column("logp")[batch.tokens], table.column("old_logp")[batch.tokens],
                  batch.column("advantage"), ~known)
    kept = np.zeros(table.mask.size)
    kept[batch.tokens.numpy()] = gate(sight).double().numpy()
    return {"keep_rows": kept.reshape(table.mask.shape)[:, 0]}


GIVEN_OBJECTIVE = Objective(GIVEN, (Policy(),))
