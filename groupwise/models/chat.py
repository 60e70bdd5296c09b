"""What a tokenizer's own chat template makes of messages, and which token it ends a turn with."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from groupwise.errors import ConfigError, DataError

DOCUMENT_END = "<|endoftext|>"
"""Base models of several families end with it whatever the settings beside them say: what follows is another document."""
_SWITCH = "enable_thinking"
_MARK = "groupwise"


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], thinking: bool | None = None) -> str:
    """The messages as the model is to read them, up to where its answer begins; `thinking` is left to the template if None.

    DataError: the template refuses them (roles it does not know, turns that do not alternate), or leaves out what one of them
    says (those of the assistant apart, whose thoughts templates take out on purpose).
    """
    roles = ", ".join(m["role"] for m in messages)
    switch = {} if thinking is None else {_SWITCH: thinking}
    try:
        out = _applied(tokenizer, messages, add_generation_prompt=True, **switch)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise DataError(f"the tokenizer's chat template refuses messages of the roles {roles}: {error}") from error
    for message in messages:
        if message["role"] != "assistant" and message["content"].strip() not in out:
            raise DataError(f"the tokenizer's chat template drops the message of role {message['role']!r} (of {roles}), which "
                            f"says {message['content'][:60]!r}: the model would not see it")
    return out


def check(tokenizer: PreTrainedTokenizerBase, thinking: bool | None) -> None:
    """ConfigError: there is no chat template, or thinking is to be switched and it has no switch for it."""
    if not tokenizer.chat_template:
        raise ConfigError("this template needs a tokenizer with a chat template, and the model's has none; use 'none' or another "
                          "plain template for a base model")
    if thinking is not None and _SWITCH not in tokenizer.get_chat_template():
        raise ConfigError(f"thinking={'on' if thinking else 'off'}: this tokenizer's chat template knows no {_SWITCH!r}, so it "
                          "would change nothing; leave it at auto")


def ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end an answer besides the EOS ids of the settings: what the chat template puts behind a turn of the assistant
    (such as <|im_end|>), if that is a special token; and `DOCUMENT_END`, where that is one.
    """
    document = _special(tokenizer).get(DOCUMENT_END)
    return tuple(i for i in (turn_end(tokenizer), document) if i is not None)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the special token behind a turn of the assistant; None if no chat template shows one."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": _MARK}]
    try:
        _, found, behind = _applied(tokenizer, turns).rpartition(_MARK)
    except (jinja2.TemplateError, TypeError, ValueError):  # it wants other messages: those of the data will tell
        return None
    tokens: list[str] = tokenizer.tokenize(behind.lstrip()) if found else []
    return _special(tokenizer).get(tokens[0]) if tokens else None


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], **settings: Any) -> str:
    out: str = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **settings)
    return out
