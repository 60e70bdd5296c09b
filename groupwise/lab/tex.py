r"""The LaTeX that equations are written in, as a tree: what the terminal and the page draw.

The subset: letters, numbers, `\name`, `^`, `_`, `\frac`, `\sqrt`, `\mathrm`, `\text`, accents, sums and products, brackets,
`\left` and `\right`, and `cases`. A command that is not known is shown by its name: a user's own equation never stops a page.
"""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["letter", "number", "operator", "relation", "binary", "word", "space", "big", "open", "close", "comma"]

SYMBOLS: dict[str, tuple[str, Kind]] = {
    **{name: (letter, "letter") for name, letter in {
        "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "eta": "η", "theta": "θ",
        "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ",
        "psi": "ψ", "omega": "ω",
        "Delta": "Δ", "Sigma": "Σ", "Pi": "Π", "ell": "ℓ", "partial": "∂", "nabla": "∇", "infty": "∞"}.items()},
    **{name: (sign, "relation") for name, sign in {
        "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "in": "∈", "approx": "≈", "to": "→", "sim": "∼",
        "propto": "∝", "mid": "|", "lt": "<", "gt": ">", "land": "∧", "lor": "∨"}.items()},
    **{name: (sign, "binary") for name, sign in {"cdot": "·", "times": "×", "pm": "±", "odot": "⊙"}.items()},
    **{name: (name, "word") for name in ("log", "exp", "min", "max", "tanh", "sin", "cos", "ln", "lim")},
    **{name: (sign, "big") for name, sign in {"sum": "Σ", "prod": "Π", "int": "∫"}.items()},
    **{name: (space, "space") for name, space in {
        ",": " ", ";": " ", " ": " ", ":": " ", "!": "", "quad": "   ", "qquad": "      "}.items()},
    "{": ("{", "open"), "}": ("}", "close"), "|": ("‖", "operator"), "_": ("_", "word"), "%": ("%", "word"), "#": ("#", "word"),
    "lfloor": ("⌊", "open"), "rfloor": ("⌋", "close"),
    "ldots": ("…", "operator"), "cdots": ("⋯", "operator"), "dots": ("…", "operator"),
}
WORDS = ("mathrm", "text", "mathcal", "mathbb", "mathbf", "operatorname", "textrm", "mathit")
ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
PAIRS = {"(": ")", "[": "]", "⌊": "⌋", "{": "}"}
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Sign:
    """One letter, number, word or operator."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class Row:
    """Nodes side by side."""

    items: tuple["Node", ...]


@dataclass(frozen=True)
class Frac:
    """One node over another."""

    top: "Node"
    bottom: "Node"


@dataclass(frozen=True)
class Root:
    """A square root."""

    inside: "Node"


@dataclass(frozen=True)
class Script:
    """A node with an index, an exponent, or both; those of a big operator stand below and above it."""

    base: "Node"
    sub: "Node | None"
    sup: "Node | None"


@dataclass(frozen=True)
class Fence:
    """A node between brackets that grow with it; an empty bracket is not drawn."""

    left: str
    inside: "Node"
    right: str


@dataclass(frozen=True)
class Cases:
    """Rows of a value and its condition."""

    rows: tuple[tuple["Node", ...], ...]


Node = Sign | Row | Frac | Root | Script | Fence | Cases


def parse(latex: str) -> Node:
    """The tree of an equation. What is not closed is closed at the end; what was not opened is a letter."""
    return _Reader(list(TOKEN.findall(latex))).row(())


class _Reader:
    """Reads tokens one after the other."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def row(self, ends: tuple[str, ...]) -> Row:
        """Nodes up to one of `ends`, which is not taken."""
        items: list[Node] = []
        while self.at < len(self.tokens) and self.tokens[self.at] not in ends:
            token = self.tokens[self.at]
            if token.isspace():
                self.at += 1
            elif token in "^_'":
                self._script(items)
            else:
                items.append(self._one())
        return Row(tuple(items))

    def _script(self, items: list[Node]) -> None:
        base = items.pop() if items else Row(())
        found: dict[str, Node | None] = {"_": None, "^": None}
        if isinstance(base, Script):
            found = {"_": base.sub, "^": base.sup}
        mark = self._next()
        if mark == "'":
            found["^"] = Sign("′", "letter")
        else:
            found[mark] = self._argument()
        items.append(Script(base.base if isinstance(base, Script) else base, found["_"], found["^"]))

    def _one(self) -> Node:
        token = self._next()
        name = token[1:] if token.startswith("\\") else ""
        if token == "{":
            return self._until("}")
        if token in "([":
            return self._bracket(token)
        if name in ("frac", "tfrac", "dfrac"):
            return Frac(self._argument(), self._argument())
        if name == "sqrt":
            return Root(self._argument())
        if name in WORDS:
            return Sign(self._text(), "letter" if name in ("mathcal", "mathbb", "mathit") else "word")
        if name in ("overline", "underline"):
            return Row((Sign("mean", "word"), Fence("(", self._argument(), ")")))
        if name in ACCENTS:
            inside = self._argument()
            return Sign("".join(s.text for s in signs(inside)) + ACCENTS[name], "letter")
        if name == "left":
            left, inside = self._delimiter(), self.row(("\\right",))
            self._next()
            return Fence(left, inside, self._delimiter())
        if name == "begin":
            return self._cases(self._text())
        return _sign(token, name)

    def _bracket(self, left: str) -> Node:
        start = self.at
        inside = self.row((")", "]", "}", "&", "\\\\", "\\right", "\\end"))
        if self.at < len(self.tokens) and self.tokens[self.at] == PAIRS[left]:
            self.at += 1
            return Fence(left, inside, PAIRS[left])
        self.at = start
        return Sign(left, "open")

    def _cases(self, name: str) -> Node:
        rows, cells = [], [self.row(("&", "\\\\", "\\end"))]
        while self.at < len(self.tokens) and self.tokens[self.at] != "\\end":
            if self._next() != "&":
                rows.append(tuple(cells))
                cells = []
            cells.append(self.row(("&", "\\\\", "\\end")))
        if self._next() == "\\end":
            self._text()
        rows.append(tuple(cells))
        return Cases(tuple(rows)) if name == "cases" else Row(tuple(cell for row in rows for cell in row))

    def _delimiter(self) -> str:
        token = self._next()
        while token.isspace():
            token = self._next()
        return "" if token == "." else SYMBOLS.get(token[1:], (token, "open"))[0] if token.startswith("\\") else token

    def _argument(self) -> Node:
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        if self.at < len(self.tokens) and self.tokens[self.at].isdigit() and len(self.tokens[self.at]) > 1:
            first, self.tokens[self.at] = self.tokens[self.at][0], self.tokens[self.at][1:]  # as in \frac12: one digit
            return Sign(first, "number")
        return self._one() if self.at < len(self.tokens) else Row(())

    def _until(self, end: str) -> Row:
        inside = self.row((end,))
        self._next()
        return inside

    def _text(self) -> str:
        """The letters between braces, as they are."""
        depth, letters = 0, []
        while token := self._next():
            depth += (token == "{") - (token == "}")
            if depth == 0:
                break
            if token not in "{}":
                letters.append(token[1:] if token.startswith("\\") else token)
        return "".join(letters)

    def _next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""


def _sign(token: str, name: str) -> Sign:
    """The sign of a token that has no arguments."""
    if name:
        text, kind = SYMBOLS.get(name, (name, "word"))
        return Sign(text, kind)
    if token[0].isdigit():
        return Sign(token, "number")
    if token in "=<>":
        return Sign(token, "relation")
    if token in "+-":
        return Sign("−" if token == "-" else token, "binary")
    return Sign(token, "comma" if token in ",;" else "letter" if token.isalpha() else "operator")


def signs(node: Node | None) -> list[Sign]:
    """All signs of a tree, in their order."""
    match node:
        case None:
            return []
        case Sign():
            return [node]
        case Row(items):
            inside: tuple[Node | None, ...] = items
        case Frac(top, bottom):
            inside = (top, bottom)
        case Root(one):
            inside = (one,)
        case Script(base, sub, sup):
            inside = (base, sub, sup)
        case Fence(left, one, right):
            return [Sign(left, "open"), *signs(one), Sign(right, "close")]
        case Cases(rows):
            inside = tuple(cell for row in rows for cell in row)
    return [sign for one in inside for sign in signs(one)]
