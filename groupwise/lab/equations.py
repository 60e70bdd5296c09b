"""The equations of an objective, put together from what its parts say of themselves."""

import re
from dataclasses import dataclass

from groupwise.lab.tex import parse, signs
from groupwise.lab.toy import is_local, through_ratio
from groupwise.objective.aggregate import Aggregate
from groupwise.objective.correction import Correction
from groupwise.objective.credit import Advantage, Blend
from groupwise.objective.latex import bracketed, equation, number, says
from groupwise.objective.objective import Objective
from groupwise.objective.penalties import Kl
from groupwise.objective.terms import Joint, Policy, Shared, Term

OUTSIDE = r"-C\, "
"""How a term begins that the correction multiplies."""
INDEX = {"token": "i,t", "segment": "k", "sequence": "i", "episode": "i", "group": "g"}
MEANINGS = {
    r"\pi_\theta": "the policy that is trained", r"\mu": "what the ratio divides by: the behaviour of the token",
    r"\ell": "log π_θ of a token", r"\rho": "the ratio", r"\mathrm{sg}": "no gradient goes through this",
    "N": "episodes of the optimiser step", "N_{+}": "episodes of the optimiser step that no mask emptied",
    "M": "trained tokens of the optimiser step", "M_{+}": "tokens of the optimiser step after masks",
    "M^{(g)}": "trained tokens of the group", "M_{+}^{(g)}": "tokens of the group after masks",
    "P": "groups of the optimiser step", "|o_i|": "trained tokens of episode i", "n_i": "trained units of episode i",
    "n": "units of the optimiser step with a trained token", "G": "rollouts of the group", "A": "the advantage, constant",
    "r": "the signal behind the advantage: the reward after shaping", "R": "the reward; for a critic the return",
    "u": "log π_ref − log π_θ",
    "C": "the correction of engine against learner, constant", "c": "learner over engine, constant",
    "k": "the product of the gates", r"\sigma": "the logistic function", "K": "micro-batches of the optimiser step",
    "M_k": "trained tokens of the micro-batch", "H": "the entropy of the next-token distribution",
    "V": "the critic's value", r"\bar{r}_g": "the mean over the rollouts of a group",
    r"\mathrm{std}_g": "over the rollouts of a group", r"\mu_{\mathrm{eng}}": "the engine that sampled",
}


MISMATCH = r"\frac{\pi_{\mathrm{old}}(o_{i,t})}{\mu_{\mathrm{eng}}(o_{i,t})}"


@dataclass(frozen=True)
class Equation:
    """`left` = the `right` parts one after the other (each a summand), with a remark; `name` says what it is the equation of."""

    name: str
    left: str
    right: tuple[str, ...]
    note: str = ""

    @property
    def latex(self) -> str:
        """On one line."""
        return f"{self.left} = {' '.join(self.right)}"


