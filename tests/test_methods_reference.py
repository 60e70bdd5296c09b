"""Every method against its paper's equation, written out in plain Python loops: value and gradient, off policy.

Nothing here comes from the package but the batch under test. `J` is what the paper maximises, averaged over all completions of
the optimiser step; the loss is -J.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from objectives_support import MAX_TOKENS, OBJECTIVES, ragged, whole

EPS = 1e-6
SEEDS = range(5)


@dataclass
class Output:
    """One completion: the ids of its trained tokens, its reward, and the log-probs of those tokens by id."""

    tokens: list
    reward: float
    logp: dict
    old: dict
    ref: dict

    def ratio(self, t):
        return math.exp(self.logp[t] - self.old[t])


def outputs(case):
    """[prompts][completions]."""
    values = [dict(enumerate(case.table[name].tolist())) for name in ("logp", "old_logp", "ref_logp")]
    return [[Output([t for turn in r.episode.turns for t in turn.completion.tokens if case.trained[t]], r.reward, *values)
             for r in g.rollouts] for g in case.groups]


def mean(xs):
    return sum(xs) / len(xs)


def std(xs):
    return math.sqrt(sum((x - mean(xs)) ** 2 for x in xs) / (len(xs) - 1))


def centred(group, rewards):
    """A_i = r_i - mean(r); a group without variance has no advantage."""
    return [0.0 if len(set(rewards)) == 1 else r - mean(rewards) for r in rewards]


def standardised(group, rewards):
    """A_i = (r_i - mean(r)) / std(r)."""
    return [a / (std(rewards) + EPS) for a in centred(group, rewards)]


def leave_one_out(group, rewards):
    """A_i = r_i - 1/(G-1) sum_(j != i) r_j."""
    flat = len(set(rewards)) == 1
    return [0.0 if flat else r - mean([x for j, x in enumerate(rewards) if j != i]) for i, r in enumerate(rewards)]


def plain(group):
    return [o.reward for o in group]


def minus_kl(beta):
    """r_i - beta sum_t (log pi_old - log pi_ref)."""
    return lambda group: [o.reward - beta * sum(o.old[t] - o.ref[t] for t in o.tokens) for o in group]


class Sum:
    """J and dJ/dlogp per token id, added up."""

    def __init__(self):
        self.value, self.slope = 0.0, {}

    def add(self, weight, value, slopes):
        """A summand `weight * value`; `slopes` are (token id, d value / d logp)."""
        self.value += weight * value
        for token, slope in slopes:
            self.slope[token] = self.slope.get(token, 0.0) + weight * slope


def clipped(rho, a, low, high):
    """min(rho A, clip(rho, 1 - low, 1 + high) A), and its derivative by rho."""
    bounded = min(max(rho, 1 - low), 1 + high)
    if rho * a <= bounded * a:
        return rho * a, a
    return bounded * a, 0.0


def with_advantages(prompts, advantage, rewards):
    for group in prompts:
        yield from zip(group, advantage(group, rewards(group)), strict=True)


def reinforce(prompts, advantage, rewards):
    """J = 1/N sum_i A_i sum_t log pi(o_(i,t))."""
    total, n = Sum(), sum(len(g) for g in prompts)
    for o, a in with_advantages(prompts, advantage, rewards):
        for t in o.tokens:
            total.add(1 / n, a * o.logp[t], [(t, a)])
    return total


def batch_mean(prompts):
    everything = [o.reward for group in prompts for o in group]
    return lambda group, rewards: [r - mean(everything) for r in rewards]


def token_clip(prompts, weight, low, high, beta=0.0, rewards=plain, advantage=standardised):
    """J = sum_i w_i sum_t { min( rho_t A_i, clip(rho_t, 1 - low, 1 + high) A_i ) - beta KL_t }."""
    total = Sum()
    n, tokens = sum(len(g) for g in prompts), sum(len(o.tokens) for g in prompts for o in g)
    for o, a in with_advantages(prompts, advantage, rewards):
        w = weight(n, tokens, len(o.tokens))
        for t in o.tokens:
            rho = o.ratio(t)
            value, slope = clipped(rho, a, low, high)
            total.add(w, value, [(t, slope * rho)])
            quotient = math.exp(o.ref[t] - o.logp[t])
            total.add(-beta * w, quotient - math.log(quotient) - 1, [(t, 1 - quotient)])
    return total


def gspo(prompts, low, high):
    """J = 1/N sum_i min( s_i A_i, clip(s_i, 1 - low, 1 + high) A_i ), s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|)."""
    total, n = Sum(), sum(len(g) for g in prompts)
    for o, a in with_advantages(prompts, standardised, plain):
        s = math.prod(o.ratio(t) for t in o.tokens) ** (1 / len(o.tokens))
        value, slope = clipped(s, a, low, high)
        total.add(1 / n, value, [(t, slope * s / len(o.tokens)) for t in o.tokens])
    return total


def gspo_token(prompts, low, high):
    """J = 1/N sum_i 1/|o_i| sum_t min( s_(i,t) A_i, clip(s_(i,t)) A_i ), s_(i,t) = sg[s_i] pi(o_t) / sg[pi(o_t)]."""
    total, n = Sum(), sum(len(g) for g in prompts)
    for o, a in with_advantages(prompts, standardised, plain):
        s = math.prod(o.ratio(t) for t in o.tokens) ** (1 / len(o.tokens))
        for t in o.tokens:
            value, slope = clipped(s, a, low, high)
            total.add(1 / (n * len(o.tokens)), value, [(t, slope * s)])
    return total


def cispo(prompts, low, high):
    """J = 1/sum_i|o_i| sum_i sum_t sg[ clip(rho_t, 1 - low, 1 + high) ] A_i log pi(o_(i,t))."""
    total, tokens = Sum(), sum(len(o.tokens) for g in prompts for o in g)
    for o, a in with_advantages(prompts, standardised, plain):
        for t in o.tokens:
            bounded = min(max(o.ratio(t), 1 - low), 1 + high)
            total.add(1 / tokens, bounded * a * o.logp[t], [(t, bounded * a)])
    return total


def per_sequence(n, tokens, length):
    return 1 / (n * length)


def per_token(n, tokens, length):
    return 1 / tokens


def per_constant(n, tokens, length):
    return 1 / (n * MAX_TOKENS)


PAPERS = {
    "reinforce": lambda p: reinforce(p, batch_mean(p), plain),
    "rloo": lambda p: reinforce(p, leave_one_out, plain),
    "rloo_kl_in_reward": lambda p: reinforce(p, leave_one_out, minus_kl(0.1)),
    "grpo": lambda p: token_clip(p, per_sequence, 0.2, 0.2, beta=0.04),
    "grpo_no_kl": lambda p: token_clip(p, per_sequence, 0.2, 0.2),
    "grpo_kl_in_reward": lambda p: token_clip(p, per_sequence, 0.2, 0.2, rewards=minus_kl(0.1)),
    "dr_grpo": lambda p: token_clip(p, per_constant, 0.2, 0.2, advantage=centred),
    "dapo": lambda p: token_clip(p, per_token, 0.2, 0.28),
    "gspo": lambda p: gspo(p, 3e-4, 4e-4),
    "gspo_wide": lambda p: gspo(p, 0.2, 0.28),
    "gspo_token": lambda p: gspo_token(p, 3e-4, 4e-4),
    "gspo_token_wide": lambda p: gspo_token(p, 0.2, 0.28),
    "cispo": lambda p: cispo(p, 1.0, 4.0),  # a ratio is never below 0: eps_low = 1 is no lower bound
    "cispo_tight": lambda p: cispo(p, 0.1, 0.1),
}


def test_every_variant_has_its_paper():
    assert set(PAPERS) == set(OBJECTIVES)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(PAPERS))
def test_value_and_gradient_are_the_paper_s(name, seed):
    case = ragged(seed, size=(2, 5), masked=0.0, cut=0.0, spread=0.5)
    paper = PAPERS[name](outputs(case))
    value, gradient = whole(OBJECTIVES[name], case)
    assert value == pytest.approx(-paper.value, abs=1e-12)
    expected = np.array([-paper.slope.get(t, 0.0) for t in range(len(gradient))])
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", ["grpo_no_kl", "dr_grpo", "dapo", "gspo", "gspo_wide", "gspo_token", "cispo_tight"])
def test_the_batches_reach_both_sides_of_every_clip(name):
    """Else the comparison above would not see a clip that is wrong."""
    case = ragged(0, size=(2, 5), masked=0.0, cut=0.0, spread=0.5)
    objective = OBJECTIVES[name]
    batch = case.prepared(objective)
    trust, term = objective.terms[0].trust, objective.terms[0]
    log_ratio = (case.table["logp"] - case.table["old_logp"])[batch.tokens]
    rho, a = term.ratio(log_ratio.where(batch.loss_mask, 0.0), batch.loss_mask, batch), batch.column("advantage")
    live = batch.loss_mask & (a != 0)
    above, below = rho > 1 + trust.high, rho < 1 - trust.low
    for side in (above, below):
        assert bool((live & side & (a > 0)).any())
        assert bool((live & side & (a < 0)).any())
