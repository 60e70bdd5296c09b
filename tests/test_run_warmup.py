import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from groupwise import cli
from groupwise.errors import ConfigError, DataError
from groupwise.learner.learner import Learner
from groupwise.learner.settings import Settings
from groupwise.models.build import byte_pair_tokenizer, character_tokenizer, random_policy
from groupwise.models.load import load, policy_of, save
from groupwise.models.template import encode, template
from groupwise.models.worked import encode_trace, end_id
from groupwise.objective.batch import pack
from groupwise.run import supervised
from groupwise.run.disk import read_json
from groupwise.run.supervised import Example, batches, encoded, group_of
from groupwise.tasks.traces import Trace, held_out, read

CHAT = ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}")
LINES = [{"problem": f"What is {a} plus {b}?", "solution": f"{a}+{b} is {a + b}.\n#### {a + b}", "answer": str(a + b)}
         for a in range(10) for b in range(4)]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return written(tmp_path / "traces.jsonl", LINES)


def written(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def tiny(chat: bool = False):
    tokenizer = byte_pair_tokenizer(["What is this? It is nothing much."], 300)
    if chat:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
        tokenizer.chat_template = CHAT
    policy = policy_of(random_policy(tokenizer, hidden=32, layers=1, mlp=48, context=128), tokenizer)
    if chat:
        policy.eos_ids = (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end>"))
    return policy


def test_a_random_policy_learns_a_file_and_serves_plain_transformers(file, capsys):
    words = ["warmup", "--out", "base", "--traces", file, "--hidden", "32", "--layers", "1", "--mlp", "48", "--vocabulary", "400",
             "--epochs", "12", "--tokens", "300", "--lr", "0.02", "--heldout", "0.1", "--json", "out/w.json", "--threads", "1"]
    assert cli.main(words) == 0, capsys.readouterr().err
    report = read_json(Path("out/w.json"))
    assert report == read_json(Path("base/warmup.json"))
    found = report["measured"]
    assert (found["learnt"], found["heldout"], found["too_long"]) == (36, 4, 0)
    assert found["heldout_loss"] < 0.5 * found["heldout_loss_before"]
    assert "held-out loss" in capsys.readouterr().out
    plain, tokenizer = AutoModelForCausalLM.from_pretrained("base"), AutoTokenizer.from_pretrained("base")
    assert plain.config.vocab_size == 416  # a multiple of 32, of which the tokenizer fills what it found
    assert len(tokenizer) < 416
    ids = torch.tensor([tokenizer("What is 3 plus 2?")["input_ids"]])
    out = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40)[0, ids.shape[1]:].tolist()
    assert out[-1] == tokenizer.eos_token_id  # it has learnt to end, and the folder says where
    assert load("base").eos_ids == (2,)
    again = ["warmup", "--out", "more", "--traces", file, "--start", "base", "--steps", "2", "--tokens", "300", "--threads", "1"]
    assert cli.main([*again, "--store", "bfloat16", "--compute", "modules"]) == 0, capsys.readouterr().err
    report = read_json(Path("more/warmup.json"))
    assert report["settings"]["lr"] == 1e-5
    assert report["measured"]["heldout_loss_before"] == pytest.approx(found["heldout_loss"], rel=0.5)
    assert read_json(Path("more/config.json"))["dtype"] == "bfloat16"


def test_the_same_seed_gives_the_same_weights(file):
    for name in ("a", "b"):
        assert cli.main(["warmup", "--out", name, "--traces", file, "--hidden", "32", "--layers", "1", "--mlp", "48",
                         "--vocabulary", "300", "--steps", "3", "--tokens", "200", "--threads", "1"]) == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_only_the_completion_is_learnt_and_it_ends_once():
    policy = tiny()
    end = end_id(policy, template("none"))
    assert end == policy.tokenizer.eos_token_id
    context, tokens = encode_trace(policy, template("none"), "What is it?", "It is.", end)
    assert context == encode(policy.tokenizer, "none", "What is it?")
    assert (policy.tokenizer.decode(tokens), tokens[-1]) == ("It is.<eos>", end)
    assert encode_trace(policy, template("none"), "What is it?", "It is.<eos>", end)[1] == tokens
    batch = pack([group_of(Example(context, tokens), 0)], default="unknown")
    assert batch.contexts == (context,)
    assert batch.tokens.tolist() == list(tokens)
    assert bool(batch.loss_mask.all())


def test_the_gradient_is_that_of_the_mean_over_all_completion_tokens():
    policy, examples = tiny(), [Example((5, 6, 7), (9, 8, 2)), Example((11,), (12, 2))]
    learner = Learner(policy, Settings(micro_tokens=4))
    batch = pack([group_of(one, i) for i, one in enumerate(examples)], default="unknown")
    learner.gradients(supervised.OBJECTIVE.weigh(batch), supervised.OBJECTIVE)
    got = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    terms = []
    for one in examples:
        logits = policy.model(input_ids=torch.tensor([[*one.context, *one.tokens]])).logits[0, len(one.context) - 1:-1]
        terms.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(one.tokens)[:, None])[:, 0])
    loss = -torch.cat(terms).mean()
    loss.backward()
    for name, parameter in policy.model.named_parameters():
        assert torch.allclose(got[name], parameter.grad, atol=1e-6), name
    assert supervised.loss(learner, examples) == pytest.approx(float(loss.detach()), abs=1e-6)


