"""A reward model: a sequence classifier with one label, whose logit is the reward of an answer to a problem.

Source: the convention of TRL's reward models (`reward_funcs` as a model id, GRPOTrainer): AutoModelForSequenceClassification with
num_labels 1, the conversation by its own chat template, tokenised without further special tokens, the raw logit.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from groupwise.errors import ConfigError
from groupwise.models.load import check_source, context_limit, tokenizer_of

Messages = Sequence[Mapping[str, str]]
"""A conversation: {"role", "content"} each."""
Row = Mapping[str, list[int]]
"""Ids of one text, and where the model tells the two of a pair apart, which of them each belongs to."""
POSITIONS = (2048, 32768)
"""Padded positions of one forward on a processor and on a GPU."""


@dataclass
class RewardModel:
    """A classifier with one label and its own tokenizer; `limit` is its context in tokens."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limit: int

    def score(self, pairs: Sequence[tuple[Messages, str]]) -> list[float | None]:
        """The raw logit of each completion after its conversation; None where they are longer than its context together.

        Rows of alike length run together, padded on the right; no gradient.
        """
        rows = [self.row(messages, completion) for messages, completion in pairs]
        size = [len(row["input_ids"]) for row in rows]
        fits = [i for i in range(len(rows)) if size[i] <= self.limit]
        order, out = sorted(fits, key=lambda i: (-size[i], i)), list[float | None]([None] * len(rows))
        while order:
            n = max(1, POSITIONS[self.model.device.type != "cpu"] // max(1, size[order[0]]))
            batch, order = order[:n], order[n:]
            for i, value in zip(batch, self._logits([rows[i] for i in batch]).tolist(), strict=True):
                out[i] = value
        return out

    def row(self, messages: Messages, completion: str) -> Row:
        """What the model reads: the conversation by its chat template; without one, problem and completion as a pair if its
        tokenizer separates (BERT and its like), else one after the other, with the special tokens that its tokenizer adds.
        """
        prompt = "\n\n".join(message["content"] for message in messages)
        if self.tokenizer.chat_template:
            said = [*messages, {"role": "assistant", "content": completion}]
            row = self.tokenizer(self.tokenizer.apply_chat_template(said, tokenize=False), add_special_tokens=False)
        elif self.tokenizer.sep_token is not None:
            row = self.tokenizer(prompt, completion)
        else:
            row = self.tokenizer(prompt + completion)
        typed = getattr(self.model.config, "type_vocab_size", 0) > 1 and "token_type_ids" in row  # which of a pair it belongs to
        return {name: row[name] for name in (("input_ids", "token_type_ids") if typed else ("input_ids",))}

    @torch.no_grad()
    def _logits(self, rows: Sequence[Row]) -> Float[Tensor, " n"]:
        """[n] float32, of rows that are padded here to the longest of them."""
        ids, device = [row["input_ids"] for row in rows], self.model.device
        width = max(map(len, ids))

        def padded(lists: Sequence[list[int]], filler: int) -> Tensor:
            return torch.tensor([one + [filler] * (width - len(one)) for one in lists], device=device)

        with _padding(self.model, ids) as pad:
            types = {"token_type_ids": padded([row["token_type_ids"] for row in rows], 0)} if "token_type_ids" in rows[0] else {}
            mask = padded([[1] * len(one) for one in ids], 0)
            return self.model(input_ids=padded(ids, pad), attention_mask=mask, **types).logits[:, 0].float()


@contextlib.contextmanager
def _padding(model: PreTrainedModel, rows: Sequence[list[int]]) -> Iterator[int]:
    """The id that rows are padded with.

    transformers' decoders read the score off the last token that is not the configuration's padding id. Where it has none they
    read it off the last token, but refuse more than one row: then any id that ends none of the rows does the same.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is not None:
        yield config.pad_token_id
        return
    ends = {row[-1] for row in rows if row}
    config.pad_token_id = next(i for i in range(len(ends) + 1) if i not in ends)
    try:
        yield config.pad_token_id
    finally:
        config.pad_token_id = None


def load_reward_model(source: str, *, device: str = "cpu") -> RewardModel:
    """The reward model of a folder, or of a hub id if no such folder exists: in float32 on a processor, bfloat16 on a GPU.

    Safetensors only, no remote code. ConfigError says what is missing, or why it is no reward model.
    """
    check_source(source)
    try:
        config, tokenizer = AutoConfig.from_pretrained(source, trust_remote_code=False), tokenizer_of(source)
        wrong = _problem(config.architectures or [], config.num_labels)
        if wrong:
            raise ConfigError(f"{source!r} {wrong}")
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32 if device == "cpu" else torch.bfloat16, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load a reward model from {source!r}: {error}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ConfigError(f"the weights of reward model {source!r} lack {', '.join(missing[:3])}, which would be left random: "
                          "the checkpoint is incomplete")
    # Some models have more positions than a text may use (RoBERTa numbers from 2): their tokenizers say how many.
    limit = min(context_limit(model.config) or 2**31, tokenizer.model_max_length)
    return RewardModel(model.to(device).eval(), tokenizer, limit)


def _problem(architectures: Sequence[str], labels: int) -> str:
    """Why a model is no reward model; empty: it is one."""
    what = ", ".join(architectures) or "a model of no stated architecture"
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        return (f"is no reward model but {what}: its config.json must name a ...ForSequenceClassification with one label (models "
                "with code of their own are not run)")
    if labels != 1:
        return (f"({what}) has {labels} labels, and a reward model has one, whose logit is the reward: give one trained with "
                "num_labels=1, or call the classifier from a reward function of your own")
    return ""
