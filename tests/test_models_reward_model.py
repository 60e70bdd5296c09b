"""Reward models: the logit is that of transformers' own forward on the text alone."""

import gc
import json
import weakref

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification

from groupwise.errors import ConfigError
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import policy_of, save
from groupwise.models.reward_model import load_reward_model

TEMPLATE = "{% for m in messages %}{{ '>' if m.role == 'user' else '=' }}{{ m.content }}{{ eos_token }}{% endfor %}"
PAIRS = [([{"role": "user", "content": p}], c) for p, c in
         [("1+1", "2"), ("12*3", "36 = 12+12+12"), ("9", ""), ("2-1", "1, x:y"), ("1+1", "11111111111111111111")]]


def make(folder, family, *, labels=1, context=128, pad=0, template=TEMPLATE, seed=0):
    """A tiny random reward model with its tokenizer, saved."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "bert":
        tokenizer.add_special_tokens({"sep_token": "#"})
        sep = tokenizer.convert_tokens_to_ids("#")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A #", pair="<bos> $A # $B:1 #:1", special_tokens=[("<bos>", 1), ("#", sep)])
    else:
        sizes["num_key_value_heads"] = 2
    config = AutoConfig.for_model(family, vocab_size=32, max_position_embeddings=context, num_labels=labels, pad_token_id=pad,
                                  bos_token_id=1, eos_token_id=2, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if family == "bert":
        file = folder / "tokenizer_config.json"
        names = ["input_ids", "token_type_ids", "attention_mask"]
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": names}))
    return str(folder)


def own(reward_model, row):
    """transformers' forward on one row alone."""
    with torch.no_grad():
        return reward_model.model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0, 0].item()


@pytest.mark.parametrize(("family", "pad"), [("qwen2", 0), ("llama", 0), ("llama", 2), ("qwen2", None), ("bert", 0)])
def test_scores_are_those_of_the_text_alone(family, pad, tmp_path):
    made = load_reward_model(make(tmp_path, family, pad=pad, template=None if family == "bert" else TEMPLATE))
    rows = [made.row(*pair) for pair in PAIRS]
    together, apart = made.score(PAIRS), [made.score([pair])[0] for pair in PAIRS]
    assert together == pytest.approx([own(made, row) for row in rows], abs=1e-5)
    assert together == pytest.approx(apart, abs=1e-5)
    assert len({round(x, 4) for x in together}) == len(PAIRS)  # the texts matter
    assert made.model.config.pad_token_id == pad
    if family == "bert":
        assert rows[0]["token_type_ids"] == [0] * 5 + [1] * 2


def test_what_is_read_is_the_chat_template_or_one_text(tmp_path):
    made = load_reward_model(make(tmp_path, "qwen2"))
    assert made.tokenizer.decode(made.row(*PAIRS[0])["input_ids"]) == ">1+1<eos>=2<eos>"
    made.tokenizer.chat_template = None
    assert made.tokenizer.decode(made.row(*PAIRS[0])["input_ids"]) == "1+12"


def test_what_is_longer_than_the_context_has_no_score(tmp_path):
    made = load_reward_model(make(tmp_path, "qwen2", context=12))
    lengths = [len(made.row(*pair)["input_ids"]) for pair in PAIRS]
    assert [score is None for score in made.score(PAIRS)] == [n > 12 for n in lengths] == [False, True, False, True, True]


def test_no_gradient_and_no_memory_is_left(tmp_path):
    made = load_reward_model(make(tmp_path, "llama"))
    made.score(PAIRS)
    assert all(p.grad is None for p in made.model.parameters())
    alive = weakref.ref(made.model)
    del made
    gc.collect()
    assert alive() is None


def test_models_that_are_no_reward_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Qwen2ForSequenceClassification\) has 3 labels, and a reward model has one"):
        load_reward_model(make(tmp_path / "three", "qwen2", labels=3))
    save(policy_of(random_policy(character_tokenizer(), hidden=32, layers=1, mlp=32), character_tokenizer()), tmp_path / "causal")
    with pytest.raises(ConfigError, match="is no reward model but Qwen2ForCausalLM"):
        load_reward_model(str(tmp_path / "causal"))
    with pytest.raises(ConfigError, match="no model folder"):
        load_reward_model("./nowhere")
    folder = make(tmp_path / "bare", "qwen2")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.model.save_pretrained(folder)  # the trunk without its score
    config = (tmp_path / "bare" / "config.json")
    config.write_text(config.read_text().replace("Qwen2Model", "Qwen2ForSequenceClassification"))
    with pytest.raises(ConfigError, match=r"lack score\.weight, which would be left random"):
        load_reward_model(folder)
