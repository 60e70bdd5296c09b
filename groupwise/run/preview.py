"""The first prompt as the policy reads it, for a person to look at: a wrong template is the commonest silent fault."""

from collections.abc import Sequence

from groupwise.core.rollout import Prompt
from groupwise.models.load import Policy

FIRST, LAST = 3, 6
WIDEST = 320


def preview(prompt: Prompt, template: str, policy: Policy, stop: Sequence[str] = ()) -> list[str]:
    """Three lines: its size and what ends an answer to it, its text with every special token, its first and last tokens."""
    tokens, tokenizer = prompt.tokens, policy.tokenizer
    ends = ", ".join([f"{i} {tokenizer.decode([i])!r}" for i in policy.eos_ids] + [repr(text) for text in stop])
    text = repr(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
    shown = text if len(text) <= WIDEST else f"{text[: WIDEST // 2]} ... {text[-WIDEST // 2:]}"
    pieces = [f"{i} {tokenizer.decode([i])!r}" for i in tokens]
    if len(pieces) > FIRST + LAST + 1:
        pieces = [*pieces[:FIRST], "...", *pieces[-LAST:]]
    return [f"first prompt: {len(tokens)} tokens by template {template[:40]!r}; its answer ends with {ends}", f"  {shown}",
            f"  {' '.join(pieces)}"]