def test_a_conversation_is_put_by_the_chat_template_and_ends_as_it_says(tmp_path):
    said = (("system", "Be brief."), ("user", "2?"), ("assistant", "It is 2."))
    turns = [{"role": role, "content": content} for role, content in said]
    (trace,) = read(written(tmp_path / "t.jsonl", [{"messages": turns}]))
    policy = tiny(chat=True)
    end = end_id(policy, template("chat"))
    assert end == policy.tokenizer.convert_tokens_to_ids("<end>")  # not the first EOS id
    assert end_id(policy, template("none")) == policy.tokenizer.eos_token_id
    context, tokens = encode_trace(policy, template("chat"), trace.asked, trace.completion, end)
    assert policy.tokenizer.decode(context) == "<|system|>Be brief.<|user|>2?<|assistant|>"
    assert policy.tokenizer.decode(tokens) == "It is 2.<end>"
    with pytest.raises(DataError, match="roles system, user: use a chat template"):
        encode_trace(policy, template("r1"), trace.asked, trace.completion, end)
    (alone,) = read(written(tmp_path / "u.jsonl", [{"messages": turns[1:]}]))
    assert alone.asked == "2?"
    assert encode_trace(policy, template("chat"), alone.asked, "x", end)[0] == encode(policy.tokenizer, "chat", "2?")


def test_what_the_template_opened_is_not_opened_again():
    policy = tiny()
    with pytest.raises(DataError, match="take it out of the completion"):
        encode_trace(policy, template("r1"), "1+1?", "<think>hm</think> <answer>2</answer>", 2)
    assert encode_trace(policy, template("none"), "1+1?", "<think>hm</think>", 2)[1][-1] == 2


def test_long_traces_are_left_out_whole_and_counted():
    policy = tiny()
    traces = [Trace(f"f, line {i}", "q", "x" * 10 * i) for i in range(1, 6)]
    kept, dropped = encoded(policy, template("none"), traces, 2, 33)
    assert (len(kept), dropped) == (3, 2)
    assert [len(one.tokens) for one in kept] == [11, 21, 31]
    with pytest.raises(DataError, match="f, line 1: the prompt has no tokens"):
        encoded(policy, template("none"), [Trace("f, line 1", "", "x")], 2, 33)
    bare = policy_of(random_policy(character_tokenizer(), hidden=32, layers=1, mlp=48), character_tokenizer())
    with pytest.raises(DataError, match=r"f, line 1: .*no token for '€'"):
        encoded(bare, template("none"), [Trace("f, line 1", "1", "€")], 2, 33)


