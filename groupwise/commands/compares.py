"""The commands that set methods against each other: compare, ablate, replay. What does the work is imported in them."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import tyro

from groupwise.commands.common import check_files, write_page
from groupwise.errors import ConfigError
from groupwise.run.disk import write_json
from groupwise.run.settings import Run

ABOUT = ("Run matched runs of several arms and compare them. An arm is a method, recipe:NAME or FILE.toml, perhaps with "
         ":key=value,... behind it; all settings of `groupwise train` may follow, and hold for all arms.")
LADDER = ("Compare a ladder row by row: recipe:NAME or a path for the files NAME-0..., NAME-1..., or the arms one after the "
          "other; settings of `groupwise train` hold for all.")
LONG = 10_000
"""Steps that a budget of tokens is to end before, where no number of steps is given."""


def compare(words: Sequence[str]) -> None:
    """Matched runs of ARM ARM ... over seeds: curves, paired differences with intervals and tests; --html FILE, --json FILE."""
    given, own, rest = _arguments(words, "groupwise compare", ABOUT)
    if len(given) < 2:
        raise ConfigError("give two arms or more, such as grpo dr_grpo, recipe:small-dapo mine.toml, or grpo grpo:kl=0")
    from groupwise.lab import comparison, comparison_page
    from groupwise.lab.arms import arms

    plan = comparison.Plan(**own["plan"])
    found = comparison.compare(arms(given, rest, Run()), plan, _say)
    _report(found, own, comparison_page.console(found), lambda: comparison_page.html(found, "groupwise compare"))


def ablate(words: Sequence[str]) -> None:
    """A ladder of settings (recipe:NAME, or files), each changing one thing of the one before, row by row; as compare."""
    given, own, rest = _arguments(words, "groupwise ablate", LADDER)
    from groupwise.lab import comparison, comparison_page, ladder
    from groupwise.lab.arms import arms
    from groupwise.lab.scorecard import aligned

    found = arms(ladder.rungs(given), rest, Run())
    steps = ladder.check(found)
    results = comparison.compare(found, comparison.Plan(**own["plan"]), _say, ladder.pairs(len(found)))
    rows = ladder.table(results, steps)
    text = "\n".join([*aligned(rows), "", *comparison_page.verdict(results)])
    _report(results | {"ladder": steps}, own, text, lambda: comparison_page.html(results, "groupwise ablate", [rows]))


def replay(words: Sequence[str]) -> None:
    """Rollouts of RUN through many METHODs: loss, gradient norm, cosines, weights of tokens; --html FILE, --json FILE."""

    def arguments(names: tyro.conf.Positional[tuple[str, ...]], fresh: tyro.conf.FlagCreatePairsOff[bool] = False,
                  step: int | None = None, weights: str = "", groups: int = 0, html: str = "", json: str = "") -> tuple[Any, ...]:
        """Put one recorded set of rollouts through many objectives.

        Args:
            names: a run's folder or its name in runs/, then methods (NAME, file.py:function, NAME:key=value,...);
                none: all shipped.
            fresh: sample the rollouts now, with the run's last weights, instead of taking those that it kept.
            step: take the groups that were kept of this step (the first).
            weights: base, model or the number of a checkpoint to replay at; empty: those nearest before the rollouts.
            groups: groups at most; 0: all that were kept, or a step's.
            html: write a page with the weights of every token to this file.
            json: write everything as data to this file.

        """
        return names, fresh, step, weights, groups, html, json

    names, fresh, step, weights, groups, html, file = tyro.cli(arguments, args=list(words), prog="groupwise replay")
    check_files(("--html", html), ("--json", file))
    if not names:
        raise ConfigError("give a run, and the methods to put its rollouts through (all shipped ones if there are none)")
    from groupwise.lab import replay as lab
    from groupwise.lab import replay_page as page
    from groupwise.run.look import run_folder

    found = lab.replay(run_folder(names[0]), names[1:], fresh=fresh, step=step, weights=weights, most=groups)
    own = {"html": html, "json": file}
    _report(found, own, page.console(found), lambda: page.html(found))


def _arguments(words: Sequence[str], prog: str, about: str) -> tuple[list[str], dict[str, Any], list[str]]:
    """Arms, what is this command's own, and the words of `groupwise train` that are left."""
    given = list(takewhile(lambda word: not word.startswith("-"), words))
    rest = list(words[len(given):])

    def arguments(seeds: int = 5, jobs: int = 0, samples: int = 8, problems: int = 0, repeats: int = 8, effect: float = 0.0,
                  budget: int = 0, html: str = "", json: str = "") -> dict[str, Any]:
        """Compare arms over seeds.

        Args:
            seeds: runs of each arm; pairs are seeds.
            jobs: runs at a time, each on one core; 0: one for each core (one on a GPU).
            samples: answers drawn for each held-out problem, besides the greedy one; 0: none.
            problems: held-out problems that are asked after training; 0: as many as the run's evaluations ask.
            repeats: how often a batch's prompts are answered again for the variance of the gradient; 0: not at all.
            effect: the difference in accuracy that matters, such as 0.02, for the number of seeds; 0: the one that is seen.
            budget: tokens that every run samples (`--token-budget`); 0: as many as its steps take.
            html: write the report to this file.
            json: write everything as data to this file.

        """
        return {"plan": {"seeds": seeds, "jobs": jobs, "samples": samples, "problems": problems, "repeats": repeats,
                         "effect": effect},
                "budget": budget, "html": html, "json": json}

    made, left = tyro.cli(arguments, args=rest, prog=prog, description=about, return_unknown_args=True)
    own: dict[str, Any] = dict(made)
    check_files(("--html", own["html"]), ("--json", own["json"]))
    if own["budget"] < 0:
        raise ConfigError(f"budget must be at least 0 (0: no limit), got {own['budget']}")
    if own["budget"]:
        flags = {word.partition("=")[0] for word in left}
        left = [*left, "--token-budget", str(own["budget"]), *(() if "--steps" in flags else ("--steps", str(LONG)))]
    return given, own, list(left)


def _say(text: str) -> None:
    print(text, flush=True)


def _report(found: dict[str, Any], own: dict[str, Any], text: str, page: Any) -> None:
    """Print, and write what was asked for."""
    print()
    print(text)
    if own["json"]:
        write_json(Path(own["json"]), found)
    if own["html"]:
        write_page(own["html"], page())
