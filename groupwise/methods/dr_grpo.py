"""Dr. GRPO: GRPO done right (Liu et al. 2025, "Understanding R1-Zero-like training", arXiv 2503.20783, section 3.2, Listing 1).

    J = 1/G sum_i 1/C sum_t min( rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i ),      A_i = r_i - mean(r)

Neither 1/|o_i| nor 1/std(r): both bias the policy gradient. C is a constant, the longest completion allowed.

Departs from the paper: nothing (eps = 0.2, no KL).
Source: paper, official code.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import Constant
from groupwise.objective.baselines import GroupMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


def dr_grpo(*, max_tokens: int, clip_low: float = 0.2, clip_high: float = 0.2) -> Method:
    """`max_tokens` is C: the run's completion limit unless given."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean()),
            terms=(Policy(trust=Clip(clip_low, clip_high), aggregate=Constant(max_tokens)),),
        ),
    )
