import copy

import pytest
import torch
from torch import nn

from groupwise.models import linear
from groupwise.models.build import character_tokenizer, random_policy
from groupwise.models.load import load, policy_of, save

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


def pair(bias, inside=24, outside=40):
    torch.manual_seed(0)
    plain = nn.Linear(inside, outside, bias=bias)
    quick = copy.deepcopy(plain)
    linear.speed_up(quick)
    return plain, quick


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (2, 3, 24), (5, 9, 24), (64, 24)])
def test_values_and_all_gradients_are_those_of_plain_layers(bias, shape):
    plain, quick = pair(bias)
    assert type(quick) is linear.Linear
    x, slope = torch.randn(shape), torch.randn(*shape[:-1], 40)
    found = []
    for layer in (plain, quick):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        out.backward(slope)
        found.append([out.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(quick(x), plain(x), rtol=1e-5, atol=1e-5)


def test_what_needs_no_gradient_gets_none_and_other_formats_are_left_alone():
    plain, quick = pair(True)
    quick.weight.requires_grad_(False)
    x = torch.randn(16, 24, requires_grad=True)
    quick(x).sum().backward()
    assert quick.weight.grad is None
    assert quick.bias.grad is not None
    assert x.grad is not None
    narrow = torch.randn(16, 24, dtype=torch.bfloat16)
    assert torch.equal(quick.bfloat16()(narrow), plain.bfloat16()(narrow))


def test_a_loaded_policy_is_the_same_function_and_saves_the_same_weights(tmp_path, monkeypatch):
    tokenizer = character_tokenizer()
    save(policy_of(random_policy(tokenizer, hidden=32, layers=2, mlp=48), tokenizer), tmp_path / "a")
    ids = torch.randint(3, 20, (4, 12))
    results = []
    for pays in (False, True):
        monkeypatch.setattr(linear, "pays", lambda pays=pays: pays)
        policy = load(tmp_path / "a")
        assert any(type(m) is linear.Linear for m in policy.model.modules()) is pays
        save(policy, tmp_path / f"saved-{pays}")
        results.append(policy.model(ids).logits)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    files = [(tmp_path / f"saved-{pays}" / "model.safetensors").read_bytes() for pays in (False, True)]
    assert files[0] == files[1]


def test_it_is_for_processors_of_one_maker(monkeypatch):
    monkeypatch.setattr(linear, "_processor", lambda: "vendor_id : GenuineIntel")
    linear.pays.cache_clear()
    assert not linear.pays()
    monkeypatch.setattr(linear, "_processor", lambda: "vendor_id : AuthenticAMD")
    linear.pays.cache_clear()
    assert linear.pays() is (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available())
    linear.pays.cache_clear()
