"""The proof of a sync: learner and engine give the same tokens the same log-probs, or the run stops with both numbers.

Checksums of weights cannot show it: in both faults that vLLM's in-place reload has (`inside`) the parameters are right and what
is computed with is not. Compared are fixed sequences, which stay the same over a run, and recent ones, at temperature 1; at the
start also what sampling reports, at the run's temperature.

Two rules. The mean difference stays within TOLERANCE of the narrower of the two number formats (or `engine_tolerance`). And the
engine moves as the learner does: once the learner's log-probs of the fixed sequences have moved by MOVED times what the two
differed by at the start, the engine's must have moved along, by all but MISSED of it. In bfloat16 this shows weights that are not
taken over long before the difference leaves the tolerance.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from groupwise.errors import EngineError

TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 5e-2}
"""Nats, of the mean over tokens. Measured with right weights: 1e-6 and 3e-3 (docs/vllm.md)."""
MOVED, MISSED = 8.0, 0.5
LEAST = 1e-5
"""Nats that the learner must have moved by at least for the second rule."""
RECENT = 8

Text = tuple[tuple[int, ...], tuple[int, ...]]
"""A context and the tokens behind it that are scored."""
Score = Callable[[Sequence[Text], float], list[np.ndarray]]
"""The learner's log-probs of texts at a temperature."""


class Disagreement(EngineError):
    """Learner and engine give the same tokens other log-probs."""


@dataclass(frozen=True)
class Proof:
    """What a comparison found: mean and largest difference in nats, over so many tokens; `missed` is the share of the learner's
    movement since the start that the engine lacks (nan: it has not moved enough to tell).
    """

    mean: float
    most: float
    tokens: int
    missed: float


class Prover:
    """Keeps the sequences, and what the learner said of them at the weights that the engine is to have. `tolerance` takes the
    place of the stated one of the number format.
    """

    def __init__(self, score: Score, dtype: str, room: int, tolerance: float = 0.0) -> None:
        self.score, self.tolerance, self.dtype, self.room = score, tolerance or TOLERANCE[dtype], dtype, room
        self.fixed: list[Text] = []
        self.recent: deque[Text] = deque(maxlen=RECENT)
        self.texts: list[Text] = []
        self.expected: list[np.ndarray] = []
        self.start: tuple[np.ndarray, np.ndarray] | None = None

    def remember(self, texts: Sequence[Text]) -> None:
        """Take note of sequences that were sampled."""
        self.recent.extend(self._short(text) for text in texts[-RECENT:])

    def fix(self, texts: Sequence[Text]) -> None:
        """The sequences that stay the same. EngineError: none has room for a token to be scored and one to be answered with."""
        self.fixed = [text for text in map(self._short, texts) if text[1]]
        if not self.fixed:
            raise EngineError(f"no prompt leaves room in the engine's {self.room} positions for two more tokens, which the "
                              "proof of its weights needs: leave out the longest prompts (max_prompt_tokens)")

    def expect(self) -> None:
        """Ask the learner, at the weights that the engine is given."""
        self.texts = [*self.fixed, *(text for text in self.recent if text[1])]
        self.expected = self.score(self.texts, 1.0)

    def compare(self, found: Sequence[np.ndarray], what: str) -> Proof:
        """The proof. Disagreement: the engine's log-probs are not the learner's, with both numbers; `what` says after what."""
        fixed = len(self.fixed)
        theirs, ours = np.concatenate([*found]), np.concatenate(self.expected)
        gap = np.abs(theirs - ours)
        own, others = np.concatenate(self.expected[:fixed]), np.concatenate([*found[:fixed]])
        missed = float("nan")
        if self.start is not None:
            moved, along = own - self.start[0], others - self.start[1]
            noise = float(np.abs(self.start[0] - self.start[1]).mean())
            if np.abs(moved).mean() > max(MOVED * noise, LEAST):
                missed = float(np.abs(moved - along).mean() / np.abs(moved).mean())
        proof = Proof(float(gap.mean()), float(gap.max()), len(gap), missed)
        if not proof.mean <= self.tolerance:
            raise Disagreement(f"{what}, learner and engine give {proof.tokens} tokens of {len(self.texts)} sequences other "
                               f"log-probs: mean {ours.mean():.6f} by the learner, {theirs.mean():.6f} by the engine, "
                               f"{proof.mean:.2g} nats apart in the mean and {proof.most:.2g} at most, where {self.tolerance:g} "
                               f"is allowed in {self.dtype} (set by engine_tolerance)")
        if proof.missed > MISSED:
            raise Disagreement(f"{what}, the engine did not move as the learner did: since the start the log-probs of fixed "
                               f"sequences moved by {np.abs(moved).mean():.2g} nats in the learner, by "
                               f"{np.abs(along).mean():.2g} in the engine, and {proof.missed:.0%} is missing there, where "
                               f"{MISSED:.0%} is allowed")
        if self.start is None:
            self.start = own, others
        return proof

    def drawn(self, texts: Sequence[Text], logp: Sequence[np.ndarray], temperature: float) -> None:
        """What sampling reported of these tokens, against the learner at the same temperature. Disagreement as above."""
        ours = np.concatenate(self.score(texts, temperature))
        theirs = np.concatenate([*logp])
        gap = float(np.abs(ours - theirs).mean())
        if not gap <= self.tolerance:
            raise Disagreement(f"at temperature {temperature:g} the engine reports a mean log-prob of {theirs.mean():.6f} for "
                               f"what it sampled, and the learner says {ours.mean():.6f} ({gap:.2g} nats apart in the mean, "
                               f"where {self.tolerance:g} is allowed in {self.dtype}, set by engine_tolerance): it is not one "
                               "distribution")

    def _short(self, text: Text) -> Text:
        """The text as far as the engine can read it and still answer with a token."""
        return text[0], text[1][:max(0, self.room - 1 - len(text[0]))]


def same_settings(wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    """EngineError: the engine has another tokenizer, number format, length or kind of log-prob than the run."""
    wrong = [f"{name}: {wanted[name]} in the run, {found.get(name)} in the engine" for name in wanted
             if found.get(name) is not None and wanted[name] != found.get(name)]
    if wrong:
        raise EngineError(f"run and engine are set otherwise ({'; '.join(wrong)[:600]}): the environments read the model's files "
                          "differently; take one version of transformers and tokenizers in both")
