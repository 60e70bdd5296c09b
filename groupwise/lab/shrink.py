"""The smallest failing example: simplify a sample as long as its check goes on failing, and say whose fault it likely is."""

import time
from dataclasses import dataclass, replace

from groupwise.errors import GroupwiseError
from groupwise.lab.samples import Sample, smaller
from groupwise.lab.trials import Found, Subject, Test
from groupwise.objective.terms import Shared


@dataclass(frozen=True)
class Check:
    """One property. `likely` says where to look; `shrinks` is off for checks that make their own batch."""

    name: str
    test: Test
    likely: str
    tolerance: float = 1e-9
    shrinks: bool = True
    samples: int = 4

    @property
    def says(self) -> str:
        """The property, in a sentence."""
        return " ".join((self.test.__doc__ or self.name).split())


def attempt(check: Check, subject: Subject, sample: Sample) -> Found:
    """The trial; an error that it raises is a failure, except a refusal of the sample by the objective itself."""
    try:
        return check.test(subject, sample)
    except GroupwiseError as error:
        return Found(float("inf"), f"refused: {error}")
    except Exception as error:  # a user's part may raise anything
        return Found(float("inf"), f"raised {type(error).__name__}: {error}")


def shrunk(check: Check, subject: Subject, sample: Sample, found: Found, *, trials: int = 400,
           seconds: float = 6.0) -> tuple[Sample, Found]:
    """A simpler sample on which the check fails in the same way, and what it came to there."""
    end, kind, size, left = time.monotonic() + seconds, _kind(found), found.error, trials
    simpler = True
    while simpler:
        simpler = False
        for candidate in smaller(sample):
            left -= 1
            if left < 0 or time.monotonic() > end:
                return sample, found
            tried = attempt(check, subject, candidate)
            # The example should be plain: an error that is lost in rounding, or a hundred times smaller, shows nothing.
            if tried.error > max(check.tolerance, min(0.01 * size, 0.01)) and _kind(tried) == kind and not tried.skipped:
                sample, found, simpler = candidate, tried, True
                break
    return sample, found


def _kind(found: Found) -> str:
    return found.message.partition(":")[0] if found.message.startswith(("refused", "raised")) else "gradient"


def blamed(check: Check, subject: Subject, sample: Sample) -> str:
    """The terms that fail by themselves, if not all do; else where such a failure usually comes from."""
    terms = {t.name: t for t in subject.objective.terms}
    guilty = []
    for name, term in terms.items():
        rule = term.aggregate
        own = replace(term, aggregate=terms[rule.term].aggregate) if isinstance(rule, Shared) and rule.term in terms else term
        try:
            alone = subject.with_objective(replace(subject.objective, terms=(own,)))
        except (GroupwiseError, TypeError):
            continue
        found = attempt(check, alone, sample)
        if found.error > check.tolerance and _kind(found) == "gradient" and not found.skipped:
            guilty.append(f"{name!r} ({type(own).__name__})")
    if guilty and len(guilty) < len(terms):
        return f"the term {', '.join(guilty)} fails by itself; {check.likely}"
    return check.likely
