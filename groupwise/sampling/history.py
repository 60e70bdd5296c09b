"""What is known of each prompt across steps: attempts, successes, last seen, difficulty. Only unaided rollouts are counted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from groupwise.core.rollout import Group


@dataclass
class PromptStat:
    """One prompt's past. `stalled`: several visits in a row without a single success."""

    attempts: int = 0
    successes: int = 0
    visits: int = 0
    last_step: int = -1
    dry_visits: int = 0

    @property
    def difficulty(self) -> float:
        """1 - (successes + 1) / (attempts + 2): 0.5 for a prompt never seen."""
        return 1.0 - (self.successes + 1) / (self.attempts + 2)


class History:
    """The table of all prompts; part of every checkpoint."""

    def __init__(self, stalled_after: int = 3) -> None:
        self.stalled_after = stalled_after
        self.stats: dict[str, PromptStat] = {}

    def of(self, prompt_id: str) -> PromptStat:
        """The prompt's entry (a new one if it was never seen)."""
        return self.stats.setdefault(prompt_id, PromptStat())

    def stalled(self, prompt_id: str) -> bool:
        """Whether the last visits all failed."""
        return prompt_id in self.stats and self.stats[prompt_id].dry_visits >= self.stalled_after

    def observe(self, groups: Sequence[Group], step: int) -> None:
        """Count the rollouts that the policy made unaided."""
        for group in groups:
            unaided = [r for r in group.rollouts if r.episode.unaided and r.verdict.correct is not None]
            if not unaided:
                continue
            stat, wins = self.of(group.prompt.id), sum(bool(r.verdict.correct) for r in unaided)
            stat.attempts += len(unaided)
            stat.successes += wins
            stat.visits += 1
            stat.last_step = step
            stat.dry_visits = 0 if wins else stat.dry_visits + 1

    def state_dict(self) -> dict[str, Any]:
        """The table as JSON values."""
        return {prompt: asdict(stat) for prompt, stat in self.stats.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the table back."""
        self.stats = {prompt: PromptStat(**stat) for prompt, stat in state.items()}
