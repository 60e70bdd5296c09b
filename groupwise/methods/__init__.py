"""The methods, written out by hand: one file per paper."""

from collections.abc import Callable

from groupwise.methods.bnpo import bnpo
from groupwise.methods.cispo import cispo
from groupwise.methods.clip_cov import clip_cov
from groupwise.methods.dapo import dapo
from groupwise.methods.dppo import dppo
from groupwise.methods.dr_grpo import dr_grpo
from groupwise.methods.gdpo import gdpo
from groupwise.methods.gmpo import gmpo
from groupwise.methods.gpg import gpg
from groupwise.methods.grpo import grpo
from groupwise.methods.grpo_passk import grpo_passk
from groupwise.methods.gspo import gspo
from groupwise.methods.gspo_token import gspo_token
from groupwise.methods.high_entropy import high_entropy
from groupwise.methods.kimi import kimi
from groupwise.methods.kl_cov import kl_cov
from groupwise.methods.lite_ppo import lite_ppo
from groupwise.methods.luspo import luspo
from groupwise.methods.max_rl import max_rl
from groupwise.methods.method import Method
from groupwise.methods.opo import opo
from groupwise.methods.otb import otb
from groupwise.methods.ppo import ppo
from groupwise.methods.reinforce import reinforce
from groupwise.methods.reinforce_pp import reinforce_pp
from groupwise.methods.reinforce_pp_baseline import reinforce_pp_baseline
from groupwise.methods.remax import remax
from groupwise.methods.rloo import rloo
from groupwise.methods.sapo import sapo
from groupwise.methods.vespo import vespo

METHODS: dict[str, Callable[..., Method]] = {
    "reinforce": reinforce,
    "rloo": rloo,
    "remax": remax,
    "opo": opo,
    "gpg": gpg,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "ppo": ppo,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "lite_ppo": lite_ppo,
    "bnpo": bnpo,
    "gdpo": gdpo,
    "max_rl": max_rl,
    "grpo_passk": grpo_passk,
    "otb": otb,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "luspo": luspo,
    "gmpo": gmpo,
    "vespo": vespo,
    "cispo": cispo,
    "sapo": sapo,
    "dppo": dppo,
    "kimi": kimi,
    "clip_cov": clip_cov,
    "kl_cov": kl_cov,
    "high_entropy": high_entropy,
}
