r"""A reader of mathematical answers: tokens become nodes, by recursive descent with a bound on depth and size.

    answer   = item {("," | ";" | "and" | "or") item}               several items are an unordered list
    item     = side {("=" | "<" | "\le" | "\in" ...) side} [unit]
    side     = product {("+" | "-" | "\pm" | "\cup" ...) product}
    product  = factor {["*" | "/" | "\div"] factor}                 left to right; nothing between factors multiplies
    factor   = atom {"^" factor | "!" | "%" | "\degree" | "'"}

Nodes are tuples whose first entry says what they are:

    ("num", value, places)   an exact fraction and its digits after the point     ("sym", name)   ("const", name)
    ("+" | "*" | "/" | "^", left, right)   ("neg", a)   ("call", name, argument, ...)   ("percent", a)   ("deg", a)
    ("seq", opening, closing, items)   a tuple, interval, set or bare list       ("matrix", rows)   ("union", items)
    ("rel", sides, operators)   ("unit", a, text)   ("text", words)   ("mod", a, modulus)   (r"\cap" | r"\setminus", set, set)
"""

from collections.abc import Sequence
from fractions import Fraction

from groupwise.verify.atoms import DEEPEST, Atoms
from groupwise.verify.cursor import Node
from groupwise.verify.markup import Token, UnreadableError
from groupwise.verify.units import scale, worded
from groupwise.verify.vocabulary import RELATIONS

MOST = 800
"""Tokens of an answer."""
ZERO: Node = ("num", Fraction(0), 0)


def read(tokens: Sequence[Token], plus: int = 1) -> list[Node]:
    r"""The items of an answer; `plus` is the sign that \pm stands for. Raises `UnreadableError`."""
    if len(tokens) > MOST:
        raise UnreadableError("too many tokens")
    reader = _Reader([t for t in tokens if t.kind != "space_command"], plus)
    items = reader.items(())
    if reader.at < len(reader.tokens):
        raise UnreadableError(f"{reader.peek()!r} comes unexpected")
    if not items:
        raise UnreadableError("nothing there")
    return items


def summed(parts: Sequence[Node]) -> Node | None:
    """3 hours and 20 minutes as one amount; None if the items are not amounts of one dimension in falling units."""
    scales = [scale(one[2]) for one in parts if one[0] == "unit"]
    sizes = [size for _, size in scales]
    if not parts or len(scales) != len(parts) or sizes != sorted(set(sizes), reverse=True):
        return None
    if any(one[0] != scales[0][0] for one in scales) or {"things", "units"} & set(scales[0][0]):
        return None
    total = ZERO
    for one, size in zip(parts, sizes, strict=True):
        total = ("+", total, ("*", one[1], ("num", size / sizes[-1], 0)))
    return ("unit", total, parts[-1][2])