def test_every_epoch_is_a_shuffle_and_a_step_has_its_tokens():
    examples = [Example((1,) * n, (2,)) for n in range(1, 21)]
    plan = batches(examples, 40, 3, 0, seed=1)
    seen = [i for part in plan for i in part]
    assert [sorted(seen[k:k + 20]) for k in (0, 20, 40)] == [list(range(20))] * 3
    assert seen[:20] != seen[20:40]
    sizes = [sum(examples[i].size for i in part) for part in plan]
    assert all(40 <= size < 40 + 21 for size in sizes[:-1])
    assert batches(examples, 40, 3, 0, seed=1) == plan != batches(examples, 40, 3, 0, seed=2)
    assert len(batches(examples, 40, 3, 50, seed=1)) == 50


@pytest.mark.parametrize(("line", "message"), [
    ({"problem": "1?"}, "line 2: no completion; one of the fields completion, response, solution"),
    ({"solution": "1"}, "line 2: no problem"),
    ({"messages": [{"role": "user", "content": "1"}]}, "line 2: 'messages' must end with a turn of role 'assistant'"),
    ({"messages": [{"role": "user"}]}, "line 2: 'messages', message 1: expected an object"),
    ({"problem": "1?", "solution": " "}, "line 2: no completion")])
def test_a_line_that_is_no_trace_is_named(line, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(written(tmp_path / "t.jsonl", [LINES[0], line]))


def test_a_column_of_ones_own_and_lines_held_out(tmp_path):
    lines = [{"question": f"{i}?", "mine": f"{i}", "solution": "no", "split": "test" if i == 3 else "train"} for i in range(20)]
    traces = read(written(tmp_path / "t.jsonl", lines), "mine")
    assert [t.completion for t in traces[:2]] == ["0", "1"]
    train, apart = held_out(traces, 0.5, 0)
    assert [t.completion for t in apart] == ["3"]
    train, apart = held_out(read(written(tmp_path / "u.jsonl", LINES)), 0.25, 0)
    assert (len(train), len(apart)) == (30, 10)
    assert not {t.where for t in train} & {t.where for t in apart}
    with pytest.raises(ConfigError, match="share"):
        held_out(traces, 1.0, 0)


@pytest.mark.parametrize(("words", "message"), [
    (["--traces", "nothing.jsonl"], "does not exist"),
    (["--traces", "traces.jsonl", "--template", "r2"], "unknown template"),
    (["--traces", "traces.jsonl", "--vocabulary", "100"], "too small for bytes"),
    (["--traces", "traces.jsonl", "--family", "qwen9"], "unknown model family"),
    (["--traces", "traces.jsonl", "--context", "8"], "are longer than the 8 tokens"),
    (["--traces", "traces.jsonl", "--context", "16", "--overlong", "refuse"], "--overlong drop"),
    (["--traces", "traces.jsonl", "--heads", "5"], "hidden=256 is no multiple of heads=5"),
    (["--traces", "traces.jsonl", "--epochs", "0"], "epochs must be above 0"),
    (["--task", "gsm8k"], "no demonstrations.*or give --traces")])
def test_what_cannot_be_is_refused_before_work(words, message, file, capsys):
    assert cli.main(["warmup", "--out", "base", *words]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said


def test_a_byte_pair_tokenizer_reads_everything_and_cuts_numbers_into_digits(tmp_path):
    tokenizer = byte_pair_tokenizer([line["solution"] for line in LINES], 300)
    text = "Ünïcode 1234 €\n\tend"
    save(policy_of(random_policy(tokenizer, hidden=32, layers=1, mlp=48), tokenizer), tmp_path / "m")
    for one in (tokenizer, load(tmp_path / "m").tokenizer):
        ids = one(text)["input_ids"]
        assert one.decode(ids) == text
        assert [one.decode([i]) for i in one("1234")["input_ids"]] == list("1234")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
