r"""The text of a mathematical answer as tokens: LaTeX, plain text and Unicode become one spelling.

    number  "3", "3.50", "1234" (thousands joined), "3" with a repeating part     name   a letter or a command: "x", r"\alpha"
    word    letters that are no product: "sqrt", "cm"                             text   the inside of \text{...}
    other   one character or a command: "(", "^", r"\frac", r"\begin{pmatrix}"

Everything here takes time linear in the text, and texts over `LONGEST` are refused.
"""

import re
import unicodedata
from dataclasses import dataclass

from groupwise.verify.units import worded

LONGEST = 2000
"""Characters of an answer that is read as mathematics; longer ones are compared as text only."""

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SPELLED = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "√": r"\sqrt ",
    "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"\degree ",
    "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "∠": " ",
    "≈": r"\approx ",
    "∖": r"\setminus ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "，": ",", "。": ".", "；": ";", "：": ":", "（": "(", "）": ")", "′": "'",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "ω": r"\omega "}
_UNICODE = re.compile("|".join(map(re.escape, _SPELLED)))
_VULGAR = re.compile("[¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_SUPERS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_GONE = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|mathstrut|strut|hline|rm|it|bf)(?![a-zA-Z])\.?"
                   r"|(?<!\\)\\[!,;:>]|\\q?quad|\\(?:hspace\*?\{[^{}]*\}|phantom\{[^{}]*\})(?![a-zA-Z])"
                   r"|(?<!\\)\\ |~|\\?\$|(?<!\\)\\[()\[\]](?!\d)"
                   r"|\\(?:euro|pounds)(?![a-zA-Z])|[€£¥\ufeff\u200b]|\*\*(?=\s*$)|^\s*\*\*")
_GROUPS = re.compile(r"(?<=\d)\s?(?:\{\s?,\s?\}|,\s?\\[!,])\s*(?=\d{3}(?!\d))")
_SAME = {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge",
         "lt": "<",
         "gt": ">", "neq": "ne", "times": "*", "cdot": "*", "ast": "*", "div": "/", "dbinom": "binom", "tbinom": "binom",
         "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
         "circ": "degree", "colon": ":", "varnothing": "emptyset", "arctg": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc",
         "to": "rightarrow", "iff": "=", "equiv": "=", "approx": "=", "simeq": "=", "varphi": "phi", "varepsilon": "epsilon",
         "bigcup": "cup",
         "lparen": "(", "rparen": ")", "backslash": "setminus"}
_TEXTS = ("text", "textbf", "textrm", "textit", "textnormal", "mathrm", "mbox", "mathbf", "mathit", "mathsf", "operatorname",
          "hbox",
          "texttt", "boldsymbol", "bm", "textsf", "emph", "mathcal", "mathscr")
