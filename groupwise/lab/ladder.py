"""`groupwise ablate`: a ladder of settings, each of which changes one thing of the one before, compared row by row."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from groupwise.errors import ConfigError
from groupwise.lab.arms import Arm, apart
from groupwise.lab.comparison_page import value, written
from groupwise.lab.scorecard import Table
from groupwise.run import recipes

SAID = ("Each row changes one setting of the row before. Differences are taken seed by seed, with 95 % bootstrap intervals over "
        "seeds; "
        "every row is a look of its own, so of twenty rows without effect one will have p below 0.05.")


def rungs(words: Sequence[str]) -> list[str]:
    """The arms of a ladder: several words are it; one, recipe:NAME or a path without its ending, stands for the files NAME-0...,
    NAME-1...

    ConfigError: there are fewer than two.
    """
    if len(words) > 1:
        return list(words)
    word = words[0] if words else ""
    if word.startswith(recipes.PREFIX):
        own = word.removeprefix(recipes.PREFIX)
        found = [recipes.PREFIX + name for name in recipes.names() if re.fullmatch(rf"{re.escape(own)}-\d+(-.*)?", name)]
        known = sorted({recipes.PREFIX + re.sub(r"-\d+-.*", "", name) for name in recipes.names() if re.search(r"-\d+-", name)})
        hint = f"ladders are shipped for {', '.join(known)}"
    else:
        place = Path(word.removesuffix(".toml"))
        found = [str(file) for file in place.parent.glob(f"{place.name}-*.toml")
                 if re.fullmatch(rf"{re.escape(place.name)}-\d+(-.*)?\.toml", file.name)]
        hint = f"its files would be {place}-0.toml, {place}-1.toml and so on; or give the files one after the other"
    if len(found) < 2:
        raise ConfigError(f"there is no ladder {word!r}: {hint}")
    return sorted(found, key=lambda name: int(re.findall(r"-(\d+)(?:-[^/]*)?(?:\.toml)?$", name)[-1]))


def check(found: Sequence[Arm]) -> list[str]:
    """What every rung changes of the one before. ConfigError: not exactly one thing."""
    steps = []
    for before, one in pairwise(found):
        changed = apart(before, one)
        if len(changed) != 1:
            raise ConfigError(f"the rung {one.name!r} changes {len(changed)} settings of {before.name!r}"
                              f"{': ' + '; '.join(changed) if changed else ''}; a ladder changes one at a time")
        steps += changed
    return steps


def pairs(n: int) -> list[tuple[int, int]]:
    """Every rung with the one before, then those not among these with the first."""
    return [(i, i - 1) for i in range(1, n)] + [(i, 0) for i in range(2, n)]


def table(found: Mapping[str, Any], steps: Sequence[str], metric: str = "accuracy") -> Table:
    """The ladder: what is changed, how good it is then, and the differences to the row before and to the first."""
    known = {(pair["arm"], pair["less"]): pair["by_seed"].get(metric) for pair in found["pairs"]}
    names = [one["name"] for one in found["arms"]]
    rows = []
    for i, one in enumerate(found["arms"]):
        cells = []
        for other in ((names[i - 1], names[0]) if i else ()):
            pair = known.get((one["name"], other))
            cells += [written(metric, pair, signed=True), f"{pair['p']:.2g}"] if pair else ["-", "-"]
        means = one["means"]
        rows.append((names[i], steps[i - 1] if i else "", written(metric, means.get(metric)), *(cells or ["-"] * 4),
                     value("tokens", (means.get("tokens") or {}).get("value"))))
    return Table("The ladder: held-out accuracy, greedy, at the end", (
        "rung", "changes", "accuracy", "to the row before", "p", "to the first", "p", "tokens"), rows, (SAID,))
