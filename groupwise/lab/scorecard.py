"""The results of an evaluation as Markdown and as a self-contained page. What a model wrote is put in as text, never as HTML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from groupwise.lab.page import page
from groupwise.run import toml
from groupwise.run.scores import METHOD

STYLE = """
body { max-width: 1400px; } .wide { overflow-x: auto; }
.warn { border-left: 3px solid var(--mark); padding: .2rem .8rem; margin: .3rem 0; }
td .range { white-space: nowrap; } .wide td:last-child { min-width: 10rem; }
.forest { display: grid; grid-template-columns: max-content 1fr max-content; gap: .15rem .9rem;
          align-items: center; font-size: .9rem; }
.forest .axis { position: relative; height: 1.1rem; background: var(--wash); border-radius: 3px; }
.forest .range { position: absolute; top: .42rem; height: .26rem; background: var(--head); opacity: .45; border-radius: 2px; }
.forest .dot { position: absolute; top: .25rem; width: .6rem; height: .6rem; margin-left: -.3rem; border-radius: 50%;
               background: var(--head); }
details { margin: .5rem 0; } summary { cursor: pointer; font-weight: 600; } .yes { color: var(--up); } .no { color: var(--down); }
"""


@dataclass(frozen=True)
class Table:
    """A table of plain texts with what is said above it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Everything but warnings, settings and examples."""
    if found.get("scores"):
        yield _scores(found["scores"])
        yield _lengths(found["scores"])
    if any(len(row["metrics"]) > 4 for row in found.get("scores", ())):
        rows = [(r["benchmark"], r["model"], r["template"], str(k), interval(r["metrics"].get(f"pass@{k}")),
                 interval(r["metrics"].get(f"maj@{k}"))) for r in found["scores"] for k in _ks(r)]
        yield Table("pass@k and maj@k", ("benchmark", "model", "template", "k", "pass@k", "maj@k"), rows)
    if found.get("averages"):
        yield Table("Means over the benchmarks", ("model", "template", "score", "benchmarks", "mean"), [
            (a["model"], a["template"], a["metric"], str(a["benchmarks"]), interval(a)) for a in found["averages"]])
    if found.get("differences"):
        largest = max((k for r in found["scores"] for k in _ks(r)), default=0)
        shown = {"greedy", "avg", f"pass@{largest}", f"maj@{largest}"}
        yield Table("Differences, problem by problem", ("benchmark", "model", "less", "template", "score", "difference", "p", "n",
                                                        "detectable"), [
            (d["benchmark"], d["model"], d["against"], d["template"], d["metric"], interval(d, signed=True), f"{d['p']:.2g}",
             str(d["n"]), f"{d['detectable']:.1%}") for d in found["differences"] if d["metric"] in shown],
            ("The interval is Agresti and Min's for matched pairs, p that of a sign-flip test; `detectable` is what these pairs "
             "find in 80 % of cases at 5 %.",))
    if found.get("choices"):
        yield Table("The best of several", ("benchmark", "score", "of", "best", "template", "its score",
                                            "expected to be too high by", "best again"), [
            (c["benchmark"], c["metric"], str(c["candidates"]), c["model"], c["template"], f"{c['value']:.1%}",
             f"{max(0.0, c['optimism']):.1%}", f"{c['agreed']:.0%}") for c in found["choices"]],
            ("Problems are drawn anew 2000 times, the best on them chosen, and compared with what it has on all.",))
    if any("reflection" in row for row in found.get("scores", ())):
        yield _reflection(found["scores"])
    if found.get("contamination"):
        yield Table("Problems that are in training files", ("benchmark", "file", "rows", "problems", "the same",
                                                            "70 % of the runs of 8", "either", "13 words in common"), [
            (c["benchmark"], c["file"], f"{c['rows']:,}",
             *(str(c[k]) for k in ("problems", "same", "words8", "found", "words13")))
            for c in found["contamination"]])
    if found.get("regraded"):
        yield Table("Against the verdicts of before", ("right before -> now", "answers"), [
            (move, f"{n:,}") for move, n in found["regraded"]["moves"].items()])


def _scores(rows: Sequence[Mapping[str, Any]]) -> Table:
    most = {f"{name}@{k}": f"{name}@{k}" for name in ("pass", "maj") for k in sorted({max(_ks(r)) for r in rows if _ks(r)})}
    names = {"greedy": "greedy pass@1", "avg": f"avg@{max(r['samples'] for r in rows)}"} | most
    shown = [name for name in names if any(name in r["metrics"] for r in rows)]
    out = []
    for r in rows:
        main = r["metrics"].get("avg") or r["metrics"].get("greedy")
        out.append((r["benchmark"], r["model"], r["template"], str(r["problems"]),
                    *(interval(r["metrics"].get(name)) for name in shown), f"{main['detectable']:.1%}" if main else "-"))
    return Table("Scores", ("benchmark", "model", "template", "n", *(names[name] for name in shown), "detectable"), out, (
        METHOD + ". `detectable`: the difference to another such model on these problems that a test at 5 % finds in 80 % of "
        "cases if the two are uncorrelated (Miller 2024); models that fail on the same problems need less.",))


def _lengths(rows: Sequence[Mapping[str, Any]]) -> Table:
    out = []
    for r in rows:
        for mode, a in r["answers"].items():
            kinds = ", ".join(f"{kind} {n:,}" for kind, n in a["kinds"].items())
            out.append((r["benchmark"], r["model"], r["template"], mode, f"{a['n']:,}",
                        *(f"{a[k]:.1%}" for k in ("truncated", "found", "marked")), str(a["abstained"]),
                        *("-" if a[k] is None else f"{a[k]:.1f}" for k in ("length_right", "length_wrong")), kinds))
    return Table("Answers", ("benchmark", "model", "template", "answers", "number", "out of tokens", "answer found", "marked",
                             "not judged", "tokens if right", "tokens if wrong", "verdicts"), out, (
        "`answer found`: the grader extracted an answer, right or wrong; `marked`: it stood in a tag, a box or a line for it.",))


def _reflection(rows: Sequence[Mapping[str, Any]]) -> Table:
    out = []
    for r in (r for r in rows if "reflection" in r):
        s = r["reflection"]
        out.append((r["benchmark"], r["model"], r["template"], f"{s['reflecting']:,} of {s['n']:,}", interval(s["answers"]),
                    interval(s["problems"]), *(interval(s[k]) for k in ("right", "wrong", "with_words", "without")),
                    ", ".join(f"{w} {n}" for w, n in s["words"].items()) or "-"))
    return Table("Words of self-reflection", ("benchmark", "model", "template", "answers", "share", "problems with one",
                                              "of right", "of wrong", "right with words", "right without", "words"), out, (
        "The 15 words of Liu et al. 2025 (arXiv 2503.20783), anywhere in an answer. The paper also asks a language model whether "
        "an answer reflects, and counts those that both find: these rates are upper bounds of its.",))


def interval(one: Mapping[str, Any] | None, signed: bool = False) -> str:
    """A value with its interval, in per cent."""
    if one is None or one["value"] is None or one["value"] != one["value"]:
        return "-"
    form = "{:+.1%}" if signed else "{:.1%}"
    return f"{form.format(one['value'])} [{form.format(one['low'])}, {form.format(one['high'])}]"


def markdown(found: Mapping[str, Any]) -> str:
    """The report as Markdown; without examples, which the page has."""
    lines = [f"# {_title(found)}", ""]
    for table in tables(found):
        lines += [f"## {table.title}", "", *(f"{note}\n" for note in table.notes), "| " + " | ".join(table.heads) + " |",
                  "|" + " --- |" * len(table.heads), *("| " + " | ".join(_cell(c) for c in row) + " |" for row in table.rows), ""]
        if table.title == "Scores" and found.get("warnings"):
            lines += ["## Warnings", "", *(f"- {w}" for w in found["warnings"]), ""]
    return "\n".join([*lines, "## Settings", "", "```toml", settings(found), "```", ""])


def html(found: Mapping[str, Any]) -> str:
    """The report as one page that needs no network."""
    body = [f"<h1>{escape(_title(found))}</h1>"]
    for table in tables(found):
        body.append(section(table))
        if table.title == "Scores":
            body += [_forest(found["scores"])]
            body += ["<h2>Warnings</h2>"] * bool(found["warnings"])
            body += [f"<p class=warn>{escape(w)}</p>" for w in found["warnings"]]
    body += ["<h2>Examples</h2>", *(_examples(row) for row in found.get("scores", ())),
             "<h2>Settings</h2>", f"<pre>{escape(settings(found))}</pre>"]
    return page("groupwise eval", body, STYLE)


def console(found: Mapping[str, Any]) -> str:
    """The tables as aligned text, and the warnings."""
    lines: list[str] = []
    for table in tables(found):
        if table.title in ("Answers", "pass@k and maj@k"):
            continue
        lines += [*aligned(table), ""]
    return "\n".join([*lines, *(f"warning: {w}" for w in found.get("warnings", ()))]).rstrip()


def aligned(table: Table) -> list[str]:
    """A table as lines of text."""
    rows = [table.heads, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.heads))]
    return [table.title, *("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)]


def settings(found: Mapping[str, Any]) -> str:
    """All settings as TOML."""
    return toml.document({**found.get("settings", {}), **{k: found[k] for k in ("engines", "verifiers") if k in found}})


def _title(found: Mapping[str, Any]) -> str:
    names = [list(dict.fromkeys(row[key] for row in found.get("scores", ()))) for key in ("model", "benchmark")]
    return f"{', '.join(names[0]) or 'Benchmarks'} on {', '.join(names[1])}" if names[1] else "Benchmarks"


def _ks(row: Mapping[str, Any]) -> list[int]:
    return [int(name.removeprefix("pass@")) for name in row["metrics"] if name.startswith("pass@")]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def section(table: Table) -> str:
    """A table as HTML under its title and notes."""
    notes = "".join(f"<p class=note>{_prose(note)}</p>" for note in table.notes)
    return f"<h2>{escape(table.title)}</h2>{notes}{drawn(table)}"


def drawn(table: Table) -> str:
    """A table as HTML."""
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    lines = [f"<tr class=first>{''.join(f'<td>{_prose(cell)}</td>' for cell in row)}</tr>" for row in table.rows]
    return f"<div class=wide><table><tr>{heads}</tr>{''.join(lines)}</table></div>"


def _prose(text: str) -> str:
    """A text as HTML: what is marked is code, an interval stands below its value and is not cut."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"([0-9%]) (\[[-+0-9.%, e]+\])$", r"\1<br><span class='faint range'>\2</span>", marked)


