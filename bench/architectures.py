"""The architectures that are tried: families of transformers with what a tiny random model of each needs to be told."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from groupwise.core.keyed import fold
from groupwise.core.rollout import Context, Episode, Group, Prompt, Rollout, Turn
from groupwise.core.services import Request, Sampling
from groupwise.core.verdict import Component, Verdict
from groupwise.engines.native import Native
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import Policy, policy_of
from groupwise.objective.batch import pack

CONTEXTS = [(5, 9, 14, 7, 3, 8, 22, 10, 11), (11,), (6, 6, 20), (17, 3, 4)]
ENDS = (2, 9, 13)
"""Tokens that end a completion, so that rows end at several lengths."""
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
ALTERNATING = ["sliding_attention", "full_attention"]
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 8,
          "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1,
          "num_key_value_heads": 4, "first_k_dense_replace": 1}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}


@dataclass(frozen=True)
class Architecture:
    """A family by its `model_type`, more of its configuration, and whether the native engine can cache what it keeps."""

    family: str
    extra: dict[str, Any] = field(default_factory=dict)
    cached: bool = True
    common: bool = True


def _rare(family: str, cached: bool = True, **extra: Any) -> Architecture:
    return Architecture(family, extra, cached, common=False)


ARCHITECTURES = {
    "Qwen2, Qwen2.5": Architecture("qwen2"),
    "Qwen2, windows of 6": Architecture("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "Qwen3": Architecture("qwen3"),
    "Llama": Architecture("llama", {"tie_word_embeddings": False}),
    "Llama, llama3 rotation": Architecture("llama", {"rope_parameters": LLAMA3, "rope_theta": 10000.0}),
    "Mistral": Architecture("mistral", {"sliding_window": None}),
    "Mistral, windows of 6": Architecture("mistral", {"sliding_window": 6}),
    "Gemma 3 text, windows of 6": Architecture("gemma3_text", {"sliding_window": 6, "layer_types": ALTERNATING,
                                                               "final_logit_softcapping": 2.0}),
    "Gemma 2, windows of 6, soft caps": Architecture("gemma2", {"sliding_window": 6, "layer_types": ALTERNATING,
                                                                "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0}),
    "Qwen3-MoE": Architecture("qwen3_moe"),
    "GPT-2": Architecture("gpt2"),
    "GPT-NeoX": Architecture("gpt_neox"),
    "Phi-3": Architecture("phi3"),
    "OLMo 2": Architecture("olmo2"),
    "Granite": Architecture("granite", {"logits_scaling": 4.0}),
    "Cohere": Architecture("cohere", {"logit_scale": 0.5}),
    "Mixtral": Architecture("mixtral", {"num_local_experts": 4}),
    "SmolLM3": Architecture("smollm3"),
    "GLM-4": Architecture("glm4"),
    "StarCoder2, windows of 6": Architecture("starcoder2", {"sliding_window": 6}),
    "StableLM": Architecture("stablelm"),
    "Falcon": Architecture("falcon"),
    "Falcon, ALiBi": _rare("falcon", cached=False, alibi=True),
    "BLOOM": _rare("bloom", cached=False),
    "OPT": _rare("opt", ffn_dim=48, word_embed_proj_dim=32),
    "Phi": _rare("phi"),
    "Gemma": _rare("gemma"),
    "OLMo 3, windows of 6": _rare("olmo3", sliding_window=6, layer_types=ALTERNATING),
    "Cohere 2, windows of 6": _rare("cohere2", sliding_window=6, layer_types=ALTERNATING),
    "gpt-oss, windows of 6": _rare("gpt_oss", sliding_window=6, layer_types=ALTERNATING, num_local_experts=4),
    "DeepSeek-V3": _rare("deepseek_v3", **LATENT),
    "OLMoE": _rare("olmoe", num_experts=4, num_experts_per_tok=2),
    "Mamba": Architecture("mamba", cached=False),
    "Falcon-Mamba": _rare("falcon_mamba", cached=False),
    "Jamba": _rare("jamba", cached=False, num_experts=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8),
    "LFM2": Architecture("lfm2", {"layer_types": ["conv", "full_attention"]}, cached=False),
    "Bamba": _rare("bamba", cached=False, attn_layer_indices=[1], **MAMBA),
    "Granite 4 hybrid": _rare("granitemoehybrid", cached=False, layer_types=["mamba", "attention"], num_local_experts=0,
                              shared_intermediate_size=48, **MAMBA),
    "MiniMax": _rare("minimax", cached=False, num_local_experts=2, block_size=8),
    "RecurrentGemma": _rare("recurrent_gemma", cached=False, attention_window_size=8, lru_width=32,
                            block_types=["recurrent", "attention"]),
    "RWKV": _rare("rwkv", cached=False, attention_hidden_size=32),
}


def tiny(name: str, **changes: Any) -> Policy:
    """A random policy of the architecture over characters: two layers of width 32."""
    one, tokenizer = ARCHITECTURES[name], character_tokenizer()
    settings = {"hidden": 32, "layers": 2, "mlp": 48, "std": 0.15, **changes}
    return policy_of(random_policy(tokenizer, family=one.family, extra=one.extra, **settings), tokenizer)


def truth(policy: Policy, context: tuple[int, ...], tokens: tuple[int, ...]) -> Tensor:
    """[tokens] log-probs by transformers' own forward of one text, without padding or cache."""
    ids = torch.tensor([[*context, *tokens]])
    with torch.no_grad():
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(context) - 1:-1]
    return torch.log_softmax(logits.double(), -1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


def sampled(policy: Policy, engine: Native, samples: int = 3, length: int = 12) -> list[Group]:
    """Groups of completions of prompts of several lengths."""
    policy.eos_ids = ENDS
    requests = [Request(Context(c), tuple(fold(3, i, j) for j in range(samples)), Sampling(length))
                for i, c in enumerate(CONTEXTS)]
    groups = []
    for i, (context, some) in enumerate(zip(CONTEXTS, engine.generate(requests), strict=True)):
        prompt = Prompt(f"p{i}", "", 1, tokens=context)
        groups.append(Group(prompt.id, prompt, tuple(
            Rollout(Episode(prompt, (Turn(Context(context), one),)), Verdict(False), (Component("r", float(j)),))
            for j, one in enumerate(some))))
    return groups


def deviations(policy: Policy, engine: Native) -> tuple[float, float]:
    """The largest deviation of the engine's and of the learner's log-probs, in nats, from transformers' own."""
    groups = sampled(policy, engine)
    learner, batch = Learner(policy, Settings(micro_tokens=64)), pack(groups)
    learnt = learner.logprobs(batch, groups, frozenset({"old"}))["old_logp"].double()
    turns = [rollout.episode.turns[0] for group in groups for rollout in group.rollouts]
    assert len({len(turn.completion.tokens) for turn in turns}) > 1  # so of several paddings
    right = torch.cat([truth(policy, turn.context.tokens, turn.completion.tokens) for turn in turns])
    made = torch.tensor([x for turn in turns for x in turn.completion.logp], dtype=torch.float64)
    return float((made - right).abs().max()), float((learnt - right).abs().max())
