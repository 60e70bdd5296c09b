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
POSITIONS = {"cpu": 2048, "cuda": 32768}
"""Padded positions of one forward."""


@dataclass
class RewardModel:
    """A classifier with one label and its own tokenizer; `limit` is its context in tokens (None: unlimited)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limit: int | None

    def score(self, pairs: Sequence[tuple[Messages, str]]) -> list[float | None]:
        """The raw logit of each completion after its conversation; None where they are longer than its context together.

        Rows of alike length run together, padded on the right; no gradient.
        """
        rows = [self.tokens(prompt, completion) for prompt, completion in pairs]
        fits = [i for i, row in enumerate(rows) if self.limit is None or len(row) <= self.limit]
        order, out = sorted(fits, key=lambda i: (-len(rows[i]), i)), list[float | None]([None] * len(rows))
        most = POSITIONS["cuda" if self.model.device.type != "cpu" else "cpu"]
        while order:
            n = max(1, most // max(1, len(rows[order[0]])))
            batch, order = order[:n], order[n:]
            for i, value in zip(batch, self._logits([rows[i] for i in batch]).tolist(), strict=True):
                out[i] = value
        return out

    def tokens(self, messages: Messages, completion: str) -> list[int]:
        """What the model reads: the conversation by its chat template; without one, problem and completion as a pair if its
        tokenizer separates (BERT and its like), else one after the other, with the special tokens that its tokenizer adds.
        """
        ids: list[int]
        if self.tokenizer.chat_template:
            said = [*messages, {"role": "assistant", "content": completion}]
            text = self.tokenizer.apply_chat_template(said, tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids
        prompt = "\n\n".join(message["content"] for message in messages)
        if self.tokenizer.sep_token is not None:
            ids = self.tokenizer(prompt, completion)["input_ids"]
        else:
            ids = self.tokenizer(prompt + completion)["input_ids"]
        return ids

    @torch.no_grad()
    def _logits(self, rows: Sequence[list[int]]) -> Float[Tensor, " n"]:
        """[n] float32, of rows that are padded here to the longest of them."""
        device, size = self.model.device, max(1, *(len(row) for row in rows))
        with _padding(self.model, rows) as pad:
            ids = torch.tensor([row + [pad] * (size - len(row)) for row in rows], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows], device=device)
            return self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float()


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
        raise ConfigError(f"the weights of reward model {source!r} lack {', '.join(missing[:3])}, which would be left random: the "
                          "checkpoint is incomplete")
    return RewardModel(model.to(device).eval(), tokenizer, context_limit(model.config))


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