class _Reader(Atoms):
    """One method for each rule of the grammar."""

    def items(self, closing: Sequence[str]) -> list[Node]:
        groups: list[list[Node]] = [[]]
        self.joint()
        while self.at < len(self.tokens) and self.peek() not in closing:
            groups[-1].append(self.item())
            if not self.joint():
                break
            if self.wide:
                groups.append([])
        groups = [one for one in groups if one]
        pairs = len(groups) > 1 and len(groups[0]) > 1 and len({len(one) for one in groups}) == 1  # 1,2;3,4
        if pairs and closing not in ((")", ")", "]"), ("]", ")", "]")):
            return [("seq", "(", ")", one) for one in groups]
        return [one for group in groups for one in group]

    def item(self) -> Node:
        """A relation or an expression, with its unit; or words."""
        words = self._words()
        if words is not None:
            return words
        sides, operators = [self._ratio()], []
        while self.peek() in RELATIONS:
            operators.append(self.peek())
            self.at += 1
            sides.append(self._words() or self._ratio())
        return ("rel", sides, operators) if operators else sides[0]

    def _ratio(self) -> Node:
        r"""A side, a ratio or a time of day: 2:3, 12:00; with \pmod behind it a class of numbers."""
        parts = [self.side()]
        while self.take(":"):
            parts.append(self.side())
        value = ("seq", ":", ":", parts) if len(parts) > 1 else parts[0]
        if self.peek() in (r"\pmod", r"\bmod", r"\mod"):
            self.at += 1
            value = ("mod", value, self.argument() if self.peek() == "{" else self.factor())
        return value

    def _words(self) -> Node | None:
        r"""Text that is an item of its own: \text{Yes}; a number in words is a number."""
        if self.kind() != "text" or (self.kind(1) not in ("", "text") and self.peek(1) not in (",", ";", ")", r"\}", "]")):
            if self.kind() == "text" and self.at + 1 < len(self.tokens):  # a label before the answer, as in \text{Area} = 5
                self.at += 1
            return None
        text = self.tokens[self.at].text.strip(" .,")
        if text.casefold() in ("and", "or"):
            return None
        self.at += 1
        digits = worded(text)
        return ("num", Fraction(digits), 0) if digits else ("text", text)

    def side(self) -> Node:
        """Sums, and what sets are made of: unions, intersections, differences."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("nested too deep")
        value = self._sum()
        while (operator := self.peek()) in (r"\cup", r"\cap", r"\setminus"):
            self.at += 1
            right = self._sum()
            value = ("union", [value, right]) if operator == r"\cup" else (operator, value, right)
        self.depth -= 1
        return value

    def _sum(self) -> Node:
        value = self._signed()
        while (sign := self.sign()) is not None:
            right = self.product()
            value = ("+", value, right if sign > 0 else ("neg", right))
        return value

    def _signed(self) -> Node:
        sign = 1
        while (one := self.sign()) is not None:
            sign *= one
        value = self.product()
        return value if sign > 0 else ("neg", value)

    def product(self) -> Node:
        value = self.factor()
        while True:
            if self.take("*"):
                value = ("*", value, self._after())
            elif self.take("/"):
                value = ("/", value, self._after())
            elif self.take("%"):
                value = ("percent", value)
            elif self.at_unit():
                value = self._measured(value)
            elif self.begins():
                value = self._mixed(value) or ("*", value, self.factor())
            else:
                return value

    def _measured(self, value: Node) -> Node:
        """A value and its unit; 3 hours 20 minutes is one value."""
        text = self._units()
        if value[0] == "*" and value[1][0] == "unit" and value[2][0] == "num":
            return summed([value[1], ("unit", value[2], text)]) or ("unit", value, text)
        return ("unit", value, text)

    def _after(self) -> Node:
        """A factor that may have a sign: 2 * -3."""
        sign = self.sign()
        value = self.factor()
        return ("neg", value) if sign == -1 else value

    def _mixed(self, value: Node) -> Node | None:
        r"""2\frac{3}{4} and 2 3/4 are sums."""
        whole = value if value[0] == "num" and value[1].denominator == 1 and self.tokens[self.at - 1].kind == "number" else None
        if whole is None:
            return None
        start, tokens = self.at, list(self.tokens)
        if self.peek() == r"\frac":
            right = self.atom()
            if right[0] == "/" and right[1][0] == right[2][0] == "num" and 0 <= right[1][1] < right[2][1]:
                return ("+", value, right)
        elif self.kind() == "number" and self.peek(1) == "/" and self.kind(2) == "number" and self.tokens[self.at].spaced:
            right = self.factor()
            self.at += 1
            return ("+", value, ("/", right, self.factor()))
        self.at, self.tokens = start, tokens
        return None

    def _units(self) -> str:
        r"""Go past a unit of any length: cm^2, \text{ km}/\text{h}, square feet."""
        words: list[str] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if self.at_unit() or (token.kind == "word" and words and token.text in ("of", "h", "s")):
                words.append(token.text.strip())
                self.at += 1
            elif token.text == "/" and words and self.kind(1) in ("text", "word"):
                words.append("/")
                self.at += 1
            elif token.text == "^" and words:
                self.at += 1
                words.append("^" + self._exponent())
            else:
                break
        return " ".join(words)

    def _exponent(self) -> str:
        node = self.argument()
        sign, node = ("-", node[1]) if node[0] == "neg" else ("", node)
        return sign + str(node[1]) if node[0] == "num" else "?"
