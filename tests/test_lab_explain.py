"""What `groupwise explain` says is what the objective computes."""

import inspect
import itertools
import json
import math
import re
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from rich.console import Console

from groupwise import cli
from groupwise.errors import ConfigError
from groupwise.lab import boxes, equations, page, screen, tex, toy
from groupwise.lab.explain import as_json, explain, latex, paper
from groupwise.lab.mathml import mathml
from groupwise.methods import METHODS
from groupwise.objective import (
    aggregate,
    baselines,
    correction,
    credit,
    gates,
    penalties,
    ratio,
    returns,
    soft,
    terms,
    trust,
)
from groupwise.objective.latex import bracketed, equation, says
from groupwise.objective.terms import Live, Term
from groupwise.run.catalogue import default
from groupwise.run.compose import method_of
from groupwise.run.settings import Run

MINE = '''"""My own (Somebody 2026, arXiv 2601.00001, Eq. 7 and 8).

    J = tanh(rho) A

Departs from the paper: all of it.
Source: none.
"""
from dataclasses import dataclass

import torch

from groupwise.methods.method import Method
from groupwise.objective.aggregate import SequenceMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.objective.trust import Clip


@dataclass(frozen=True)
class Soft:
    """f = tanh(k rho) A / k: no hard edge.

    `k` is a slope, per unit of the ratio.
    """

    k: float = 2.0

    def __call__(self, ratio, advantage, logp):
        return torch.tanh(self.k * ratio) / self.k * advantage

    def stopped(self, ratio, advantage, logp):
        return torch.zeros_like(ratio, dtype=torch.bool)


@dataclass(frozen=True)
class Doubled(Clip):
    """Twice the clip."""

    def __call__(self, ratio, advantage, logp):
        return 2 * super().__call__(ratio, advantage, logp)


def soft(k: float = 3.0) -> Method:
    """`k` is the slope."""
    return Method(Objective(Advantage(), (Policy(trust=Soft(k), aggregate=SequenceMean()),)))


def doubled() -> Method:
    """Twice."""
    return Method(Objective(Advantage(), (Policy(trust=Doubled()),)))
'''


