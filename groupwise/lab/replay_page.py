"""A replay as a table, and as a page where every token shows what each method does to it."""

from collections.abc import Mapping
from html import escape
from typing import Any

from groupwise.lab.page import page
from groupwise.lab.scorecard import Table, aligned, section

STYLE = """
body { max-width: 1300px; } .cos td { text-align: right; font-variant-numeric: tabular-nums; }
.replayed { margin: .8rem 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem .8rem; overflow-x: auto; }
.replayed table { width: auto; font-size: .82rem; } .replayed td { padding: .05rem .15rem; border: 0; white-space: pre;
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; } .replayed td.who { padding-right: .8rem; color:
  var(--faint); }
"""
UP, DOWN = "46,160,90", "214,68,60"
SAID = ("`gradient norm` is that before clipping; `cosine` between the gradients of all weights; `clipped` the shares stopped "
        "below and "
        "above; `tokens with a pull` those whose log-prob has a gradient.")


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The methods, and the cosines of those that could be replayed."""
    rows = [(one["name"], "-", "-", "-", "-", one["trouble"]) if "trouble" in one else
            (one["name"], f"{one['loss']:+.5g}", f"{one['norm']:.5g}", " / ".join("-" if x is None else f"{x:.1%}" for x
                                                                                  in one["clipped"]),
             f"{one['pulled']:,}", f"{one['admitted']} groups" + (f", refused {', '.join(one['refused'])}" if one["refused"]
                                                                  else ""))
            for one in found["methods"]]
    names = found["replayed"]
    return [Table("Objectives", ("method", "loss", "gradient norm", "clipped", "tokens with a pull", "what became of it"), rows,
                  (SAID,)),
            Table("Cosines of the gradients", ("", *map(str, range(1, len(names) + 1))), [
                (f"{i + 1} {name}", *(f"{x:+.2f}" for x in row)) for i, (name, row) in enumerate(zip(names, found["cosines"],
                                                                                                     strict=True))])]


def headline(found: Mapping[str, Any]) -> str:
    """What is replayed, and where."""
    n = sum(len(group["rollouts"]) for group in found["groups"])
    what = f"{n} rollouts in {len(found['groups'])} groups" + (
        f", kept of step {found['step']}" if found["step"] is not None else ", sampled now")
    return (f"{found['run']}: {what}; at the weights after step {found['weights']}, "
            + ("which sampled them" if found["on_policy"] else "which are not those that sampled them: ratios divide by the "
                                                               "latter's"))


def console(found: Mapping[str, Any]) -> str:
    """The tables as text."""
    return "\n".join([headline(found), *(line for table in tables(found) for line in ("", *aligned(table)))])


def html(found: Mapping[str, Any]) -> str:
    """The page; texts of the model go in as text."""
    body = ["<h1>One set of rollouts, many objectives</h1>", f"<p>{escape(headline(found))}</p>"]
    for table in tables(found):
        body.append(section(table))
    body += ["<h2>Weights of tokens</h2>", "<p class=note>-dL/dlogp: green, a step makes the token likelier; red, less "
             "likely. Each method's colours have a scale of their own.</p>"]
    told = [one for one in found["methods"] if "slopes" in one]
    tops = {one["name"]: max((abs(x) for row in one["slopes"].values() for x in row), default=0.0) or 1.0 for one in told}
    for group in found["groups"]:
        body.append(f"<h3>{escape(group['text'])} <span class=faint>answer {escape(str(group['answer']))}</span></h3>")
        for r in group["rollouts"]:
            kind = "right" if r["correct"] else "wrong"
            paid = "" if r["reward"] is None else f", reward {r['reward']:g}"
            head = f"<tr><td class=who>{kind}{paid}</td>"
            rows = [head + "".join(f"<td>{escape(token)}</td>" for token in r["tokens"]) + "</tr>"]
            rows += [f"<tr><td class=who>{escape(one['name'])}</td>" + "".join(
                _cell(x, tops[one["name"]]) for x in one["slopes"].get(r["key"], ())) + "</tr>" for one in told]
            body.append(f"<div class=replayed><table>{''.join(rows)}</table></div>")
    return page("groupwise replay", body, STYLE)


def _cell(slope: float, top: float) -> str:
    colour = DOWN if slope > 0 else UP
    if not slope:
        return "<td></td>"
    return f'<td title="{-slope:+.4g}" style="background:rgba({colour},{abs(slope) / top:.2f})">&nbsp;</td>'
