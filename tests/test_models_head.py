import copy

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from groupwise.core.services import Sampling
from groupwise.errors import ConfigError
from groupwise.models.build import FAMILIES, character_tokenizer, random_policy
from groupwise.models.head import Trunk, ValueHead, Want, sampling_logp, score

TOKENIZER = character_tokenizer()


def tiny(family: str = "qwen2"):
    return random_policy(TOKENIZER, family=family, hidden=32, layers=1, mlp=48)


@pytest.mark.parametrize("family", FAMILIES)
def test_trunk_and_head_give_the_models_logits(family):
    model = tiny(family)
    trunk, ids = Trunk(model), torch.randint(3, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    assert trunk.exact_split
    hidden, cache = trunk.hidden(ids)
    assert cache is None
    assert torch.allclose(trunk.logits(hidden.flatten(0, 1)), model(input_ids=ids).logits.flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize(("family", "extra"), [("gemma2", {"final_logit_softcapping": 0.05, "attn_logit_softcapping": None}),
                                               ("granite", {"logits_scaling": 4.0}), ("cohere", {"logit_scale": 0.5})])
def test_what_follows_the_head_is_applied(family, extra):
    config = AutoConfig.for_model(family, vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                  num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1,
                                  eos_token_id=2, **extra)
    model = AutoModelForCausalLM.from_config(config).eval()
    trunk = Trunk(model)
    assert trunk.exact_split
    plain = model.get_output_embeddings()(trunk.hidden(torch.tensor([[3, 4]]))[0][0])
    assert not torch.allclose(trunk.logits(trunk.hidden(torch.tensor([[3, 4]]))[0][0]), plain, rtol=1e-3)


def test_an_architecture_that_cannot_be_split_falls_back_to_its_own_logits(caplog):
    model = tiny()

    class Odd(type(model)):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 2
            return out

    model.__class__ = Odd
    trunk, ids = Trunk(model), torch.tensor([[3, 4, 5]])
    assert not trunk.exact_split
    assert "cannot be split" in caplog.text
    hidden, _ = trunk.hidden(ids)
    assert torch.equal(trunk.logits(hidden[0]), model(input_ids=ids).logits[0])
    with pytest.raises(ConfigError, match="cannot be split"):
        score(trunk, hidden[0], torch.tensor([4, 5, 6]), want=Want(hidden=True))


def test_a_model_in_training_mode_is_refused():
    model = tiny()
    trunk = Trunk(model)
    model.train()
    with pytest.raises(ConfigError, match="training mode"):
        trunk.hidden(torch.tensor([[3]]))


def naive(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    p = torch.softmax(logits / temperature, -1)
    return p.log().gather(-1, targets[:, None])[:, 0], -(p * p.log()).sum(-1), (p * p).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3 * 32, 5 * 32 + 1, 10**6])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_equal_the_naive_way_in_value_and_gradient(chunk, temperature):
    model = tiny("gemma3_text").double()
    model.config.final_logit_softcapping = 3.0
    trunk = Trunk(model)
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(11, 32, generator=draw, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 32, (11,), generator=draw)
    head = model.get_output_embeddings().weight
    weights = torch.randn(3, 11, generator=draw, dtype=torch.float64)

    got = score(trunk, hidden, targets, temperature=temperature, want=Want(True, True, True, logit_chunk=chunk))
    assert got.hidden is hidden
    want = naive(trunk.logits(hidden), targets, temperature)
    for ours, theirs in zip((got.logp, got.entropy, got.sum_p2), want, strict=True):
        assert ours.dtype == torch.float64
        assert torch.allclose(ours, theirs, atol=1e-12)
    ours = torch.autograd.grad((weights * torch.stack([got.logp, got.entropy, got.sum_p2])).sum(), (hidden, head))
    theirs = torch.autograd.grad((weights * torch.stack(want)).sum(), (hidden, head))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_the_logits_matrix_never_exists_as_a_whole(monkeypatch):
    trunk = Trunk(tiny())
    sizes, head = [], trunk.logits
    monkeypatch.setattr(trunk, "logits", lambda rows: sizes.append(len(rows)) or head(rows))
    hidden = torch.randn(50, 32, requires_grad=True)
    targets = torch.zeros(50, dtype=torch.int64)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        logp = score(trunk, hidden, targets, want=Want(logit_chunk=8 * 32)).logp
    assert max(sizes) == 8
    assert sum(n for n in saved if n not in (50 * 32,)) <= 50 * 32 + 50 + 32 * 32  # rows of hidden states, no logits
    logp.sum().backward()
    assert len(sizes) == 2 * 7
    with torch.no_grad():
        score(trunk, hidden, targets, want=Want(logit_chunk=8 * 32))
    assert len(sizes) == 3 * 7


def test_scores_of_nothing_and_of_bf16():
    trunk = Trunk(tiny())
    assert score(trunk, torch.zeros(0, 32), torch.zeros(0, dtype=torch.int64)).logp.shape == (0,)
    half = Trunk(tiny().bfloat16())
    logp = score(half, torch.randn(3, 32).bfloat16(), torch.tensor([3, 4, 5])).logp
    assert logp.dtype == torch.float32
    with pytest.raises(ConfigError, match="positive temperature"):
        score(trunk, torch.zeros(1, 32), torch.zeros(1, dtype=torch.int64), temperature=0.0)


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_k": 100}, {"top_p": 0.8}, {"min_p": 0.1},
                                     {"temperature": 1.7, "top_k": 12, "top_p": 0.7, "min_p": 0.05}])
