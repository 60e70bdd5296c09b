"""Dr. GRPO as `groupwise train --method FILE:whole` runs it with nothing skipped: what the skipping of idle groups is worth."""

from dataclasses import replace

from groupwise.methods.dr_grpo import dr_grpo
from groupwise.methods.method import Method


def whole(*, max_tokens: int) -> Method:
    """The same equation and gradient; groups without advantage go through forward and backward all the same."""
    method = dr_grpo(max_tokens=max_tokens)
    terms = tuple(replace(term, vanishes=False) for term in method.objective.terms)
    return replace(method, objective=replace(method.objective, terms=terms))
