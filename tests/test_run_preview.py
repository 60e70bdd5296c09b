import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from chat_support import tokenizer_like
from run_support import tiny_run

from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError, DataError
from groupwise.models.build import random_policy
from groupwise.models.load import policy_of, save
from groupwise.models.template import encode
from groupwise.run.assemble import assemble
from groupwise.run.disk import read_lines
from groupwise.run.loop import resume, train
from groupwise.run.preview import preview


@pytest.fixture(scope="module")
def policy():
    tokenizer = tokenizer_like("qwen")
    return policy_of(random_policy(tokenizer, hidden=32, layers=1, mlp=32), tokenizer)


@pytest.fixture
def talks(policy, tmp_path, monkeypatch):
    """Settings of a run on conversations, the fourth of them longer than the others."""
    monkeypatch.chdir(tmp_path)
    save(policy, Path("model"))
    rows = [{"messages": [{"role": "user", "content": f"{i}+1?{' ' * 90 * (i == 3)}!"}], "answer": i + 1} for i in range(20)]
    Path("talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(tiny_run(Path("model"), task="talks.jsonl", steps=1, checkpoint_every=1, rewards=()),
                   task_args={"verifier": "last_integer"}, template="chat:mine.txt", system="Add.", thinking="off")


def test_the_first_prompt_is_shown_with_its_tokens_and_its_ends(policy):
    tokens = encode(policy.tokenizer, "chat", "1+1?")
    first, text, pieces = preview(Prompt("p", "1+1?", 2, tokens=tokens), "chat", policy, ("</answer>",))
    assert first.startswith(f"first prompt: {len(tokens)} tokens by template 'chat'; its answer ends with ")
    assert first.endswith(f"{policy.eos_ids[0]} '<|endoftext|>', {policy.eos_ids[1]} '<|im_end|>', '</answer>'")
    assert text.strip() == repr("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n")
    assert pieces.startswith(f"  {tokens[0]} '<|im_start|>' {tokens[1]} 'u'")
    assert pieces.endswith(f"{tokens[-1]} '\\n'")
    assert len(pieces) < 200
    assert len(preview(Prompt("p", "", 2, tokens=tokens * 50), "chat", policy)[1]) < 350


def test_conversations_are_trained_on_and_their_run_needs_no_template_file(talks, capsys):
    Path("mine.txt").write_text("{question}\nOne number.\n")
    folder = train(talks)
    whole = ("<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n{}\nOne number.<|im_end|>\n<|im_start|>assistant\n"
             "<think>\n\n</think>\n\n")
    assert repr(whole.format("0+1?!")) in capsys.readouterr().out
    assert read_lines(folder / "heldout.jsonl")[0]["prompt"] == whole.format("18+1?!")
    Path("mine.txt").unlink()
    assert tomllib.loads((folder / "run.toml").read_text())["template"] == "chat:{question}\nOne number."
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace("steps = 1\n", "steps = 2\n"))
    resume(folder)
    assert len(read_lines(folder / "metrics.jsonl")) == 2


def test_overlong_prompts_are_refused_or_left_out_and_counted(talks, tmp_path):
    run = replace(talks, template="chat", max_prompt_tokens=99)
    with pytest.raises(DataError, match=r"prompt 'talks/.*' has 1\d\d tokens, and there is room for 99"):
        assemble(run, tmp_path)
    job = assemble(replace(run, overlong_prompts="drop"), tmp_path)
    with job.grader:
        assert (len(job.task.train), len(job.heldout), len(job.sampler.planner.prompts)) == (17, 2, 17)
        assert [note for note in job.notes if "left out" in note] == ["1 of 18 training prompts are too long and left out"]
    with pytest.raises(DataError, match=r"all 18 prompts of a part of task 'talks.jsonl' have more than 3 tokens"):
        assemble(replace(run, overlong_prompts="drop", max_prompt_tokens=3), tmp_path)


def test_a_wrong_template_is_refused_before_the_model_is_read(talks, tmp_path):
    for changes, message in (({"template": "mine.txt"}, "does not exist"), ({"template": "Solve it"}, "drops the problem"),
                             ({"template": "r1"}, "is for chat templates")):
        with pytest.raises(ConfigError, match=message):
            assemble(replace(talks, model="nowhere/at/all", **changes), tmp_path)
