r"""The pieces of an expression: numbers, letters, functions, brackets, roots, matrices, and their powers."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction

from groupwise.verify.cursor import Cursor, Node
from groupwise.verify.markup import Token, UnreadableError
from groupwise.verify.units import worded
from groupwise.verify.vocabulary import CLOSING, CONSTANTS, FUNCTIONS, GREEK, IGNORED, INVERSE

DEEPEST = 40
"""Nested brackets, fractions and powers."""
_SPLIT = re.compile(r"[a-zA-Z]'*")


class Atoms(Cursor):
    """The rules below a product; those above it are `groupwise.verify.syntax`'s."""

    @abstractmethod
    def side(self) -> Node:
        """A sum, or a union."""

    @abstractmethod
    def item(self) -> Node:
        """An answer of a list."""

    @abstractmethod
    def items(self, closing: Sequence[str]) -> list[Node]:
        """Answers up to a closing bracket."""

    def factor(self) -> Node:
        """An atom with its powers, factorials, percent and degree signs."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnreadableError("nested too deep")
        value = self.atom()
        while True:
            if self.take("^"):
                value = self._power(value)
            elif self.take("!"):
                value = ("call", "factorial", value)
            elif self.take("%"):
                value = ("percent", value)
            elif self.take(r"\degree"):
                value = ("deg", value)
            elif self.peek() == "_" and value[0] == "num":
                self.at += 1
                value = ("call", "base", value, self.argument())
            else:
                break
        self.depth -= 1
        return value

    def _power(self, value: Node) -> Node:
        if self.take(r"\degree"):
            return ("deg", value)
        if self.peek() == "{" and self.peek(1) == r"\degree":
            self.at += 2
            self.need("}")
            return ("deg", value)
        return ("^", value, self.argument(power=True))

    def argument(self, power: bool = False) -> Node:
        r"""What follows ^, _, \frac: braces, or one digit or letter (of ^ in plain text: a whole signed factor)."""
        if self.take("{"):
            value = self.side()
            self.need("}")
            return value
        if power and (sign := self.sign()) is not None:
            value = self.argument(power=True)
            return value if sign > 0 else ("neg", value)
        token = self.tokens[self.at] if self.at < len(self.tokens) else Token("", "")
        if token.kind == "number" and not power and len(token.text) > 1:
            self.tokens[self.at] = Token("number", token.text[1:])
            return ("num", Fraction(token.text[0]), 0)
        if power and (token.text == "(" or token.kind in ("number", "word", "command")):
            value = self.atom()
            return ("^", value, self.argument(power=True)) if self.take("^") else value
        return self.atom()

    def atom(self) -> Node:
        """A number, letter, function, matrix, or what stands in brackets."""
        if self.at >= len(self.tokens):
            raise UnreadableError("ends too early")
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "number":
            return self.number(token.text)
        if token.kind == "word":
            return self._word(token)
        if token.kind == "command":
            return self._command(token.text[1:])
        if token.text in (r"\begin", r"\begin|"):
            return self._matrix() if token.text == r"\begin" else ("call", "det", self._matrix())
        if token.text in CLOSING:
            return self._bracket(token.text)
        if token.text == "|":
            self.bars += 1
            value = self.side()
            self.need("|")
            self.bars -= 1
            return ("call", "abs", value)
        raise UnreadableError(f"{token.text!r} comes unexpected")

    def _word(self, token: Token) -> Node:
        """A function, a constant, a letter, or letters that multiply; longer words are no mathematics."""
        text = token.text
        if text in FUNCTIONS:
            return self._call(FUNCTIONS[text])
        if text in CONSTANTS:
            return ("const", CONSTANTS[text])
        digits = worded(text)
        if digits:
            return ("num", Fraction(digits), 0)
        if text in GREEK:
            return ("sym", "\\" + text)
        if len(text) > 3 and not (len(text) <= 6 and self.at > 1 and token.spaced is False):
            raise UnreadableError(f"the word {text!r}")
        letters = _SPLIT.findall(text)
        if len(letters) > 1:  # read the letters one by one, so that a power belongs to the last
            self.tokens[self.at - 1:self.at] = [Token("word", one) for one in letters]
            return self._word(self.tokens[self.at - 1])
        return self._subscript("sym", text) if text not in CONSTANTS else ("const", CONSTANTS[text])

    def _subscript(self, kind: str, name: str) -> Node:
        if self.take("_"):
            start = self.at
            if self.take("{"):
                while not self.take("}"):
                    if self.at >= len(self.tokens):
                        raise UnreadableError("a subscript is not closed")
                    self.at += 1
            else:
                self.at += 1
            name += "_" + "".join(t.text for t in self.tokens[start:self.at] if t.text not in "{}")
        if [self.peek(ahead) for ahead in range(3)] == ["(", "0", ")"]:  # y(0) is not y times 0
            self.at += 3
            name += "(0)"
        return (kind, name)

    def _command(self, name: str) -> Node:
        if name in ("frac", "binom"):
            top, bottom = self.argument(), self.argument()
            return ("/", top, bottom) if name == "frac" else ("call", "binom", top, bottom)
        if name == "sqrt":
            degree = None
            if self.take("["):
                degree = self.side()
                self.need("]")
            value = self.argument() if self.kind() != "word" or self.peek() not in FUNCTIONS else self.factor()
            return ("^", value, ("/", ("num", Fraction(1), 0), degree)) if degree else ("call", "sqrt", value)
        if name in ("langle", "lfloor", "lceil"):
            return self._bracket("\\" + name)
        if name in FUNCTIONS:
            return self._call(FUNCTIONS[name])
        if name in CONSTANTS:
            return ("const", CONSTANTS[name])
        if name in ("dot", "ddot", "tilde"):
            inside = self.argument()
            if inside[0] != "sym":
                raise UnreadableError(f"\\{name} of an expression")
            return self._subscript("sym", f"{name} {inside[1]}")
        if name in IGNORED:
            return self.argument() if self.peek() == "{" else self.atom()
        if name in GREEK or name.startswith(("mathbb", "mathfrak", "aleph")):
            return self._subscript("sym", "\\" + name)
        raise UnreadableError(f"\\{name}")

    def _call(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while self.peek() in ("^", "_") and self.peek():
            if self.take("^"):
                power = self.argument(power=True)
            elif self.take("_"):
                base = self.argument()
        arguments = self._arguments()
        if power == ("neg", ("num", Fraction(1), 0)) and name in INVERSE:
            name, power = INVERSE[name], None
        value: Node = ("call", name, *arguments)
        if base is not None and name in ("ln", "log10"):
            value = ("/", ("call", "ln", *arguments), ("call", "ln", base))
        return ("^", value, power) if power else value

    def _arguments(self) -> list[Node]:
        """In brackets, or without them a product up to the next sign or function."""
        if self.peek() in ("(", "{", "["):
            closing = CLOSING[self.peek()]
            self.at += 1
            found = self.items((closing,))
            self.need(closing)
            if not found:
                raise UnreadableError("a function of nothing")
            return found
        value = self.factor()
        while self.begins() and self.peek() not in FUNCTIONS and self.peek()[1:] not in FUNCTIONS and self.peek() not in (
                "(", "[") and not self.at_unit():
            value = ("*", value, self.factor())
        while self.peek() == "/" and self.kind(1) in ("number", "word"):
            self.at += 1
            value = ("/", value, self.factor())
        return [value]

    def _bracket(self, opening: str) -> Node:
        closings = (CLOSING[opening], ")", "]") if opening in "([" else (CLOSING[opening],)
        items = self.items(closings)
        closing = self.peek()
        if len(items) == 1 and closing in (r"\choose", r"\over") and opening == "{":
            self.at += 1
            bottom = self.side()
            self.need("}")
            return ("call", "binom", items[0], bottom) if closing == r"\choose" else ("/", items[0], bottom)
        if closing not in closings:
            raise UnreadableError(f"{opening!r} is not closed")
        self.at += 1
        if opening in (r"\lfloor", r"\lceil"):
            return ("call", "floor" if opening == r"\lfloor" else "ceil", *items)
        single = len(items) == 1 and opening + closing in ("()", "[]", "{}")
        return items[0] if single and items[0][0] != "text" else ("seq", opening, closing, items)

    def _matrix(self) -> Node:
        rows: list[list[Node]] = [[]]
        while not self.take(r"\end"):
            if self.at >= len(self.tokens):
                raise UnreadableError("a matrix is not closed")
            if self.take(r"\\"):
                rows.append([])
            elif not self.take("&", ",", "."):
                rows[-1].append(self.item())
        return ("matrix", [row for row in rows if row])
