import numpy as np
import pytest
import torch
from kernels_support import (
    EMULATED,
    FAMILIES,
    batch_of,
    flat_gradient,
    gradient_of,
    kinds,
    library,
    model_of,
    reference,
    slopes_of,
)

from groupwise.core.keyed import fold, uniforms
from groupwise.errors import ConfigError
from groupwise.kernels.library import Batch, Compiled, unsupported

TEMPERATURE = 0.7


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """A model, a batch, and what the model's own modules and autograd say about them."""
    model, batch = model_of(request.param), batch_of()
    values = reference(model, batch, TEMPERATURE)
    slopes = slopes_of(batch, model.config.hidden_size)
    model.zero_grad()
    sum((slopes[name] * values[name]).sum() for name in values).backward()
    return model, batch, {name: v.detach() for name, v in values.items()}, slopes, flat_gradient(model)


def formats():
    bf16 = ("amx", "avx512bf16", EMULATED)
    return [(kind, narrow) for kind in kinds() for narrow in (False, True) if not narrow or kind in bf16]


@pytest.mark.parametrize(("kind", "narrow"), formats())
def test_values_and_gradients_are_those_of_the_modules(case, kind, narrow):
    model, batch, values, slopes, gradient = case
    compiled = Compiled(model, library(kind), narrow=narrow)
    found, _ = compiled.score(batch, temperature=TEMPERATURE, entropy=True, sum_p2=True, hidden=True)
    counted = torch.from_numpy(batch.counted)
    for name, value in values.items():
        assert (found[name] - value)[counted].abs().max() < (0.1 if narrow else 1e-5), name
        assert not found[name][~counted].any()
    mine = gradient_of(compiled, batch, slopes, TEMPERATURE)
    assert torch.cosine_similarity(mine, gradient, dim=0) > (0.9999 if narrow else 1 - 1e-9)
    assert (mine - gradient).norm() / gradient.norm() < (0.02 if narrow else 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_and_chunks_change_nothing_but_the_order_of_sums(family):
    model, batch = model_of(family), batch_of(3)
    slopes = slopes_of(batch, model.config.hidden_size)
    runs = [Compiled(model, library(), narrow=False, threads=t, chunk_rows=rows) for t, rows in ((1, 10_000), (2, 64), (3, 1))]
    logp = [c.score(batch)[0]["logp"] for c in runs]
    assert torch.equal(logp[0], logp[1])
    assert torch.equal(logp[0], logp[2])
    whole, *others = [gradient_of(c, batch, slopes, 1.0) for c in runs]
    for other in others:
        assert (other - whole).norm() / whole.norm() < 1e-6
    assert torch.equal(gradient_of(runs[1], batch, slopes, 1.0), others[0])  # and the same again, bit for bit


def sampled(compiled, n=6, contexts=((5, 9, 14, 7), (11,), (6, 6, 20, 21, 8, 13, 4)), temperature=TEMPERATURE, **more):
    rows = np.repeat(np.arange(len(contexts)), n)
    streams = np.array([fold(7, int(c), i % n) for i, c in enumerate(rows)], dtype=np.uint64)
    made = compiled.sample(contexts, rows, streams, **{"max_tokens": 40, "temperature": temperature, "end_tokens": [2], **more})
    return rows, streams, made


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_sampled_scores_the_same_bit_for_bit(family, kind):
    contexts = ((5, 9, 14, 7), (11,), (6, 6, 20, 21, 8, 13, 4))
    for narrow in {False, library(kind).kind.narrow}:
        compiled = Compiled(model_of(family), library(kind), narrow=narrow, threads=2)
        rows, _, made = sampled(compiled, contexts=contexts)
        ends = np.cumsum(made.lengths)
        tokens = np.concatenate([made.tokens[i, :n] for i, n in enumerate(made.lengths)])
        logp = np.concatenate([made.logp[i, :n] for i, n in enumerate(made.lengths)])
        batch = Batch(contexts, rows, tokens, np.array([0, *ends[:-1]]), ends, np.ones(len(tokens), bool))
        found, _ = compiled.score(batch, temperature=TEMPERATURE)
        assert np.array_equal(found["logp"].numpy(), logp)
        assert set(made.done) <= {1, 2}
        assert all((made.tokens[i, n - 1] == 2) == (made.done[i] == 1) for i, n in enumerate(made.lengths))


def test_a_completion_does_not_depend_on_its_company():
    compiled = Compiled(model_of("qwen2"), library(), threads=2)
    _, streams, made = sampled(compiled)
    alone = compiled.sample([(11,)], np.zeros(2, int), streams[8:10], max_tokens=40, temperature=TEMPERATURE, end_tokens=[2])
    assert np.array_equal(alone.tokens, made.tokens[8:10])
    assert np.array_equal(alone.logp, made.logp[8:10])
    for few in (1, 5, 16):  # rows at a time, the others begin as these end
        _, _, again = sampled(compiled, most=few)
        assert all(np.array_equal(getattr(again, name), getattr(made, name)) for name in ("tokens", "logp", "lengths", "done"))


def test_tokens_are_drawn_by_the_keyed_numbers():
    """Each token is the one at which the cumulative distribution passes the row's own number."""
    model = model_of("llama")
    compiled = Compiled(model, library(), narrow=False)
    rows, streams, made = sampled(compiled, n=40, contexts=((5, 9), (11,)), max_tokens=3, end_tokens=[])
    for i, row in enumerate(rows):
        context = [(5, 9), (11,)][row]
        logits = model(torch.tensor([[*context, *made.tokens[i, :2].tolist()]])).logits[0, len(context) - 1:]
        below = torch.softmax(logits.double() / TEMPERATURE, -1).cumsum(-1)
        for t in range(3):
            u, token = float(uniforms(streams[i:i + 1], t)[0]), int(made.tokens[i, t])
            assert (below[t, token - 1] if token else 0.0) - 1e-5 <= u <= below[t, token] + 1e-5


def test_greedy_takes_the_most_likely_token():
    model = model_of("qwen3")
    compiled = Compiled(model, library(), narrow=False)
    _, _, made = sampled(compiled, n=1, contexts=((5, 9, 14),), temperature=0.0, max_tokens=12, end_tokens=[])
    logits = model(torch.tensor([[5, 9, 14, *made.tokens[0].tolist()]])).logits[0, 2:-1]
    assert made.tokens[0].tolist() == logits.argmax(-1).tolist()
    expected = torch.log_softmax(logits, -1).max(-1).values
    assert np.abs(made.logp[0] - expected.detach().numpy()).max() < 1e-5


def test_new_parameters_are_taken_over_by_load():
    model, batch = model_of("qwen2"), batch_of()
    compiled = Compiled(model, library(), narrow=False)
    before = compiled.score(batch)[0]["logp"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    compiled.load()
    after = compiled.score(batch)[0]["logp"]
    expected = reference(model, batch, 1.0)["logp"][torch.from_numpy(batch.counted)]
    assert (after[torch.from_numpy(batch.counted)] - expected).abs().max() < 1e-5
    assert not torch.equal(before, after)


def test_an_untied_head_has_a_gradient_of_its_own():
    model, batch = model_of("llama"), batch_of()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 0.9)
    values, slopes = reference(model, batch, 1.0), slopes_of(batch, model.config.hidden_size)
    model.zero_grad()
    sum((slopes[name] * values[name]).sum() for name in values).backward()
    expected = flat_gradient(model)
    mine = gradient_of(Compiled(model, library(), narrow=False), batch, slopes, 1.0)
    assert (mine - expected).norm() / expected.norm() < 1e-5


def test_a_large_vocabulary_is_taken_in_pieces():
    model = model_of("qwen2", hidden=32)
    model.resize_token_embeddings(20_011, mean_resizing=False)
    batch = batch_of(contexts=(60,), lengths=((0, 30), (0, 25)))
    compiled = Compiled(model, library(), narrow=False)
    counted = torch.from_numpy(batch.counted)
    assert (compiled.score(batch)[0]["logp"] - reference(model, batch, 1.0)["logp"])[counted].abs().max() < 2e-5
    _, _, made = sampled(compiled, contexts=((19_000, 4),), max_tokens=5)
    assert made.tokens.max() > 28


def test_what_cannot_run_is_refused_with_a_reason():
    assert unsupported(model_of("qwen2")) is None
    assert "fp32" in unsupported(model_of("qwen2").double())
    windowed = model_of("qwen2")
    windowed.config.layer_types = ["full_attention", "sliding_attention"]
    assert "window" in unsupported(windowed)
    biased = model_of("llama")
    biased.model.layers[0].self_attn.o_proj.bias = torch.nn.Parameter(torch.zeros(40))
    assert "o_proj.bias" in unsupported(biased)
    with pytest.raises(ConfigError, match="compute=modules"):
        Compiled(model_of("qwen2").double(), library())


def test_tokens_and_contexts_are_checked():
    compiled = Compiled(model_of("llama"), library())
    batch = batch_of()
    batch.tokens[3] = 32
    with pytest.raises(ConfigError, match=r"\[0, 32\), got 3 to 32"):
        compiled.score(batch)
    with pytest.raises(ConfigError, match="empty context"):
        compiled.sample([()], np.zeros(1, int), np.zeros(1, np.uint64), max_tokens=3, temperature=1.0, end_tokens=[2])


def test_working_memory_can_be_given_back_at_any_time():
    model, batch = model_of("qwen2"), batch_of()
    compiled, slopes = Compiled(model, library(), threads=2), slopes_of(batch, model.config.hidden_size)
    before = gradient_of(compiled, batch, slopes, 1.0), sampled(compiled)[2].tokens
    compiled.rest()
    assert torch.equal(gradient_of(compiled, batch, slopes, 1.0), before[0])
    compiled.rest()
    assert np.array_equal(sampled(compiled)[2].tokens, before[1])


def test_gradients_add_up_until_they_are_cleared():
    for family in ("qwen2", "qwen3"):  # whose gradients lie as the parameters do, and otherwise
        model, batch = model_of(family), batch_of()
        compiled, slopes = Compiled(model, library(), threads=2, narrow=False), slopes_of(batch, model.config.hidden_size)
        once = gradient_of(compiled, batch, slopes, 1.0)
        for _ in range(2):
            _, ticket = compiled.score(batch, entropy=True, sum_p2=True, hidden=True, keep=True)
            compiled.backward(ticket, slopes)
            compiled.drop(ticket)
            compiled.collect()
        assert (flat_gradient(model) - 3 * once).norm() / once.norm() < 1e-5
        assert torch.equal(gradient_of(compiled, batch, slopes, 1.0), once)
