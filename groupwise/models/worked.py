"""A trace as tokens: the prompt as training puts it, and the completion with its end."""

from collections.abc import Mapping, Sequence

from groupwise.errors import DataError
from groupwise.models import chat
from groupwise.models.load import Policy
from groupwise.models.template import OPENED, Template, begun, tokenise


def end_id(policy: Policy, form: Template) -> int:
    """The id that ends a completion: what the chat template puts behind an assistant's turn, where that is in use; else the
    tokenizer's EOS if the policy stops there; else the first id that it stops at.
    """
    known = (chat.turn_end(policy.tokenizer) if form.chat else None, policy.tokenizer.eos_token_id)
    return next((i for i in known if i in policy.eos_ids), policy.eos_ids[0])


def encode_trace(policy: Policy, form: Template, asked: str | Sequence[Mapping[str, str]], completion: str,
                 end: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of prompt and completion, the id `end` once behind it. The prompt's are those of training.

    DataError: the template refuses the prompt, or has opened already what the completion opens.
    """
    text, messages = (asked, ()) if isinstance(asked, str) else (asked[-1]["content"], asked)
    rendered = form.render(policy.tokenizer, text, messages)
    if completion.lstrip().startswith(OPENED) and rendered.rstrip().endswith(OPENED):
        raise DataError(f"the template ends with {OPENED!r} and the completion begins with it: take it out of the completion")
    tokens = tokenise(policy.tokenizer, completion)
    return begun(policy.tokenizer, rendered), tokens if tokens[-1:] == (end,) else (*tokens, end)