def equations(objective: Objective) -> tuple[Equation, ...]:
    """The loss, the letters in it, and the gradient with respect to a token's log-prob."""
    policies = [term for term in objective.terms if isinstance(term, Policy)]
    loss = tuple(_signed(summand(objective, term), first=i == 0) for i, term in enumerate(objective.terms))
    found = [Equation("loss", r"\mathcal{L}", loss, _weights_note(objective))]
    for one in policies:
        if _uses(equation(one.trust), r"\rho") or through_ratio(one.trust):
            of = "" if len(policies) == 1 else rf"^{{\mathrm{{{one.name}}}}}"
            at = "i,t" if is_local(one.ratio) else INDEX.get(one.ratio.unit, "u")
            inside = ", with the correction C as a factor" if objective.correction.active and one.corrected == "inside" else ""
            found.append(Equation("ratio", rf"\rho{of}_{{{at}}}", (equation(one.ratio),), f"per {one.ratio.unit}{inside}"))
        found += [Equation("gate", "k", (equation(gate),), "a token's factor, constant") for gate in one.gates]
    credit = objective.credit_by
    said = equation(credit)
    left, whole = ("A_i" if isinstance(credit, Advantage) else "A"), re.match(r"(\\hat A_t) = (.*)", said)
    found.append(Equation("credit", whole[1], (whole[2],)) if whole else Equation("credit", left, (said,)))
    if isinstance(credit, Advantage):
        cells, signal = "" if credit.key == "group" else f"statistics over the cells of {credit.key}", equation(credit.signal)
        if signal != "r_i" or cells:
            found.append(Equation("signal", "r_i", (signal,), cells))
    if isinstance(credit, Blend):
        found += [Equation("signal", rf"r_i^{{({n + 1})}}", (equation(part.signal),), f"the r of summand {n + 1}")
                  for n, (_, part) in enumerate(credit.parts)]
    if objective.correction.active:
        found += [Equation("correction", "C", (equation(objective.correction),), "constant: no gradient goes through it"),
                  Equation("mismatch", "c", (MISMATCH,), _unit_of(objective.correction))]
    found += [Equation("screen", r"\mathrm{kept}", (equation(part),), "tokens outside leave numerator and denominator")
              for part in objective.screen]
    for term in objective.terms:
        if isinstance(term, Kl):
            other = r"\pi_{\mathrm{ref}}" if term.against == "ref_logp" else rf"\pi_{{\mathrm{{{term.against}}}}}"
            found.append(Equation("distance", "u", (rf"\log {other} - \log \pi_\theta",),
                                  f"on samples of the policy the gradient of this penalty is that of {term.gradient}"))
    return (*found, *_gradient(objective))


def glossary(found: tuple[Equation, ...]) -> dict[str, str]:
    """The letters that occur in equations, in LaTeX, and what they stand for."""
    text = " ".join(one.latex for one in found)
    return {letter: meaning for letter, meaning in MEANINGS.items() if _uses(text, letter)}


def summand(objective: Objective, term: Term) -> str:
    """One term with its weight under its sum; what begins with a minus is subtracted."""
    body = _body(objective, term)
    sign = "-" if body.startswith("-") and bracketed(body[1:]) == body[1:] else ""
    body = bracketed(body[len(sign):].strip())
    sign = {("", True): "", ("-", True): "-", ("", False): "-", ("-", False): ""}[sign, term.coef >= 0]
    coef = "" if abs(term.coef) == 1 else number(abs(term.coef)) + " "
    return rf"{sign}{coef}\sum_{{{INDEX.get(term.unit, 'u')}}} {weight(objective, term)}\, {body}"


def weight(objective: Objective, term: Term) -> str:
    """The weight of a term's losses, in LaTeX."""
    return equation(_rule(objective, term), r"_{i,t}", unit=term.unit)


def _rule(objective: Objective, term: Term) -> Aggregate:
    rule = term.aggregate
    if isinstance(rule, Shared):
        wanted = rule.term
        return _rule(objective, next(other for other in objective.terms if other.name == wanted))
    return rule.aggregate if isinstance(rule, Joint) else rule


def _body(objective: Objective, term: Term) -> str:
    """What the term says its loss is; without the correction where there is none."""
    body = equation(term, rf"_{{{INDEX.get(term.unit, 'u')}}}")
    return body if objective.correction.active else body.replace(OUTSIDE, "-", 1) if body.startswith(OUTSIDE) else body


def _unit_of(correction: Correction) -> str:
    """At which unit c is taken."""
    unit = getattr(correction, "unit", "token")
    how = "mean of the logs" if getattr(correction, "mean", False) else "product"
    return "per token" if unit == "token" else f"the {how} over a {unit}"


