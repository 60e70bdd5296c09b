import dataclasses

import numpy as np
import pytest
import torch

from groupwise.core.keyed import fold
from groupwise.core.rollout import Completion, Context, VersionSpan
from groupwise.core.services import Request, Sampling
from groupwise.engines.draw import draw
from groupwise.engines.native import Native
from groupwise.errors import EngineError
from groupwise.models.build import FAMILIES, character_tokenizer, random_policy
from groupwise.models.head import sampling_logp
from groupwise.models.load import Policy, policy_of

TOKENIZER = character_tokenizer()
CONTEXTS = [(5, 9, 14, 7), (11,), (6, 6, 20, 21, 8, 13, 4), (17, 3), (12, 25)]


def tiny(family: str = "qwen2", eos: tuple[int, ...] = (2,), **settings) -> Policy:
    model = random_policy(TOKENIZER, **{"family": family, "hidden": 32, "layers": 2, "mlp": 48, "std": 0.15, **settings})
    policy = policy_of(model, TOKENIZER)
    policy.eos_ids = eos
    return policy


def requests(n: int = 3, contexts=CONTEXTS, **sampling) -> list[Request]:
    chosen = Sampling(**{"max_tokens": 20, **sampling})
    return [Request(Context(c), tuple(fold(7, i, j) for j in range(n)), chosen) for i, c in enumerate(contexts)]


def full_logp(policy: Policy, context: tuple[int, ...], done: Completion, sampling: Sampling) -> list[float]:
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([context + done.tokens])).logits[0, len(context) - 1:-1]
    return sampling_logp(logits, sampling).gather(-1, torch.tensor(done.tokens)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_and_logp_the_full_forward(family):
    policy = tiny(family, eos=(2, 9, 13, 20))
    asked = requests(1, temperature=0.0)
    got = Native(policy).generate(asked)
    width = max(map(len, CONTEXTS))
    ids = torch.tensor([[0] * (width - len(c)) + list(c) for c in CONTEXTS])
    mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in CONTEXTS])
    theirs = policy.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=20, do_sample=False,
                                   eos_token_id=list(policy.eos_ids), pad_token_id=0)[:, width:].tolist()
    for (done,), reference, request in zip(got, theirs, asked, strict=True):
        assert list(done.tokens) == reference[:len(done.tokens)]
        assert (done.finish == "stop") == (done.tokens[-1] in policy.eos_ids)
        assert done.finish == "stop" or len(done.tokens) == 20
        assert not set(done.tokens[:-1]) & set(policy.eos_ids)
        assert done.logp == pytest.approx(full_logp(policy, request.context.tokens, done, request.sampling), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6, "top_k": 12, "top_p": 0.9, "min_p": 0.02}])
def test_sampled_logp_is_that_of_the_sampled_distribution(family, sampling):
    policy = tiny(family, eos=(2, 9))
    asked = requests(**sampling)
    finishes = set()
    for request, group in zip(asked, Native(policy).generate(asked), strict=True):
        for done in group:
            assert done.logp == pytest.approx(full_logp(policy, request.context.tokens, done, request.sampling), abs=1e-4)
            assert np.isfinite(done.logp).all()
            finishes.add(done.finish)
    assert finishes <= {"stop", "length"}


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "qwen3_moe"])
def test_windowed_attention_beyond_the_window(family):
    policy = tiny(family, eos=(2, 9))
    policy.model.config.sliding_window = 6
    for module in policy.model.modules():
        if "sliding_window" in module.__dict__ and module.sliding_window is not None:
            module.sliding_window = 6
    engine = Native(policy)
    assert engine.window == 6
    asked = requests(2)
    for request, group in zip(asked, engine.generate(asked), strict=True):
        for done in group:
            assert done.logp == pytest.approx(full_logp(policy, request.context.tokens, done, request.sampling), abs=1e-4)


def test_a_completion_does_not_depend_on_its_batch():
    policy, asked = tiny(eos=(2, 9)), requests(4)
    whole = Native(policy).generate(asked)
    for rows in (1, 3, 7):
        again = Native(policy, max_rows=rows).generate(asked)
        assert [[c.tokens for c in group] for group in again] == [[c.tokens for c in group] for group in whole]
    backwards = Native(policy).generate(asked[::-1])[::-1]
    alone = [Native(policy).generate([request])[0] for request in asked]
    for other in (backwards, alone):
        assert [[c.tokens for c in group] for group in other] == [[c.tokens for c in group] for group in whole]
        assert [c.logp for group in other for c in group] == [pytest.approx(c.logp, abs=1e-4) for group in whole for c in group]
    assert len({c.tokens for group in whole for c in group}) > 15