def test_the_sampled_distribution_is_that_of_transformers(setting):
    logits = 3 * torch.randn(40, 50, generator=torch.Generator().manual_seed(2))
    logits[0, :] = 0.0
    sampling, scores = Sampling(**setting), logits
    if sampling.temperature != 1.0:
        scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1.0:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    got = sampling_logp(logits, sampling)
    assert torch.equal(got, torch.log_softmax(scores, -1))
    assert torch.allclose(got.exp().sum(-1), torch.ones(40), atol=1e-5)
    assert sampling.truncates == bool(torch.isinf(got).any()) or sampling.top_k == 100


def test_greedy_is_reported_at_temperature_one():
    logits = torch.randn(3, 9)
    assert torch.equal(sampling_logp(logits, Sampling(temperature=0.0, top_k=1)), torch.log_softmax(logits, -1))
    assert sampling_logp(logits.bfloat16(), Sampling()).dtype == torch.float32


def test_a_value_head_starts_at_zero_and_learns():
    head = ValueHead(4)
    value = head(torch.ones(3, 4))
    assert value.tolist() == [0.0, 0.0, 0.0]
    value.sum().backward()
    assert head.linear.weight.grad.tolist() == [[3.0] * 4]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_head_of_its_own_format_brings_a_narrow_engine_and_learner_together(weights):
    """Log-probs of the same bf16 hidden states against those in fp64, and in batches of another shape."""
    model, ids = tiny().to(weights), torch.randint(3, 30, (16, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10.0)  # logits of a size at which bf16 shows
    gaps, splits = [], []
    for wide in (False, True):
        trunk = Trunk(model, head_float32=wide)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
            hidden, _ = trunk.hidden(ids)
            flat, targets = hidden.flatten(0, 1), ids.roll(1, 0).flatten()
            out = trunk.logits(flat)
            found = score(trunk, flat, targets).logp
            few = Want(logit_chunk=32)
            one_by_one = torch.cat([score(trunk, flat[i:i + 1], targets[i:i + 1], want=few).logp for i in range(len(flat))])
        exactly = score(Trunk(copy.deepcopy(model).double()), flat.double(), targets).logp
        assert out.dtype == (torch.float32 if wide else torch.bfloat16)
        gaps.append(float((found - exactly).abs().mean()))
        splits.append(float((found - one_by_one).abs().mean()))
    assert gaps[1] < 1e-5 < 1e-3 < gaps[0]
    assert splits[1] < 1e-5


def test_a_head_of_its_own_format_trains(monkeypatch):
    model = tiny()
    rows, targets = torch.randn(5, 32), torch.tensor([3, 4, 5, 6, 7])
    found = []
    for wide in (False, True):
        model.zero_grad()
        score(Trunk(model, head_float32=wide), rows, targets, want=Want(logit_chunk=32)).logp.sum().backward()
        found.append(model.get_input_embeddings().weight.grad.clone())
    assert torch.equal(*found)
    monkeypatch.setattr(Trunk, "_proves", lambda self: False)
    with pytest.raises(ConfigError, match="cannot be split into trunk and head; leave it off"):
        Trunk(model, head_float32=True)
