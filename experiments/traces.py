"""Demonstrations of the embedded task that never answer at once, as a file for `groupwise warmup --traces`."""

import json
from itertools import islice
from pathlib import Path

from groupwise.tasks import DEMONSTRATIONS, make

NUMBER = 6000


def write(path: Path) -> None:
    """Rewrites step by step, of which 15 % are off; without the held-out problems."""
    apart = {p.text for p in make("reduce", {}).heldout}
    found = islice(DEMONSTRATIONS["reduce"](3, direct=0.0, slips=0.15, exclude=apart), NUMBER)
    lines = [json.dumps({"problem": text, "completion": completion}) for text, completion in found]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
