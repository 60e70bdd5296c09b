"""From a problem's text to the tokens that a policy reads, and from its tokens back to text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from groupwise.core.rollout import Prompt
from groupwise.errors import ConfigError, DataError, nearest


@dataclass(frozen=True)
class Template:
    """What is written around a question; `stop` are the stop strings its authors use with it."""

    before: str = ""
    after: str = ""
    stop: tuple[str, ...] = ()
    chat: bool = False

    def render(self, tokenizer: PreTrainedTokenizerBase, text: str) -> str:
        """The whole prompt as text. ConfigError if the tokenizer's own chat template is wanted and it has none."""
        if not self.chat:
            return self.before + text + self.after
        if not tokenizer.chat_template:
            raise ConfigError("template 'chat' needs a tokenizer with a chat template, and this one has none; use 'none' for a "
                              "base model")
        out: str = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        return out


TEMPLATES: dict[str, Template] = {
    "none": Template(),
    # The R1-Zero and Qwen-Math templates as published with "Understanding R1-Zero-Like Training" (arXiv 2503.20783,
    # sail-sg/understand-r1-zero, train_zero_math.py); "</answer>" stays in the completion.
    "r1": Template(
        before="A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
               "first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning "
               "process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, "
               "i.e., <think> reasoning process here </think> <answer> answer here </answer>.\nUser: ",
        after="\nAssistant: <think>", stop=("</answer>",)),
    "qwen_math": Template(
        before="<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
               "<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n"),
    "chat": Template(chat=True),
}


def template(name: str) -> Template:
    """The template of a name; ConfigError with the nearest name if there is none."""
    if name not in TEMPLATES:
        raise ConfigError(f"unknown template {name!r}; {nearest(name, TEMPLATES)}")
    return TEMPLATES[name]


def encode(tokenizer: PreTrainedTokenizerBase, template_name: str, text: str) -> tuple[int, ...]:
    """The tokens of a rendered prompt.

    Rendered first, tokenised without special tokens, then BOS is added once if the tokenizer would add it by itself and it is not
    there already (chat templates often write it). DataError names a character that the tokenizer cannot express.
    """
    rendered = template(template_name).render(tokenizer, text)
    ids = tokenise(tokenizer, rendered)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("")["input_ids"][:1] == [bos]
    return (bos, *ids) if adds_bos and ids[:1] != (bos,) else ids


def tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The tokens of a piece of text, nothing added. DataError names a character that becomes the unknown or padding token."""
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    ids: list[int] = out["input_ids"]
    holes = {tokenizer.unk_token_id, tokenizer.pad_token_id}
    for place, token in enumerate(ids):
        if token in holes:
            start, end = out["offset_mapping"][place] if tokenizer.is_fast else (0, len(text))
            if text[start:end] != tokenizer.convert_ids_to_tokens(token):  # the special token written out is meant
                raise DataError(f"the tokenizer has no token for {text[start:end]!r} (character {start} of {text[:80]!r}); "
                                "remove it from the data or use a model that knows it")
    return tuple(ids)


def fill(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, template_name: str, context_limit: int) -> list[Prompt]:
    """The prompts with their tokens. DataError for a prompt without tokens or without room for one more below the limit."""
    out = []
    for prompt in prompts:
        tokens = encode(tokenizer, template_name, prompt.text)
        if not tokens:
            raise DataError(f"prompt {prompt.id!r} has no tokens; a completion needs at least one to follow")
        if len(tokens) >= context_limit:
            raise DataError(f"prompt {prompt.id!r} has {len(tokens)} tokens, but the context limit is {context_limit} and a "
                            "completion needs room; drop it or raise the limit")
        out.append(replace(prompt, tokens=tokens))
    return out


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], eos_ids: Collection[int]) -> str:
    """The text of a completion, without EOS and other special tokens."""
    kept = [t for t in tokens if t not in eos_ids]
    out: str = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return out


def pieces(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds, special tokens written out: joined they are the whole text.

    A character that several tokens make is given to the last of them.
    """
    out: list[str] = []
    start, read = 0, 0  # the text before `start` is settled; tokens up to `read` are the context of the next
    for end in range(1, len(tokens) + 1):
        before, whole = (tokenizer.decode(list(tokens[start:stop]), clean_up_tokenization_spaces=False) for stop in (read, end))
        if whole.endswith("\ufffd") and end < len(tokens):
            out.append("")
            continue
        out.append(whole[len(before):])
        start, read = read, end
    return out
