"""SAPO: soft adaptive policy optimisation (Gao et al. 2025, arXiv 2511.20347, Eq. 5 and 6).

    J = 1/G sum_i 1/|o_i| sum_t 4/tau sigmoid( tau (rho_t - 1) ) A_i,      tau = 1 where A_i > 0, else 1.05

A gate that falls smoothly on both sides of rho = 1 in place of a clip; its slope there is A_i.

Departs from the paper: nothing (group std with ddof 1 and + 1e-6).
Source: paper, TRL and verl.
"""

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean
from groupwise.objective.baselines import GroupMean, GroupStd
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.soft import Sigmoid
from groupwise.objective.terms import Policy


def sapo(*, tau_positive: float = 1.0, tau_negative: float = 1.05) -> Method:
    """Temperatures of the gate, by the sign of the advantage."""
    return Method(
        objective=Objective(
            credit_by=Advantage(baseline=GroupMean(), scale=GroupStd()),
            terms=(Policy(trust=Sigmoid(tau_positive, tau_negative), aggregate=SequenceMean()),),
        ),
    )