def _gradient(objective: Objective) -> list[Equation]:
    """The gradient to a token's log-prob: the terms' weights times their slopes."""
    summands, slopes = [], []
    for term in objective.terms:
        if isinstance(term, Policy) and says(term, "latex") and type(term).losses is Policy.losses:
            mark = "f'" if sum(isinstance(other, Policy) for other in objective.terms) == 1 else rf"f'_{{\mathrm{{{term.name}}}}}"
            known, through = says(term.trust, "slope_latex"), through_ratio(term.trust) and not is_local(term.ratio)
            slope = term.trust.slope_latex() if known else r"\frac{\partial f}{\partial \ell}"  # type: ignore[attr-defined]
            note = "∂f/∂log ρ" if through else "∂f/∂ℓ"
            unsaid = f"{type(term.trust).__name__} does not say its slope: the table below has its numbers"
            slopes.append(Equation("slope", mark, (slope,), note if known else unsaid))
            summands.append(_policy_summand(objective, term, mark))
        elif says(term, "slope_latex"):
            slope = term.slope_latex()  # type: ignore[attr-defined]
            if slope != "0":
                summands.append(_times(objective, term, slope))
        else:
            summands.append(_times(objective, term, rf"\frac{{\partial L^{{\mathrm{{{term.name}}}}}}}{{\partial \ell_{{i,t}}}}"))
    whole = tuple(_signed(one, first=i == 0) for i, one in enumerate(summands)) or ("0",)
    return [Equation("gradient", r"\frac{\partial \mathcal{L}}{\partial \ell_{i,t}}", whole), *slopes]


def _policy_summand(objective: Objective, term: Policy, mark: str) -> str:
    factor = r"C\, " if objective.correction.active and term.corrected == "outside" else ""
    factor += r"k\, " if term.gates else ""
    if through_ratio(term.trust) and not is_local(term.ratio):
        slope = term.ratio.slope_latex() if says(term.ratio, "slope_latex") else ""  # type: ignore[attr-defined]
        inside = rf"\sum_{{s \in {INDEX.get(term.ratio.unit, 'u')}}} {weight(objective, term)}\, {factor}{mark}_s"
        if not slope:
            inside += r"\, \frac{\partial \log \rho_s}{\partial \ell_t}"
        body = inside if slope in ("", "1") else rf"{slope} {inside}"
    else:
        body = rf"{weight(objective, term)}\, {factor}{mark}"
    coef = "" if abs(term.coef) == 1 else number(abs(term.coef)) + r"\, "
    return f"{'-' if term.coef >= 0 else ''}{coef}{body}"


def _times(objective: Objective, term: Term, slope: str) -> str:
    minus = slope.startswith("-") and bracketed(slope[1:]) == slope[1:]
    sign = "-" if minus != (term.coef < 0) else ""
    coef = "" if abs(term.coef) == 1 else number(abs(term.coef)) + r"\, "
    body = bracketed(slope[1:] if minus else slope)
    return rf"{sign}{coef}{weight(objective, term)}" + ("" if body == "1" else rf"\, {body}")


def _signed(latex: str, first: bool) -> str:
    """A summand with its sign in front."""
    if latex.startswith("-"):
        return f"- {latex[1:]}" if not first else latex
    return latex if first else f"+ {latex}"


def _weights_note(objective: Objective) -> str:
    """What the weights are counted over, where that is not the term's own tokens."""
    notes = [f"{term.name}: denominators count the tokens of {', '.join((term.name, *term.aggregate.terms))}"
             for term in objective.terms if isinstance(term.aggregate, Joint)]
    notes += [f"{term.name}: tokens of behaviour {', '.join(term.of_behaviour)} only" for term in objective.terms
              if term.of_behaviour]
    return "; ".join(notes)


def _uses(latex: str, letter: str) -> bool:
    """Whether an equation has a letter in it, sign by sign."""
    inside, wanted = [s.text for s in signs(parse(latex))], [s.text for s in signs(parse(letter))]
    return any(inside[i:i + len(wanted)] == wanted for i in range(len(inside) - len(wanted) + 1))
