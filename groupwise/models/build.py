"""Small policies made from nothing: a character tokenizer and a random model of a published architecture.

They serve the embedded job, the tests and anybody without weights at hand. Nothing is downloaded.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from groupwise.errors import ConfigError, nearest

ALPHABET = "0123456789+-*/()=,;:>#? .xy"
"""Characters of the embedded tasks; with the three special tokens they fit a vocabulary of 32."""

FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "gemma3_text", "qwen3_moe")
"""Architectures that every path is tested with; `bench/families.py` has more."""


def character_tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character, `<pad>` 0, `<bos>` 1 and `<eos>` 2; it adds no special tokens by itself."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                   padding_side="left", clean_up_tokenization_spaces=False)


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where Qwen2's tokenizer cuts a text before it merges: words with the space before them, every digit by itself."""


def byte_pair_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from texts: knows every text; `<pad>` 0, `<bos>` 1, `<eos>` 2, none added by itself.

    It has `vocabulary` tokens, or as many as pairs occur twice. ConfigError: fewer than the bytes and the special tokens need.
    """
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary < len(special) + len(alphabet):
        raise ConfigError(f"a vocabulary of {vocabulary} is too small for bytes: take at least {len(special) + len(alphabet)}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                   padding_side="left", clean_up_tokenization_spaces=False)


def random_policy(tokenizer: PreTrainedTokenizerBase, *, family: str = "qwen2", hidden: int = 256, layers: int = 4,
                  heads: int = 4, kv_heads: int = 2, mlp: int = 512, context: int = 512, std: float = 0.05,
                  seed: int = 0, vocabulary: int = 0, extra: Mapping[str, Any] = MappingProxyType({})) -> PreTrainedModel:
    """A random causal language model in fp32, tied embeddings, with the vocabulary (at least `vocabulary`) rounded up to a
    multiple of 32.

    `family` is a causal language model of transformers by its `model_type`, `extra` more of its configuration. `std` is the
    standard deviation of every matrix: 0.05 learns far sooner at these sizes than the usual 0.02. ConfigError: no such family,
    or a configuration that it does not take.
    """
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(f"unknown model family {family!r}; {nearest(family, FAMILIES)}; or another causal language model of "
                          "transformers by its model_type")
    if hidden % heads or heads % kv_heads:
        raise ConfigError(f"hidden={hidden} is no multiple of heads={heads}, or heads no multiple of kv_heads={kv_heads}")
    settings: dict[str, Any] = {
        "vocab_size": -(-max(vocabulary, len(tokenizer)) // 32) * 32, "hidden_size": hidden, "intermediate_size": mlp,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
        "max_position_embeddings": context, "tie_word_embeddings": True, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "attention_dropout": 0.0}
    if family == "qwen3_moe":
        settings |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": mlp}
    if isinstance(getattr(CONFIG_MAPPING[family], "head_dim", None), property):  # it follows from the others
        del settings["head_dim"]
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family, **settings | dict(extra)), dtype=torch.float32)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(f"transformers makes no {family} of these sizes: {error}; choose other ones") from error
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, std, generator=draw)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model.eval()