def test_equal_contexts_share_one_prefill_and_different_samplings_do_not_mix():
    engine = Native(tiny())
    asked = requests(4)
    engine.generate([*asked, *asked])
    assert engine.stats["prefill_tokens"] == sum(map(len, CONTEXTS))
    short = dataclasses.replace(asked[1], sampling=Sampling(max_tokens=2))
    out = engine.generate([asked[0], short, asked[2]])
    assert [len(c.tokens) for c in out[1]] == [2] * 4
    assert max(len(c.tokens) for c in out[0]) > 2
    assert engine.stats["tokens"] == sum(len(c.tokens) for group in out for c in group)
    assert engine.generate([]) == []
    assert engine.generate([Request(Context((3,)), (), Sampling())]) == [[]]


def test_every_end_is_recorded():
    policy, asked = tiny(eos=(2, 9, 13)), requests(8, max_tokens=10)
    engine = Native(policy)
    engine.version = 3
    seen = set()
    for done in (c for group in engine.generate(asked) for c in group):
        seen.add(done.tokens[-1] if done.finish == "stop" else "length")
        assert (done.finish == "stop") == (done.tokens[-1] in policy.eos_ids)
        assert done.finish == "stop" or len(done.tokens) == 10
        assert done.versions == (VersionSpan(0, len(done.tokens), 3),)
    assert seen == {2, 9, 13, "length"}


def test_stop_strings_end_after_the_token_that_completes_them():
    policy = tiny(eos=(2,))
    free = [c for group in Native(policy).generate(requests(6)) for c in group]
    text = [TOKENIZER.decode(c.tokens[3:5]) for c in free]
    stop = (text[0], text[1][0], "never, ever")
    got = [c for group in Native(policy).generate(requests(6, stop=stop)) for c in group]
    cut = 0
    for before, after in zip(free, got, strict=True):
        ends = [n for n in range(1, 21) if any(s in TOKENIZER.decode(before.tokens[:n]) for s in stop)]
        assert after.tokens == before.tokens[:min(ends, default=20)]
        assert after.finish == ("stop" if ends else before.finish)
        cut += len(after.tokens) < len(before.tokens)
    assert cut >= 3


def test_the_first_token_has_the_models_distribution():
    policy, n = tiny(), 4000
    context = CONTEXTS[0]
    sampling = Sampling(max_tokens=1, temperature=0.8, top_p=0.95)
    request = Request(Context(context), tuple(fold(1, j) for j in range(n)), sampling)
    counts = np.bincount([c.tokens[0] for c in Native(policy, max_rows=1024).generate([request])[0]], minlength=32)
    with torch.no_grad():
        p = sampling_logp(policy.model(input_ids=torch.tensor([context])).logits[0, -1:], sampling).exp()[0].double().numpy()
    assert not counts[p == 0].any()
    live = p > 0
    statistic = ((counts[live] - n * p[live]) ** 2 / (n * p[live])).sum()
    freedom = live.sum() - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_draw_never_takes_an_impossible_token():
    logp = torch.tensor([[-torch.inf, 0.0, -torch.inf], [-torch.inf, -torch.inf, 0.0], [0.0, -torch.inf, -torch.inf]])
    for uniform in (0.0, 0.5, 1.0 - 2**-53):
        assert draw(logp, torch.full((3,), uniform, dtype=torch.float64)).tolist() == [1, 2, 0]


def test_load_copies_checks_and_leaves_shared_tensors():
    policy, other = tiny(), tiny(seed=5)
    engine = Native(policy)
    weights = dict(other.model.named_parameters())
    name = next(iter(weights))
    with pytest.raises(EngineError, match="missing"):
        engine.load({k: v for k, v in weights.items() if k != name}, version=1)
    with pytest.raises(EngineError, match=r"unexpected.*'nonsense'"):
        engine.load({**weights, "nonsense": torch.zeros(1)}, version=1)
    with pytest.raises(EngineError, match="wrong shapes"):
        engine.load({**weights, name: torch.zeros(1)}, version=1)
    assert engine.version == 0
    assert not torch.equal(policy.model.state_dict()[name], weights[name])
    engine.load(weights, version=1)
    asked = requests()
    assert engine.generate(asked)[0][0].versions[0].version == 1
    want = Native(other).generate(asked)
    assert [[c.tokens for c in group] for group in engine.generate(asked)] == [[c.tokens for c in group] for group in want]
    own = dict(policy.model.named_parameters())
    counter = own[name]._version
    engine.load(own, version=2)
    assert own[name]._version == counter
    assert engine.version == 2
    assert all(parameter.requires_grad for parameter in own.values())


def test_impossible_requests_are_refused_before_work():
    engine = Native(tiny(context=16))
    assert len(engine.generate([Request(Context((3,) * 12), (1,), Sampling(max_tokens=4, temperature=0.0))])[0][0].tokens) <= 4
    with pytest.raises(EngineError, match="exceeds the model's 16 positions"):
        engine.generate([Request(Context((3,) * 12), (1,), Sampling(max_tokens=5))])
    with pytest.raises(EngineError, match="at least one token"):
        engine.generate([Request(Context(()), (1,), Sampling(max_tokens=5))])
    with pytest.raises(EngineError, match="max_rows"):
        Native(tiny(), max_rows=0)
