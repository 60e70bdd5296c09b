import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from groupwise.errors import ConfigError
from groupwise.models.blocks import attention
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import Policy, load, policy_of, save

TOKENIZER = character_tokenizer()


def tiny(**settings) -> Policy:
    return policy_of(random_policy(TOKENIZER, hidden=32, layers=1, mlp=48, **settings), TOKENIZER)


def test_every_source_of_eos_ids_counts_once():
    policy = tiny()
    policy.model.generation_config.eos_token_id = [7, 2]
    policy.model.config.eos_token_id = 9
    assert policy_of(policy.model, TOKENIZER).eos_ids == (7, 2, 9)
    assert policy.pad_id == 0


def test_a_model_without_eos_is_refused_and_padding_falls_back():
    policy = tiny()
    bare = character_tokenizer()
    bare.eos_token = bare.pad_token = None
    policy.model.config.eos_token_id = policy.model.config.pad_token_id = None
    policy.model.generation_config = GenerationConfig()
    with pytest.raises(ConfigError, match="no EOS id"):
        policy_of(policy.model, bare)
    policy.model.config.eos_token_id = 5
    assert policy_of(policy.model, bare).pad_id == 5


def test_a_saved_policy_is_the_same_policy_and_serves_plain_transformers(tmp_path):
    policy = tiny()
    policy.eos_ids = (2, 7)
    policy.model.generation_config.temperature = 0.3
    save(policy, tmp_path)
    again = load(tmp_path)
    assert again.eos_ids == (2, 7)
    assert again.pad_id == 0
    assert policy.model.generation_config.temperature == 0.3
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert "temperature" not in settings
    assert settings["do_sample"] is False
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("1+2=", return_tensors="pt")["input_ids"]
    free = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, eos_token_id=31)[0, 4:].tolist()
    plain.generation_config.eos_token_id = [31, free[3]]
    policy.eos_ids = (31, free[3])
    save(policy, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    out = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)[0, 4:].tolist()
    assert out == free[: free.index(free[3]) + 1]


def test_weights_stored_in_bf16_load_in_the_dtype_asked_for(tmp_path):
    policy = tiny()
    save(policy, tmp_path, torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert policy.model.dtype == torch.float32
    again = load(str(tmp_path))
    assert again.model.dtype == torch.float32
    assert load(tmp_path, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    weight = policy.model.get_input_embeddings().weight
    assert torch.equal(again.model.get_input_embeddings().weight, weight.bfloat16().float())
    assert again.model.get_output_embeddings().weight is again.model.get_input_embeddings().weight


@pytest.mark.parametrize(("gone", "message"), [("config.json", "no config.json"), ("model.safetensors", "no weights"),
                                               ("tokenizer.json", "no tokenizer")])
def test_an_incomplete_folder_is_named(tmp_path, gone, message):
    save(tiny(), tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


def test_a_missing_folder_and_missing_parameters_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no model folder"):
        load(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no model folder"):
        load("./nothing")
    save(tiny(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"], config["layer_types"] = 2, ["full_attention"] * 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=re.compile("lack .* parameters")):
        load(tmp_path)


def test_a_policy_never_has_dropout_on():
    policy = tiny()
    policy.model.train()
    assert not any(module.training for module in policy_of(policy.model, TOKENIZER).model.modules())


def test_attention_is_another_one_for_a_while():
    model, ids = tiny().model, torch.tensor([[3, 4, 5], [6, 7, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    fused = model(ids, attention_mask=mask).logits[mask.bool()]
    with attention(model, "eager"):
        assert model.config._attn_implementation == "eager"
        torch.testing.assert_close(model(ids, attention_mask=mask).logits[mask.bool()], fused)
    assert model.config._attn_implementation == "sdpa"
