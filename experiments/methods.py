"""Methods that differ from a shipped one in one part: what an experiment changes, and nothing else.

A run is known by its settings and the files that they name, so a change of this file makes all runs of these methods anew.
"""

from dataclasses import replace

from groupwise.methods import METHODS
from groupwise.methods.method import Method
from groupwise.objective.aggregate import Constant, SequenceMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip
from groupwise.sampling.admission import Refill, mixed

ROUNDS = 4
"""Rounds of sampling at most, as in the recipe small-dapo."""


def length_mean() -> Method:
    """Dr. GRPO with GRPO's mean over each answer's tokens in the place of the constant; no std."""
    return Method(objective=Objective(
        credit_by=Advantage(baseline=GroupMean()), terms=(Policy(trust=Clip(0.2, 0.2), aggregate=SequenceMean()),)))


def constant_std(*, max_tokens: int) -> Method:
    """Dr. GRPO with GRPO's std in its advantage; the constant stays."""
    return Method(objective=Objective(
        credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
        terms=(Policy(trust=Clip(0.2, 0.2), aggregate=Constant(max_tokens)),)))


def grpo_recorded() -> Method:
    """GRPO without a reference; its ratios divide by the log-probs of the engine."""
    return replace(METHODS["grpo"](kl=0.0), behaviour="recorded")


def gspo_recorded() -> Method:
    """GSPO; its ratios divide by the log-probs of the engine."""
    return replace(METHODS["gspo"](), behaviour="recorded")


def rloo_dynamic() -> Method:
    """RLOO with DAPO's dynamic sampling."""
    return _dynamic(METHODS["rloo"]())


def reinforce_dynamic() -> Method:
    """REINFORCE with DAPO's dynamic sampling."""
    return _dynamic(METHODS["reinforce"]())


def gspo_dynamic() -> Method:
    """GSPO with DAPO's dynamic sampling."""
    return _dynamic(METHODS["gspo"]())


def _dynamic(method: Method) -> Method:
    return replace(method, admit=(mixed,), refill=Refill(ROUNDS))