def _forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every score with its interval on an axis from 0 to 1, models below each other."""
    lines = []
    for name in dict.fromkeys(("greedy", "avg", *(f"{kind}@{k}" for kind in ("pass", "maj") for r in rows for k in _ks(r)[-1:]))):
        for r in rows:
            one = r["metrics"].get(name)
            if one is None:
                continue
            label = f"{r['benchmark']}, {r['model']}, {r['template']}: {name if name != 'avg' else 'avg@' + str(r['samples'])}"
            mark = (f"<span class=range style='left:{one['low']:.2%};width:{one['high'] - one['low']:.2%}'></span>"
                    f"<span class=dot style='left:{one['value']:.2%}'></span>")
            lines.append(f"<span>{escape(label)}</span><span class=axis>{mark}</span><span>{escape(interval(one))}</span>")
    return f"<p></p><div class=forest>{''.join(lines)}</div>"


def _examples(row: Mapping[str, Any]) -> str:
    """Right and wrong answers of one model under one template."""
    out = []
    for e in row["examples"]:
        colour, word = ("yes", "right") if e["correct"] else ("no", "wrong")
        said = (f"{word}, {e['kind']}; extracted {e['extracted']!r}, wanted {e['answer'][:200]!r}; {e['tokens']} tokens, "
                f"{e['finish']}")
        cut = "<span class=faint> (cut here)</span>" if e["cut"] else ""
        out.append(f"<details><summary><span class={colour}>{word}</span> {escape(e['id'])} <span class=faint>{e['mode']}</span>"
                   f"</summary><p>{escape(said)}</p><pre>{escape(e['problem'])}</pre><pre>{escape(e['text'])}{cut}</pre></details>")
    name = f"{row['benchmark']}, {row['model']}, {row['template']}"
    return f"<p><b>{escape(name)}</b></p>{''.join(out)}"
