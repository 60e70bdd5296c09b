import pytest
from chat_support import FAMILIES, tokenizer_like

from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError, DataError
from groupwise.models import chat
from groupwise.models.build import random_policy
from groupwise.models.load import load, policy_of, save
from groupwise.models.template import encode, fill, template

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "1+1?"}
REPLY = {"role": "assistant", "content": "2"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rendered_prompt_has_bos_just_once(family):
    tokenizer, bos = tokenizer_like(family), FAMILIES[family][0][0]
    for how in ("none", "r1", "chat", "dapo"):
        text = tokenizer.decode(encode(tokenizer, how, "1+1?"))
        assert "1+1?" in text
        if bos:
            assert (text.count(bos), text.startswith(bos)) == (1, True), how
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ bos_token }}", "")
    ids = encode(tokenizer, "chat", "1+1?")
    assert ids.count(tokenizer.bos_token_id) == (1 if bos else 0)


@pytest.mark.parametrize(("family", "ends"), [
    ("qwen", ("<|endoftext|>", "<|im_end|>")), ("llama", ("<|end_of_text|>", "<|eot_id|>")),
    ("gemma", ("<eos>", "<end_of_turn>")), ("mistral", ("</s>",)), ("distill", ("<|end|>",))])
def test_what_a_chat_template_ends_a_turn_with_ends_an_answer(family, ends, tmp_path):
    tokenizer = tokenizer_like(family)
    model = random_policy(tokenizer, hidden=32, layers=1, mlp=32)
    save(policy_of(model, tokenizer), tmp_path)
    assert load(tmp_path).eos_ids == policy_of(model, tokenizer).eos_ids
    assert tuple(tokenizer.convert_ids_to_tokens(policy_of(model, tokenizer).eos_ids)) == ends


def test_a_chat_model_of_qwen_ends_at_the_document_too():
    tokenizer = tokenizer_like("qwen")
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    policy = policy_of(random_policy(tokenizer, hidden=32, layers=1, mlp=32), tokenizer)
    assert tokenizer.convert_ids_to_tokens(policy.eos_ids) == ["<|im_end|>", "<|endoftext|>"]
    assert policy.pad_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.chat_template = None
    assert chat.ends(tokenizer) == (policy.pad_id,)


def test_what_follows_a_turn_is_no_end_unless_it_is_a_special_token():
    tokenizer = tokenizer_like("qwen")
    for behind in ("", "\n", "END"):
        tokenizer.chat_template = "{% for m in messages %}" + "{{ m['content'] }}" + behind + "{% endfor %}"
        assert tokenizer.convert_ids_to_tokens(chat.ends(tokenizer)) == ["<|endoftext|>"], behind


def test_a_conversation_is_rendered_whole_with_the_system_message_of_the_data_or_the_setting():
    tokenizer = tokenizer_like("qwen")
    say = "<|im_start|>{}\n{}<|im_end|>\n".format
    asked = (USER, REPLY, {"role": "user", "content": "Sure?"})
    tail = say("user", "1+1?") + say("assistant", "2") + say("user", "Sure?") + "<|im_start|>assistant\n"
    assert template("chat").render(tokenizer, "", asked) == tail
    ours = template("chat", system="Think.")
    assert ours.render(tokenizer, "", asked) == say("system", "Think.") + tail
    assert ours.render(tokenizer, "", (SYSTEM, *asked)) == say("system", "Be brief.") + tail
    boxed = template("chat:{question}\nUse \\boxed{}.", system="Think.")
    assert boxed.render(tokenizer, "1+1?") == (say("system", "Think.") + say("user", "1+1?\nUse \\boxed{}.")
                                               + "<|im_start|>assistant\n")


def test_thinking_is_switched_where_the_template_has_a_switch():
    tokenizer, off = tokenizer_like("qwen"), "<think>\n\n</think>\n\n"
    assert template("chat", thinking="off").render(tokenizer, "1").endswith(off)
    for how in ("on", "auto"):
        assert not template("chat", thinking=how).render(tokenizer, "1").endswith(off)
    template("chat", thinking="auto").check(tokenizer_like("gemma"))
    with pytest.raises(ConfigError, match="thinking=off: this tokenizer's chat template knows no 'enable_thinking'"):
        template("chat", thinking="off").check(tokenizer_like("gemma"))
    for more in ({"thinking": "on"}, {"system": "s"}):
        with pytest.raises(ConfigError, match="is for chat templates, and template 'r1' is plain"):
            template("r1", **more)


@pytest.mark.parametrize(("family", "messages", "message"), [
    ("gemma", (SYSTEM, USER), r"prompt 'p': .*refuses messages of the roles system, user: System role not supported"),
    ("gemma", (USER, USER), r"refuses .* must alternate"),
    ("mistral", (SYSTEM, USER), r"drops the message of role 'system' \(of system, user\), which says 'Be brief.'"),
    ("mistral", ({"role": "tool", "content": "42"}, USER), "drops the message of role 'tool'")])
def test_messages_that_a_chat_template_refuses_or_drops_are_named(family, messages, message):
    with pytest.raises(DataError, match=message):
        fill([Prompt("p", "1+1?", 2, messages=messages)], tokenizer_like(family), "chat", 500)


def test_plain_templates_take_one_message_and_refuse_more():
    tokenizer = tokenizer_like("llama")
    one = fill([Prompt("p", "shown", 2, messages=(USER,))], tokenizer, "r1", 900)[0]
    assert tokenizer.decode(one.tokens).endswith("\nUser: 1+1?\nAssistant: <think>")
    with pytest.raises(DataError, match=r"a plain template puts one question, .* of the roles system, user"):
        fill([Prompt("p", "1+1?", 2, messages=(SYSTEM, USER))], tokenizer, "r1", 900)


def test_graders_are_told_what_the_prompt_has_opened():
    tokenizer = tokenizer_like("distill")
    for how, column in (("chat", "<think>"), ("r1", "<think>"), ("none", None)):
        assert fill([Prompt("p", "1", 2, meta={"level": 1})], tokenizer, how, 900)[0].meta.get("opened") == column
    assert fill([Prompt("p", "1", 2, meta={"level": 1})], tokenizer, "r1", 900)[0].meta["level"] == 1
