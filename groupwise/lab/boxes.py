"""Equations for a terminal: boxes of characters, put beside and above each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import combining

from groupwise.lab.tex import Cases, Fence, Frac, Node, Root, Row, Script, Sign, parse, signs

BELOW = dict(zip("0123456789+−=()aehijklmnoprstuvxβρφ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵨᵩ", strict=True))
ABOVE = dict(zip("′0123456789+−=()abcdeghijklmnoprstuvwxyz", "′⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True))
TALL = {"(": "⎛⎜⎝", ")": "⎞⎟⎠", "[": "⎡⎢⎣", "]": "⎤⎥⎦", "|": "│││", "{": "⎧⎨⎩", "}": "⎫⎬⎭"}


@dataclass(frozen=True)
class Box:
    """Lines of one width; `base` is the line that stands on the line of the text."""

    lines: tuple[str, ...]
    base: int = 0

    @property
    def width(self) -> int:
        """Columns."""
        return columns(self.lines[0])

    def __add__(self, other: "Box") -> "Box":
        up, down = max(self.base, other.base), max(len(x.lines) - x.base for x in (self, other))
        sides = [[" " * x.width] * (up - x.base) + list(x.lines) + [" " * x.width] * (down - len(x.lines) + x.base)
                 for x in (self, other)]
        return Box(tuple(a + b for a, b in zip(*sides, strict=True)), up)


def columns(line: str) -> int:
    """How many columns a line takes: accents stand above the letter before them."""
    return sum(not combining(letter) for letter in line)


def _padded(line: str, width: int, share: float = 0.0) -> str:
    """A line in so many columns, with this share of the space on its left."""
    space = width - columns(line)
    return " " * int(space * share) + line + " " * (space - int(space * share))


def text(latex: str) -> str:
    r"""An equation as lines of characters.

    >>> print(text(r"\frac{x_i - 1}{2} \le 10^{-6}"))
    xᵢ − 1
    ────── ≤ 10⁻⁶
      2
    """
    return "\n".join(line.rstrip() for line in draw(latex).lines)


def draw(latex: str) -> Box:
    """An equation as a box."""
    return _box(parse(latex))


def column(boxes: Sequence[Box]) -> Box:
    """One under the other, with the left edge in common; the first one's base."""
    width = max(box.width for box in boxes)
    return Box(tuple(_padded(line, width) for box in boxes for line in box.lines), boxes[0].base)


def _box(node: Node) -> Box:
    match node:
        case Sign(letters, _):
            return Box((letters,))
        case Row(items):
            return _row(items)
        case Frac(top, bottom):
            return _stack([_box(top), None, _box(bottom)], 1)
        case Root(inside):
            return Box(("√",)) + _fence("(", _box(inside), ")")
        case Fence(left, inside, right):
            return _fence(left, _box(inside), right)
        case Script(base, sub, sup):
            return _script(base, sub, sup)
        case Cases(rows):
            return _cases(rows)


def _row(items: tuple[Node, ...]) -> Box:
    """Side by side, with air around relations, sums and fractions, and none after a sign that opens something."""
    out, before = Box(("",)), "open"
    for item in items:
        kind = item.kind if isinstance(item, Sign) else "fraction" if isinstance(item, Frac) else "box"
        if isinstance(item, Script) and isinstance(item.base, Sign):
            kind = item.base.kind
        if kind == "space":
            before, out = ("open" if out.width == 0 else "space"), out + _box(item)
            continue
        unary = kind == "binary" and before in ("open", "relation", "binary", "comma", "unary")
        air = {kind, before} & {"relation", "big"} or (kind == "binary" and not unary) or before == "binary"
        air = air or before == "comma" or (before == "unary" and kind == "fraction")
        air = air or (before == "word" and kind not in ("box", "open", "comma", "close"))
        air = air or (kind == "word" and before in ("letter", "number", "box")) or (before == "fraction" and kind != "close")
        quiet = before in ("open", "space") or kind in ("close", "comma")
        out = out + Box((" " if air and not quiet else "",)) + _box(item)
        before = "unary" if unary else kind
    return out


def _stack(boxes: list[Box | None], base: int) -> Box:
    """One above the other, centred; None is a rule."""
    width = max(box.width for box in boxes if box)
    lines: list[str] = []
    at = 0
    for i, box in enumerate(boxes):
        if i == base:
            at = len(lines) + (box.base if box else 0)
        lines += [_padded(line, width, 0.5) for line in box.lines] if box else ["─" * width]
    return Box(tuple(lines), at)


def _fence(left: str, inside: Box, right: str) -> Box:
    def side(bracket: str) -> Box:
        n = len(inside.lines)
        if n == 1 or bracket not in TALL:
            return Box((bracket,))
        top, middle, bottom = tuple(TALL[bracket])
        return Box((top, *[middle] * (n - 2), bottom), inside.base)

    return side(left) + inside + side(right)


def _script(base: Node, sub: Node | None, sup: Node | None) -> Box:
    main = _box(base)
    if isinstance(base, Sign) and base.kind == "big":
        # Limits are kept narrow: a sum should not push the line apart.
        limits = [_tight(_box(one)) if one else None for one in (sup, sub)]
        return _stack([box for box in (limits[0], main, limits[1]) if box], 1 if sup else 0)
    low, high = _small(sub, BELOW), _small(sup, ABOVE)
    if sub is not None:
        main = main + (Box((low,)) if low else Box(("_",)) + _box(sub))
    if sup is not None:
        if high and len(main.lines) == 1:
            return main + Box((high,))
        raised = _box(sup)
        main = main + Box((*raised.lines, *[" " * raised.width] * (main.base + 1)), len(raised.lines) + main.base)
    return main


def _tight(box: Box) -> Box:
    """Without spaces, where it is one line."""
    return Box((box.lines[0].replace(" ", ""),)) if len(box.lines) == 1 else box


def _small(node: Node | None, letters: dict[str, str]) -> str:
    """An index in small characters; the comma between two indices is left out. Empty if a letter has no small form."""
    plain = "".join(sign.text for sign in signs(node) if sign.kind not in ("comma", "space"))
    return "".join(letters.get(letter, "") for letter in plain) if plain and all(x in letters for x in plain) else ""


def _cases(rows: tuple[tuple[Node, ...], ...]) -> Box:
    cells = [[_box(cell) for cell in row] for row in rows]
    many = max(len(row) for row in cells)
    widths = [max((row[i].width for row in cells if i < len(row)), default=0) for i in range(many)]
    lines: list[str] = []
    for row in cells:
        line = Box(("",))
        for i, box in enumerate(row):
            pad = Box((" " * (widths[i] - box.width + 2),))
            line = line + (Box(("if ",)) if i and not _is_word(box) else Box(("",))) + box + pad
        lines += line.lines
    width = max(map(columns, lines))
    inside = Box(tuple(_padded(line, width) for line in lines), (len(lines) - 1) // 2)
    n = len(lines)
    brace = "{" if n == 1 else "⎰⎱" if n == 2 else "⎧" + "⎪" * ((n - 1) // 2 - 1) + "⎨" + "⎪" * (n - (n - 1) // 2 - 2) + "⎩"
    return Box(tuple(brace), inside.base) + Box((" ",)) + inside


def _is_word(box: Box) -> bool:
    """Whether a condition is a word of its own (otherwise, else)."""
    return box.lines[0].strip().isalpha() and len(box.lines[0].strip()) > 2
