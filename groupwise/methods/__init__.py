"""The methods, written out by hand: one file per paper."""

from collections.abc import Callable

from groupwise.methods.cispo import cispo
from groupwise.methods.dapo import dapo
from groupwise.methods.dr_grpo import dr_grpo
from groupwise.methods.grpo import grpo
from groupwise.methods.gspo import gspo
from groupwise.methods.gspo_token import gspo_token
from groupwise.methods.method import Method
from groupwise.methods.ppo import ppo
from groupwise.methods.reinforce import reinforce
from groupwise.methods.remax import remax
from groupwise.methods.rloo import rloo

METHODS: dict[str, Callable[..., Method]] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "cispo": cispo,
    "remax": remax,
    "ppo": ppo,
}
