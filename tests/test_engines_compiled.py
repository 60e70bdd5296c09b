import pytest
from kernels_support import library, model_of
from test_engines_native import TOKENIZER, requests

from groupwise.core.rollout import VersionSpan
from groupwise.engines.compiled import Kernels
from groupwise.engines.native import Native
from groupwise.errors import EngineError
from groupwise.kernels.library import Compiled
from groupwise.models.load import policy_of


def engines(family="qwen2", **settings):
    """The kernels in fp32 and the modules, on the same policy."""
    policy = policy_of(model_of(family, **settings), TOKENIZER)
    policy.eos_ids = (2, 9, 13)
    return Kernels(policy, Compiled(policy.model, library(), narrow=False, threads=2)), Native(policy)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"temperature": 0.6, "max_tokens": 1}])
def test_completions_are_those_of_the_modules(family, sampling):
    mine, theirs = (engine.generate(requests(**sampling)) for engine in engines(family))
    for a, b in zip([c for some in mine for c in some], [c for some in theirs for c in some], strict=True):
        assert (a.tokens, a.finish, a.versions) == (b.tokens, b.finish, b.versions)
        assert a.logp == pytest.approx(b.logp, abs=1e-4)


def test_waves_do_not_change_a_bit():
    engine, _ = engines()
    whole = engine.generate(requests(6))
    engine.max_rows = 5
    assert engine.generate(requests(6)) == whole
    assert engine.generate(requests(6)[::-1])[::-1] == whole


def test_stop_strings_end_a_completion_where_the_modules_end_it():
    engine, native = engines()
    free = [c for some in native.generate(requests(6)) for c in some]
    stop = (TOKENIZER.decode(list(free[0].tokens[2:4])), TOKENIZER.decode([free[5].tokens[1]]))
    mine, theirs = (e.generate(requests(6, stop=stop)) for e in (engine, native))
    assert [[(c.tokens, c.finish) for c in some] for some in mine] == [[(c.tokens, c.finish) for c in some] for some in theirs]
    assert any(len(a.tokens) < len(b.tokens) for some, b in zip(mine, free, strict=False) for a in some)


def test_new_weights_and_their_version_are_taken_over():
    engine, _ = engines()
    before = engine.generate(requests())
    other = {name: 1.2 * tensor for name, tensor in engine.policy.model.state_dict().items()}
    engine.load(other, version=3)
    after = engine.generate(requests())
    assert after != before
    assert all(c.versions == (VersionSpan(0, len(c.tokens), 3),) for some in after for c in some)
    fresh = Kernels(engine.policy, Compiled(engine.policy.model, library(), narrow=False, threads=1))
    assert [c.tokens for some in fresh.generate(requests()) for c in some] == [c.tokens for some in after for c in some]


def test_truncated_distributions_are_refused():
    engine, _ = engines()
    with pytest.raises(EngineError, match=r"whole distribution.*compute=modules"):
        engine.generate(requests(top_k=3))


def test_bf16_products_stay_close():
    engine, _ = engines()
    narrow = Kernels(engine.policy, Compiled(engine.policy.model, library("portable"), narrow=True))
    asked = requests(1, contexts=[(5, 9, 14)], temperature=0.0, max_tokens=1)
    (a,), (b,) = (e.generate(asked)[0] for e in (engine, narrow))
    assert a.logp == pytest.approx(b.logp, abs=0.05)
    assert a.logp != b.logp
