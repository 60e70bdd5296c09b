"""A trace as tokens: the prompt as training puts it, and the completion with its end."""

from collections.abc import Mapping, Sequence

from groupwise.errors import ConfigError, DataError
from groupwise.models.load import Policy
from groupwise.models.template import encode, template, tokenise

OPENED = "<think>"
"""What some templates end with: it belongs to the prompt then, not to the completion."""


def end_id(policy: Policy, template_name: str) -> int:
    """The id that ends a completion: what the chat template puts behind an assistant's turn, where that is in use; else the
    tokenizer's EOS if the policy stops there; else the first id that it stops at.
    """
    tokenizer = policy.tokenizer
    if template(template_name).chat and tokenizer.chat_template:
        turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
        whole = tokenise(tokenizer, tokenizer.apply_chat_template(turns, tokenize=False))
        last = len(whole) - 1 - whole[::-1].index(tokenise(tokenizer, "2")[-1])
        if ends := [i for i in whole[last + 1:] if i in policy.eos_ids]:
            return ends[0]
    own = tokenizer.eos_token_id
    return own if own in policy.eos_ids else policy.eos_ids[0]


def encode_trace(policy: Policy, template_name: str, asked: str | Sequence[Mapping[str, str]], completion: str,
                 end: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of prompt and completion, the id `end` once behind it. The prompt's are those of training.

    DataError: the completion opens what the template has opened already. ConfigError: several messages without template "chat".
    """
    tokenizer = policy.tokenizer
    if isinstance(asked, str):
        context = encode(tokenizer, template_name, asked)
    elif template(template_name).chat and tokenizer.chat_template:
        context = tokenise(tokenizer, tokenizer.apply_chat_template(list(map(dict, asked)), tokenize=False,
                                                                    add_generation_prompt=True))
    else:
        raise ConfigError(f"template {template_name!r} puts one question; a conversation with other messages (of roles "
                          f"{[m['role'] for m in asked]}) needs --template chat and a tokenizer with a chat template")
    if completion.lstrip().startswith(OPENED) and tokenizer.decode(context[-16:]).rstrip().endswith(OPENED):
        raise DataError(f"the template ends with {OPENED!r} and the completion begins with it: take it out of the completion")
    tokens = tokenise(tokenizer, completion)
    return context, tokens if tokens[-1:] == (end,) else (*tokens, end)
