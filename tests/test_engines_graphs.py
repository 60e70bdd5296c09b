"""The step that a GPU captures, run as it is written; with a GPU also captured."""

import pytest
import torch
from test_engines_native import requests, tiny

from groupwise.engines.graphs import Graphs
from groupwise.engines.native import Native


def same(mine, theirs):
    for a, b in zip([c for some in mine for c in some], [c for some in theirs for c in some], strict=True):
        assert (a.tokens, a.finish) == (b.tokens, b.finish)
        assert a.logp == pytest.approx(b.logp, abs=1e-4)


SAMPLINGS = [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_k": 12, "top_p": 0.9}, {"max_tokens": 1}]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "qwen3_moe", "gemma3_text"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_fixed_step_gives_what_the_growing_one_gives(family, sampling):
    policy = tiny(family, eos=(2, 9, 13, 20))
    same(Graphs(policy).generate(requests(5, **sampling)), Native(policy).generate(requests(5, **sampling)))


def test_the_batch_begins_anew_when_it_has_halved():
    policy = tiny(eos=(2, 9, 13, 20))
    engine = Graphs(policy)
    found = engine.generate(requests(8, max_tokens=40))
    same(found, Native(policy).generate(requests(8, max_tokens=40)))
    lengths = [len(c.tokens) for some in found for c in some]
    assert sum(n < max(lengths) / 2 for n in lengths) > len(lengths) / 2


@pytest.mark.gpu
def test_a_captured_step_gives_the_same():
    policy = tiny(eos=(2, 9, 13, 20))
    theirs = Native(policy).generate(requests(8))
    policy.model.to("cuda")
    same(Graphs(policy).generate(requests(8)), theirs)
    assert torch.cuda.memory_allocated() > 0