def shown(one, width=120):
    to = Console(width=width, record=True, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    screen.show(one, to)
    return to.export_text()


def part_classes():
    """Every class of the objective's files that an objective is composed of."""
    acting = {"__call__", "weights", "losses"}
    for module in (trust, soft, ratio, correction, aggregate, baselines, returns, credit, gates, terms, penalties):
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and is_dataclass(cls) and not name.startswith("_") \
                    and any(acting & set(vars(base)) for base in cls.__mro__) and cls is not Term:
                yield pytest.param(cls, id=f"{module.__name__.rpartition('.')[2]}.{name}")


@pytest.mark.parametrize("cls", list(part_classes()))
def test_every_part_says_its_equation(cls):
    assert says_of(cls, "latex"), f"{cls.__name__} computes something of its own but has no `latex`"
    if cls.__module__ in (trust.__name__, soft.__name__, ratio.__name__, terms.__name__, penalties.__name__):
        assert says_of(cls, "slope_latex") or cls is terms.Policy  # which is put together from its parts


def says_of(cls, name):
    made = object.__new__(cls)
    return says(made, name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_itself(name):
    one = explain(name)
    assert one.trouble == ""
    text, html = shown(one), page.explanation(one)
    for said in (one.title, one.hash, "Gradient", "A worked example"):
        assert said in text
    for part in one.parts:
        assert part.name in text
        assert part.name in html
        assert part.latex or part.name in ("Shared", "Joint")
    assert one.paper.citation
    assert one.source != "not said"
    assert one.departs != "not said"
    assert json.loads(json.dumps(as_json(one)))["hash"] == default(METHODS[name]).objective.hash
    assert "\\mathrm{" + type(default(METHODS[name]).objective.terms[0]).__name__ not in latex(one)
    assert max(map(boxes.columns, text.splitlines())) <= 120


DETACHED = {"cispo", "gspo_token", "dppo", "vespo"}
"""Finite differences would move what these hold constant."""


@pytest.mark.parametrize("name", sorted(set(METHODS) - DETACHED))
def test_the_worked_gradient_is_that_of_finite_differences(name):
    method = default(METHODS[name])
    stage = toy.scene(method)
    batch, live = stage.batch, stage.live
    exact = np.array([row.gradient for row in toy.work(method).rows])
    step = 1e-6
    found = []
    for t in np.flatnonzero(batch.behaviour != toy.NONE).tolist():
        both = []
        for sign in (1, -1):
            logp = live.logp.clone()
            logp[t] += sign * step
            both.append(float(method.objective.loss(replace(live, logp=logp), batch).value))
        found.append((both[0] - both[1]) / (2 * step))
    np.testing.assert_allclose(found, exact, atol=1e-8)
    assert np.abs(exact).max() > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_the_summands_of_the_gradient_add_up(name):
    for row in toy.work(default(METHODS[name])).rows:
        assert sum(row.by_term.values()) == pytest.approx(row.gradient, abs=1e-12)


def test_the_worked_table_of_grpo_by_hand():
    rows = {(r.group, r.completion, r.token): r for r in explain("grpo", ["kl=0"]).worked.rows}
    std = np.std([1.0, 0.0, 0.5, 0.0], ddof=1) + 1e-6
    first = rows[1, 1, 1]
    assert first.advantage == pytest.approx((1 - 0.375) / std)
    assert first.weight == pytest.approx(1 / (6 * 3))  # six episodes in the step, three tokens in this one
    assert first.gradient == pytest.approx(-first.advantage / 18)
    assert rows[1, 1, 3].stopped
    assert rows[1, 1, 3].gradient == 0
    assert rows[1, 2, 4].gradient == pytest.approx(0.375 / std * 3.5 / 24)  # far above the band, but its advantage is negative


def test_the_worked_table_of_gspo_by_hand():
    rows = {(r.group, r.completion, r.token): r for r in explain("gspo").worked.rows}
    assert rows[1, 3, 1].ratio == pytest.approx(1.0)  # 0.8 * 1.25
    assert rows[1, 2, 1].ratio == pytest.approx((0.9 * 0.7 * 1.3 * 3.5) ** 0.25)
    assert [rows[1, 1, t].stopped for t in (1, 2, 3)] == [True] * 3


def test_a_changed_clip_changes_equation_gradient_and_table():
    a, b = explain("grpo"), explain("grpo", ["clip_high=0.28"])
    assert "1.28" not in latex(a)
    assert latex(b).count("1.28") == 2  # the objective and the gradient
    assert "1.28" in shown(b)
    assert [r.stopped for r in a.worked.rows] != [r.stopped for r in b.worked.rows]
    assert a.hash != b.hash
    assert next(f for f in b.arguments if f.name == "clip_high").value == "0.28"


TRUSTS = [trust.LogProb(), trust.Unclipped(), trust.Clip(), trust.Clip(0.1, 0.4, 3.0), trust.DetachClip(),
          trust.DetachClip(0.1, 0.3), trust.Clip(0.2, 0.3, None, 2.0), trust.Clip(0.2, 0.3, 4.0, 2.0), trust.DetachCap(3.0),
          soft.Sigmoid(), soft.Sigmoid(2.0, 0.5), soft.GammaWeight(), soft.GammaWeight(1.5, 0.5, 2.0, 1.0), soft.Shaped(),
          soft.Divergence(), soft.Divergence("tv", 0.1, 0.2, None, False), soft.Divergence("tv", 0.3, 0.3, 2.0, False)]


@pytest.mark.parametrize("rule", TRUSTS, ids=map(str, TRUSTS))
def test_the_slope_that_a_trust_rule_writes_is_its_gradient(rule):
    for rho in (0.3, 0.85, 1.0, 1.25, 1.35, 2.9, 3.5, 6.0):
        for a in (1.5, -0.5):
            logp = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
            r = rho * (logp - logp.detach()).exp()
            value = rule(r, torch.tensor([a], dtype=torch.float64), logp)
            exact = torch.autograd.grad(value.sum(), logp)[0].item()
            assert value_of(rule.slope_latex(), rho, a) == pytest.approx(exact, abs=1e-12, rel=1e-5), (rho, a)
            assert value_of(rule.latex(), rho, a) == pytest.approx(value.item(), abs=1e-12, rel=1e-5), (rho, a)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_that_is_written_is_the_gradient_of_the_table(name):
    term = default(METHODS[name]).objective.terms[0]
    rows = [row for row in explain(name).worked.rows if not row.gated]
    slopes = [-row.weight * value_of(term.trust.slope_latex(), row.ratio, row.advantage, logp_of(row)) for row in rows]
    whole = toy.through_ratio(term.trust) and not toy.is_local(term.ratio)
    for row, own in zip(rows, slopes, strict=True):
        of_unit = [s for s, r in zip(slopes, rows, strict=True) if (r.group, r.completion) == (row.group, row.completion)]
        # through a sequence's ratio: the sum over its tokens, divided by its length
        expected = sum(of_unit) / len(of_unit) if whole else own
        if isinstance(term.ratio, ratio.HeldSequenceRatio):
            log = math.log(toy.RATIOS[row.group - 1][row.completion - 1][row.token - 1])
            expected *= log < 0.4 if row.advantage > 0 else log > -0.4
        assert row.by_term["policy"] == pytest.approx(expected, abs=1e-12, rel=1e-5)


def logp_of(row):
    return -1.6 - 0.2 * (row.token - 1) + math.log(toy.RATIOS[row.group - 1][row.completion - 1][row.token - 1])


def value_of(written, rho, a, logp=-1.0):
    """The number that an equation of a trust rule stands for: a reader of its own, over the tree that is drawn."""
    known = {"min": min, "max": max, "sg": lambda x: x, "clip": lambda x, low, high: min(max(x, low), high), "log": math.log,
             "σ": lambda x: 1 / (1 + math.exp(-x))}
    letters = {"ρ": rho, "A": a, "e": math.e, "μ": math.exp(logp) / rho}

    def of(node):
        match node:
            case tex.Cases(rows):
                return next(of(row[0]) for row in rows if holds(row[1]))
            case tex.Row(items):
                return of_sum(items)
            case tex.Fence(_, inside, _):
                return of(inside)
            case tex.Frac(top, bottom):
                return of(top) / of(bottom)
            case tex.Script(tex.Sign("π"), _, None):
                return math.exp(logp)
            case tex.Script(base, None, power):
                return of(base) ** of(power)
            case tex.Sign(text, "number"):
                return float(text)
            case tex.Sign(text, _):
                return letters[text]
        raise AssertionError(node)

    def of_sum(items):
        items = [i for i in items if not (isinstance(i, tex.Sign) and i.kind == "space")]
        signs = [n for n, item in enumerate(items) if isinstance(item, tex.Sign) and item.kind == "binary"]
        edges = [*([] if signs[:1] == [0] else [-1]), *signs, len(items)]
        return sum((-1 if low >= 0 and items[low].text == "−" else 1) * of_product(items[low + 1:high])
                   for low, high in itertools.pairwise(edges))

    def of_product(items):
        product, i = 1.0, 0
        while i < len(items):
            item = items[i]
            if isinstance(item, tex.Sign) and item.text in known:
                inside = items[i + 1].inside.items if isinstance(items[i + 1], tex.Fence) else [items[i + 1]]
                product, i = product * known[item.text](*map(of_sum, split(inside))), i + 1
            else:
                product *= of(item)
            i += 1
        return product

    def split(items):
        parts = [[]]
        for item in items:
            if isinstance(item, tex.Sign) and item.kind == "comma":
                parts.append([])
            else:
                parts[-1].append(item)
        return parts

    def holds(node):
        every = split(node.items)
        if every[0][0] == tex.Sign("otherwise", "word"):
            return True
        sides = {">": lambda x, y: x > y, "<": lambda x, y: x < y, "≥": lambda x, y: x >= y, "≤": lambda x, y: x <= y}
        cut = [next(n for n, x in enumerate(one) if isinstance(x, tex.Sign) and x.text in sides) for one in every]
        return all(sides[one[n].text](of_sum(one[:n]), of_sum(one[n + 1:])) for one, n in zip(every, cut, strict=True))

    return of(tex.parse(written))


def test_a_users_own_method_explains_itself(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    one = explain(f"{file}:soft", ["k=4.0"])
    assert one.title == "My own"
    assert (one.paper.arxiv, one.paper.where) == ("2601.00001", "Eq. 7 and 8")
    assert (one.source, one.departs) == ("none", "all of it.")
    soft = next(part for part in one.parts if part.name == "Soft")
    assert soft.says == "f = tanh(k rho) A / k: no hard edge."
    assert soft.latex == ""
    assert [(f.name, f.value, f.default, f.meaning) for f in soft.fields] == [
        ("k", "4", "2", "`k` is a slope, per unit of the ratio.")]
    assert r"\mathrm{Soft}(\rho, A)" in latex(one)
    assert "does not say its slope" in shown(one)
    row = one.worked.rows[0]
    assert row.gradient == pytest.approx(-row.weight * row.advantage * (1 - np.tanh(4.0) ** 2))
    assert "Soft" in page.explanation(one)


def test_an_inherited_equation_is_not_shown_for_new_code(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    one = explain(f"{file}:doubled")
    assert r"\mathrm{Doubled}(\rho, A)" in latex(one)
    assert "clip" not in latex(one)


def test_names_and_arguments_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'grpo'"):
        explain("grppo")
    with pytest.raises(ConfigError, match="no argument 'clip'"):
        explain("grpo", ["clip=0.1"])
    with pytest.raises(ConfigError, match="key=value"):
        explain("grpo", ["clip_low"])


def test_a_batch_that_an_objective_refuses_gives_the_reason():
    one = explain("grpo")
    broken = replace(one, worked=None, trouble="there is no such component")
    assert "no table: there is no such component" in shown(broken)
    assert "there is no such component" in page.explanation(broken)


def test_a_correction_is_in_the_equation_and_in_the_table():
    method = default(METHODS["grpo"])
    objective = replace(method.objective, correction=correction.Truncated(2.0))
    found = equations.equations(objective)
    assert r"C\, \min" in found[0].latex
    assert {"correction", "mismatch"} <= {e.name for e in found}
    rows = toy.work(replace(method, objective=objective)).rows
    assert max(row.correction for row in rows) == 2.0  # 2.6 is cut
    assert "C" not in [s.text for s in tex.signs(tex.parse(equations.equations(method.objective)[0].latex))]


@pytest.mark.parametrize("term", [penalties.Entropy(coef=0.01), penalties.Kl(coef=0.1, estimator="k2"),
                                  terms.Supervised(of_behaviour=())])
def test_other_terms_are_explained(term):
    method = default(METHODS["dr_grpo"])
    objective = replace(method.objective, terms=(*method.objective.terms, term))
    found = {e.name: e for e in equations.equations(objective)}
    assert len(found["loss"].right) == 2
    assert found["gradient"].right[1:] or term.name == "value"
    assert found["loss"].right[1].startswith("-" if isinstance(term, penalties.Entropy | terms.Supervised) else "+")
    work = toy.work(replace(method, objective=objective))
    if isinstance(term, penalties.Entropy):
        assert set(work.other) == {"entropy"}
    else:
        assert any(row.by_term[term.name] for row in work.rows)


@pytest.mark.parametrize("gate", [gates.OffPolicyRows(0.2), gates.TopEntropy(0.5), gates.ClipCov(share=0.3, low=-9.0, high=9.0)])
def test_gates_are_in_the_equation_and_in_the_table(gate):
    method = default(METHODS["dapo"])
    objective = replace(method.objective, terms=(terms.Policy(gates=(gate,)),))
    found = {e.name: e for e in equations.equations(objective)}
    assert r"k\, \min" in found["loss"].latex
    assert found["gate"].left == "k"
    gated = [row for row in toy.work(replace(method, objective=objective)).rows if row.gated]
    assert gated
    assert all(row.gradient == 0 for row in gated)


def test_named_rewards_are_in_the_toy_batch():
    one = explain("gdpo", ["rewards=style,reward", "weights=1,2"])
    assert one.trouble == ""
    assert [f.value for part in one.parts for f in part.fields if f.name == "component"] == ["'style'", "'reward'"]
    assert {row.reward for row in one.worked.rows} == {0.0, 0.5, 1.0}
    assert [e.right for e in one.equations if e.name == "signal"] == [(r"r_i^{\mathrm{style}}",), (r"r_i^{\mathrm{reward}}",)]


def test_a_greedy_answer_stands_aside():
    one = explain("remax")
    assert len(one.worked.rows) == 13
    assert one.worked.rows[0].advantage == pytest.approx(1.0 - toy.ASIDE)
    assert "greedy answer besides" in shown(one)


def test_micro_batches_are_groups_where_they_matter():
    method = default(METHODS["dapo"])
    objective = replace(method.objective, terms=(terms.Policy(aggregate=aggregate.MicroTokenMean()),))
    rows = toy.work(replace(method, objective=objective)).rows
    assert rows[0].weight == pytest.approx(1 / 20)
    assert rows[-1].weight == pytest.approx(1 / 6)


def test_a_screen_is_named():
    method = default(METHODS["dapo"])
    objective = replace(method.objective, screen=(correction.Rejected(over="token", low=0.5, high=2.0),))
    assert "screen" in {e.name for e in equations.equations(objective)}
    assert "2 tokens are screened out" in toy.work(replace(method, objective=objective)).notes


def test_ratios_and_trusts_are_probed_not_listed():
    assert toy.is_local(ratio.TokenRatio())
    assert toy.is_local(ratio.SequenceTokenRatio())
    assert not toy.is_local(ratio.SequenceRatio())
    assert not toy.is_local(ratio.HeldSequenceRatio())
    assert [toy.through_ratio(rule) for rule in (trust.LogProb(), trust.DetachClip(), trust.Clip(), trust.Unclipped())] == [
        False, False, True, True]


def test_every_letter_of_the_equations_of_grpo_is_explained():
    assert {r"\rho", "A", "u", "N", "|o_i|", r"\pi_\theta", r"\mu"} <= set(explain("grpo").letters)
    assert "M" not in explain("grpo").letters
    assert "M" in explain("dapo").letters


def test_citations():
    assert paper("X (A 2024, arXiv 2402.03300, section 3.2, Listing 1).").where == "section 3.2, Listing 1"
    assert paper("X without a paper.").citation == ""
    two = paper("X (A 2017, arXiv 1707.06347, Eq. 7 and 9), its advantages by Y (B 2015, arXiv 1506.02438, Eq. 16).")
    assert (two.arxiv, two.where) == ("1707.06347", "Eq. 7 and 9")
    assert two.citation.endswith("its advantages by Y (B 2015, arXiv 1506.02438, Eq. 16)")


# The drawing of equations


@pytest.mark.parametrize(("written", "drawn"), [
    (r"\frac{1}{N\, |o_i|}", "  1\n──────\nN |oᵢ|"),
    (r"e^{u} - u - 1", "eᵘ − u − 1"),
    (r"-\rho A", "−ρA"),
    (r"\pi_{\mathrm{ref}}(o_{i,t})", "π_ref(oᵢₜ)"),
    (r"\begin{cases} 0 & A > 0 \\ x & \mathrm{otherwise} \end{cases}", "⎰ 0  if A > 0\n⎱ x  otherwise"),
    (r"\sum_{j \ne i} x_j", " Σ  xⱼ\nj≠i"),
    (r"\unheardof{x} + \frac{1}{2}", "             1\nunheardofx + ─\n             2"),
    ("f'_s = 1", "fₛ′ = 1"),
    (r"\tfrac12 x", "1\n─ x\n2"),
    (r"\frac{\bar r_g}{\hat A}", "r̄_g\n───\n A\u0302"),
    (r"{(} [", "([")])
def test_drawing(written, drawn):
    assert boxes.text(written) == drawn
    assert len({boxes.columns(line) for line in boxes.draw(written).lines}) == 1


@pytest.mark.parametrize("written", ["", "{", "}", r"\frac{1", r"\left(", r"\begin{cases} 1", "^", "_{", r"\mathrm{", ")",
                                     r"\\ &", "é", "'"])
def test_a_broken_equation_is_drawn_all_the_same(written):
    boxes.draw(written)
    assert mathml(written).startswith("<math")


def test_brackets():
    assert bracketed("a - b") == r"\left( a - b \right)"
    assert bracketed(r"\frac{a - b}{2}") == r"\frac{a - b}{2}"
    assert bracketed("-a") == "-a"
    assert equation(aggregate.SequenceMean(), unit="episode") == r"\frac{1}{N}"


class Pairs(HTMLParser):
    """Checks that every tag is closed in its turn."""

    void = frozenset({"meta", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("src", "srcset", "onclick"), (tag, name)
            assert name != "href" or value.startswith("https://arxiv.org/abs/")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", METHODS)
def test_the_page_stands_alone(name):
    text = page.explanation(explain(name))
    reader = Pairs()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert {"math", "mfrac", "table"} <= reader.seen
    assert "script" not in reader.seen
    assert not re.search(r"url\(|@import", text)


# The command


def test_the_command(tmp_path, capsys):
    assert cli.main(["explain", "gspo"]) == 0
    text = capsys.readouterr().out
    assert "Group Sequence Policy Optimisation" in text
    assert "arXiv 2507.18071, Eq. 5-7" in text
    assert cli.main(["explain", "gspo", "--latex"]) == 0
    assert capsys.readouterr().out.startswith("\\begin{align*}")
    html, data = tmp_path / "a.html", tmp_path / "deep" / "a.json"
    assert cli.main(["explain", "grpo", "--args", "clip_high=0.28", "kl=0.0", "--html", str(html), "--json", str(data)]) == 0
    assert capsys.readouterr().out == ""
    assert "1.28" in html.read_text()
    table = json.loads(data.read_text())
    assert table["equations"][0]["latex"].startswith(r"\mathcal{L} =")
    assert len(table["worked"]["rows"]) == 13
    assert cli.main(["explain", "grpo", "--html", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_arguments_are_checked_as_in_training():
    assert method_of(Run(method="grpo", method_args={"kl": 0.5}), 8).objective.terms[1].coef == 0.5
    with pytest.raises(ConfigError, match="must be float"):
        explain("grpo", ["kl=much"])


def test_the_toy_batch_says_what_it_is_for():
    ratios = [x for group in toy.RATIOS for row in group for x in row]
    assert len(ratios) == len(toy.MISMATCH) == len(toy.REFERENCE) == 13
    assert {f.name for f in fields(Live)} >= {"logp", "entropy", "values"}
