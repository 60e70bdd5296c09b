from pathlib import Path

import pytest
from tokenizers import processors

from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError, DataError
from groupwise.models.build import character_tokenizer
from groupwise.models.template import TEMPLATES, decode, encode, fill, spelled, template


def with_bos():
    tokenizer = character_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return tokenizer


def test_the_published_templates_are_verbatim():
    assert TEMPLATES["none"].render(character_tokenizer(), " a\n") == " a\n"
    r1 = TEMPLATES["r1"].render(character_tokenizer(), "Q?")
    assert r1.startswith("A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The ")
    assert r1.endswith("<think> reasoning process here </think> <answer> answer here </answer>.\nUser: Q?\nAssistant: <think>")
    assert "  " not in r1
    assert TEMPLATES["r1"].stop == ("</answer>",)
    assert TEMPLATES["qwen_math"].render(character_tokenizer(), "Q?") == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(ConfigError, match="did you mean 'qwen_math'"):
        template("qwenmath")


def test_bos_is_added_once_if_the_tokenizer_adds_it():
    assert encode(character_tokenizer(), "none", "12")[0] != 1
    assert encode(with_bos(), "none", "12") == (1, *encode(character_tokenizer(), "none", "12"))
    assert encode(with_bos(), "none", "<bos>12") == encode(with_bos(), "none", "12")


def test_chat_uses_the_tokenizers_template_without_doubling_bos():
    tokenizer = with_bos()
    with pytest.raises(ConfigError, match="needs a tokenizer with a chat template"):
        encode(tokenizer, "chat", "1")
    tokenizer.chat_template = ("<bos>{% for m in messages %}({{ m.content }}){% endfor %}"
                               "{% if add_generation_prompt %}={% endif %}")
    assert encode(tokenizer, "chat", "1+2") == encode(tokenizer, "none", "(1+2)=")


def test_an_unknown_character_is_named():
    with pytest.raises(DataError, match=r"no token for '€' \(character 2"):
        encode(character_tokenizer(), "none", "1+€")
    assert encode(character_tokenizer(), "none", "1<pad>")[-1] == 0


def test_fill_sets_tokens_and_refuses_empty_and_long_prompts():
    tokenizer = character_tokenizer()
    filled = fill([Prompt("a", "1+2=", 3)], tokenizer, "none", 5)
    assert filled[0].tokens == encode(tokenizer, "none", "1+2=")
    with pytest.raises(DataError, match="'b' has 4 tokens, and there is room for 3"):
        fill([Prompt("b", "1+2=", 3)], tokenizer, "none", 4)
    with pytest.raises(DataError, match="'c' has no tokens"):
        fill([Prompt("c", "", 3)], tokenizer, "none", 4)


def test_decode_drops_eos_and_special_tokens():
    tokenizer = character_tokenizer()
    tokens = encode(tokenizer, "none", "1 + 2")
    assert decode(tokenizer, (1, *tokens, 2), (2,)) == "1 + 2"
    assert decode(tokenizer, tokens, (2, tokens[0])) == " + 2"


def test_the_prompt_of_dapo_is_verbatim():
    tokenizer = character_tokenizer()
    with pytest.raises(ConfigError, match="needs a tokenizer with a chat template"):
        TEMPLATES["dapo"].render(tokenizer, "Q?")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert TEMPLATES["dapo"].render(tokenizer, "Q?") == (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
        "(without quotes) where $Answer is the answer to the problem.\n\nQ?\n\nRemember to put your answer on its own line after "
        '"Answer:".')


def test_a_template_of_ones_own_is_a_text_or_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("Q: {question}\nA:\n")
    for name in ("Q: {question}\nA:", "mine.txt", str(tmp_path / "mine.txt")):
        assert template(name).render(character_tokenizer(), "1 {x}") == "Q: 1 {x}\nA:"
    assert (spelled("mine.txt"), spelled("chat:mine.txt"), spelled("r1")) == (
        "Q: {question}\nA:", "chat:Q: {question}\nA:", "r1")
    assert template("chat:mine.txt").chat


@pytest.mark.parametrize(("name", "message"), [
    ("empty.txt", "drops the problem"), ("Solve this. Now", "drops the problem"), ("none.txt", "'none.txt' does not exist"),
    ("{question} {question}", "more than once"), ("quen_math", "did you mean 'qwen_math'"),
    ("chat:Solve it", "drops the problem")])
def test_a_template_that_drops_the_problem_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("Solve it.")
    with pytest.raises(ConfigError, match=message):
        template(name)


def test_long_prompts_are_left_out_if_that_is_wanted():
    prompts = [Prompt("a", "1", 1), Prompt("b", "1+2=", 3)]
    assert [p.id for p in fill(prompts, character_tokenizer(), "none", 4, "drop")] == ["a"]