_WRITTEN = """
    asin acos atan arcsin arccos arctan sinh cosh tanh asinh acosh atanh arcsinh arccosh arctanh arsinh arcosh artanh
    sec csc cot ceil floor gcd lcm max min ln log exp sqrt
"""
_NAMES = frozenset(_WRITTEN.split())
"""Functions that are written as \\operatorname{...}."""
_SPOKEN = ("text", "textbf", "textrm", "textit", "mbox", "textnormal", "hbox", "emph")
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+|\.(?=\s*\\(?:overline|bar|dot)\{))?|\.\d+)"
    r"|\\(?P<command>[a-zA-Z]+)|\\(?P<escaped>.)|(?P<word>[a-zA-Z]+'*)|(?P<other>\*\*|<=|>=|!=|==|:=|.)", re.DOTALL)
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)")
_ENVIRONMENT = re.compile(r"\{([a-z]*)\*?\}")
_ASIDE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an answer; `spaced` says that white space came before it."""

    kind: str
    text: str
    spaced: bool = False


class UnreadableError(ValueError):
    """Not mathematics that is understood here."""


_BUILDER = re.compile(r"\\\{\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{?[RC]\}?\s*)?(?:\\mid\b|\||:)\s*([^{}]{1,200})\\\}")
"""{x : x > 2}, whose condition says it all."""
_CONDITION = re.compile(r",?\s*(?:\\(?:quad|text\{[a-z ]{1,20}\}|,|;)\s*|where\s+|for\s+)*\(?\s*"
                        r"[a-z]\s*\\in\s*\\mathbb\{?[ZN]\}?(?:\^\{?\+\}?)?\)?\s*$")
_UNITS = re.compile(r"(?<=\d)\s*(?:(?P<speed>(?:m|km|cm|ft|mi)/(?:s|h|hr|min|sec)(?:\^\{?2\}?)?)"
                    r"|(?:st|nd|rd|th)|(?:\^\s*\{?\s*\\circ\s*\}?|\\degree)\s*(?:\\(?:text|mathrm)\{\s*)?(?P<scale>[CF])\}?)$")
_DEGREES = {"C": "celsius", "F": "fahrenheit"}
_DOLLARS = re.compile(r"\s*\\\$\s*(-?\d[\d.,]*)\.?\s*")
_MODULO = re.compile(r"\(\s*(?:\\(?:text|mathrm|operatorname)\{\s*)?mod\b\s*\}?\s*(\d{1,9}|[a-z])\s*\)")
_PERCENT = re.compile(r"(?<=\d)\s*(?:\\text\{\s*)?(?:pct|per\s?cent(?:age)?(?: points?)?)\b\.?(?:\s*\})?")
_PHRASES = ((re.compile(r"(?:there (?:are|is) )?no (?:real )?(?:solutions?|roots?)(?: exists?)?|none|(?:the )?empty set",
                        re.IGNORECASE), r"\emptyset"),
            (re.compile(r"(?:all|any|every|the) real(?: number)?s?(?: x)?", re.IGNORECASE), r"\mathbb{R}"),
            (re.compile(r"(?:all|any|every|the) integers?(?: [xn])?", re.IGNORECASE), r"\mathbb{Z}"),
            (re.compile(r"DNE|(?:it |the limit )?does not exist", re.IGNORECASE), "DNE"))
_TIMES = re.compile(r"(?<=\d)\s*x\s*(?=10\s*\^)")
"""The letter as a sign: 2.5 x 10^3."""
_TO = re.compile(r"(\d+)\s*(?:\\text\{)?\s*to\s*\}?\s*(\d+)")
_CLOCK = re.compile(r"(?<=\d)\s*(?:\\(?:text|mathrm)\{\s*)?([ap])\.\s?m\b\.?\s*\}?", re.IGNORECASE)
_WHOLLY = re.compile(r"\\(?:text|textbf|textit|mathrm)\{([^{}\\]*)\}")


def spelled(text: str) -> str:
    """The text with Unicode's mathematics as LaTeX and without sizes, spacing, dollar signs and a full stop at its end."""
    text = _MODULO.sub(r"\\pmod{\1}", text if (money := _DOLLARS.fullmatch(text)) is None else rf"{money[1]}\text{{ dollars}}")
    text = _SUPERS.sub(lambda m: "^{" + m.group().translate(_SUPER) + "}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = unicodedata.normalize("NFKC", _UNICODE.sub(lambda m: _SPELLED[m.group()], text))
    text = re.sub(r"\\\\(?=[a-zA-Z])(?![a-zA-Z]*\s*[&\\])", r"\\", text) if r"\begin" not in text else text
    text = _GONE.sub(lambda m: "" if m.group() == r"\!" else " ", _GROUPS.sub("", text))
    text = re.sub(r"^\s*(?:\\approx|=)(?![a-zA-Z=])", "", text)
    text = _BUILDER.sub(r"\1", _TIMES.sub("*", text.strip().rstrip(".")))
    text = _CONDITION.sub("", text) or text
    text = _PERCENT.sub(r"\%", _UNITS.sub(_unit, text))
    text = _CLOCK.sub(r"\\text{ \1m}", text)
    exact, about, rest = text.partition(r"\approx")
    text = (exact if re.search(r"\d", exact) else exact + "=" + rest) if about else text
    text = found.group(1) if (found := _WHOLLY.fullmatch(text.strip())) else text
    text = text.strip().strip("`").rstrip(".,;: \n").strip()
    text = f"{ratio[1]}:{ratio[2]}" if (ratio := _TO.fullmatch(text)) else worded(text) or text
    return next((meant for phrase, meant in _PHRASES if phrase.fullmatch(text)), text)


def _unit(found: re.Match[str]) -> str:
    unit = found["speed"] or _DEGREES.get(found["scale"] or "")
    return rf"\text{{ {unit}}}" if unit else ""


def _vulgar(found: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", found.group()).split("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def tokens(text: str, join: bool = True) -> list[Token]:
    """The tokens of an answer that went through `spelled`; `join` reads 1,234 as one number outside brackets.

    Raises `UnreadableError` for a text over `LONGEST` or one that ends within a command.
    """
    if len(text) > LONGEST:
        raise UnreadableError("too long")
    out: list[Token] = []
    at, depth, spaced = 0, 0, False
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise UnreadableError(f"cannot read {text[at:at + 10]!r}")
        at, kind, piece = found.end(), found.lastgroup or "", found.group()
        if kind == "space":
            spaced = True
            continue
        if kind == "number" and "," in piece:
            if (depth or not join) and _THOUSANDS.match(piece):
                piece, at = piece[:piece.index(",")], found.start() + piece.index(",")
            piece = piece.replace(",", "")
        elif kind == "command":
            kind, piece, at = _command(piece[1:], text, at)
        elif kind == "escaped":
            kind, piece = _escaped(found.group("escaped"))
        elif kind == "other":
            depth += (piece in "([{") - (piece in ")]}")
            piece = {"**": "^", "<=": r"\le", ">=": r"\ge", "!=": r"\ne", "==": "=", ":=": "="}.get(piece, piece)
        if kind == "other" and piece in (r"\{", r"\}"):
            depth += 1 if piece == r"\{" else -1
        out.append(Token(kind, piece, spaced))
        spaced = False
    return out


def _command(name: str, text: str, at: int) -> tuple[str, str, int]:
    """A command's token, and where the text goes on."""
    name = _SAME.get(name, name)
    if not name[0].isalpha():
        return "other", {"{": r"\{", "}": r"\}"}.get(name, name), at
    if name in ("begin", "end"):
        found = _ENVIRONMENT.match(text, at)
        if found is None:
            raise UnreadableError(f"\\{name} without a name")
        end = found.end()
        if name == "begin" and found.group(1) == "array" and (columns := _ASIDE.match(text, end)):
            end = columns.end()
        return "other", r"\begin|" if name == "begin" and found.group(1) == "vmatrix" else f"\\{name}", end
    if name in ("mathbb", *_TEXTS):
        return _aside(name, text, at)
    if name in ("le", "ge", "ne"):
        return "other", "\\" + name, at
    return "command", "\\" + name, at


def _aside(name: str, text: str, at: int) -> tuple[str, str, int]:
    r"""`\text{...}` and its kin: a letter or a function's name is mathematics, the rest is text."""
    found = _ASIDE.match(text, at) or re.compile(r"\s*([A-Za-z])").match(text, at)
    if found is None:
        return "space_command", "", at
    inside = found.group(1)
    if name == "mathbb":
        return "command", "\\mathbb" + inside.strip(), found.end()
    if inside.strip() in _NAMES and name not in _SPOKEN:
        return "word", inside.strip(), found.end()
    letter = name not in _SPOKEN and len(inside) == 1 and inside.isalpha()
    if letter and (inside not in "mgshLJNWVAKT" or not text[:at].rstrip().removesuffix("\\" + name).rstrip()[-1:].isdigit()):
        return "word", inside, found.end()
    if re.fullmatch(r"\s*[-+]?[\d.,/]+\s*", inside):  # \text{42}
        return "number", inside.strip(), found.end()
    return "text", inside, found.end()


def _escaped(character: str) -> tuple[str, str]:
    if character in "{}":
        return "other", "\\" + character
    if character in "%#&_":
        return "other", character
    if character == "|":
        return "other", "|"
    if character == "\\":
        return "other", r"\\"
    return "other", character
