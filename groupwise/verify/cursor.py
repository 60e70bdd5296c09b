"""The place in the tokens of an answer, what comes next there, and the pieces that need no grammar: signs and numbers."""

import re
from fractions import Fraction
from typing import Any

from groupwise.verify.markup import Token, UnreadableError
from groupwise.verify.units import is_unit
from groupwise.verify.vocabulary import CONSTANTS, FUNCTIONS, GREEK, IGNORED, SIGNS

_NOUN = re.compile(r"\s*(?!(?:and|or|if|when|where|for|to|mod)\b)[a-zA-Z]{2,}(?:[ -][a-zA-Z]{2,}){0,2}[. ]*")
Node = tuple[Any, ...]
"""A piece of a read answer; `groupwise.verify.syntax` lists them."""


class Cursor:
    r"""`tokens`, the place in them, the depth of brackets, and the sign that \pm stands for."""

    def __init__(self, tokens: list[Token], plus: int) -> None:
        self.tokens, self.at, self.depth, self.bars, self.plus, self.wide = tokens, 0, 0, 0, plus, False

    def peek(self, ahead: int = 0) -> str:
        """The text of a coming token; text in quotes and the end are "" here."""
        at = self.at + ahead
        return self.tokens[at].text if at < len(self.tokens) and self.tokens[at].kind != "text" else ""

    def kind(self, ahead: int = 0) -> str:
        """The kind of a coming token, "" at the end."""
        at = self.at + ahead
        return self.tokens[at].kind if at < len(self.tokens) else ""

    def take(self, *wanted: str) -> bool:
        """Go past the next token if it is one of these."""
        if self.at < len(self.tokens) and self.peek() in wanted:
            self.at += 1
            return True
        return False

    def need(self, wanted: str) -> None:
        """Go past the next token, which must be this one."""
        if not self.take(wanted):
            raise UnreadableError(f"{wanted!r} expected, got {self.peek()!r}")

    def joint(self) -> bool:
        """Go past what separates items: a comma, a semicolon, "and", "or"; `wide` says that it was a semicolon or "or"."""
        found, self.wide = False, False
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            word = token.text.strip(" ,").casefold() if token.kind in ("text", "word") else ""
            if token.text in (",", ";", r"\vee", r"\lor", r"\land", r"\wedge", r"\&") or word in ("and", "or"):
                self.at, found = self.at + 1, True
                self.wide = self.wide or token.text == ";" or word == "or"
            elif token.kind == "text" and not token.text.strip(" ,"):
                self.at += 1
            else:
                break
        return found

    def sign(self) -> int | None:
        """Go past a sign: 1 or -1; None if there is none."""
        text = self.peek()
        if text in SIGNS or text in (r"\pm", r"\mp"):
            self.at += 1
            return SIGNS.get(text) or (self.plus if text == r"\pm" else -self.plus)
        return None

    def at_unit(self) -> bool:
        """Whether a unit comes next."""
        kind, text = self.kind(), self.tokens[self.at].text if self.at < len(self.tokens) else ""
        if kind == "text":  # after a number any noun: 81\\text{ teachers}
            counted = self.at > 0 and self.kind(-1) == "number" and self.kind(1) == "" and _NOUN.fullmatch(text) is not None
            return bool(text.strip()) and (counted or is_unit(text))
        if kind == "word" and text == "min" and self.at and self.kind(-1) == "number" and self.peek(1) not in ("(", "{"):
            return True
        if kind != "word" or text in FUNCTIONS or text.casefold() in ("and", "or") or len(text) < 2:
            return False
        return is_unit(text) or text.casefold() in ("square", "cubic", "sq", "per")

    def begins(self) -> bool:
        """Whether a factor comes next."""
        kind, text = self.kind(), self.peek()
        if kind == "number":
            return True
        if kind == "word":
            return text.casefold() not in ("and", "or")
        if kind == "command":
            return text[1:] in FUNCTIONS or text[1:] in CONSTANTS or text[1:] in GREEK or text[1:] in IGNORED or text in (
                r"\frac", r"\binom", r"\lfloor", r"\lceil", r"\dot", r"\ddot", r"\tilde")
        return text in ("(", "[", "{", r"\begin", r"\begin|") or (text == "|" and not self.bars)

    def number(self, text: str) -> Node:
        r"""A number: a plain one, 0.1\overline{6}, 1.5e-3."""
        places = text.partition(".")[2]
        if len(text) > 400:
            raise UnreadableError("a number too long")
        if self.peek() in (r"\overline", r"\bar", r"\dot") and self.kind(2) == "number" and self.peek(3) == "}" and "." in text:
            period = self.peek(2)
            self.at += 4
            repeating = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(places))
            return ("num", Fraction(text + "0" if text.endswith(".") else text) + repeating, 0)
        follows = self.tokens[self.at] if self.at < len(self.tokens) else None
        if follows is not None and follows.kind == "word" and not follows.spaced and follows.text in ("e", "E") and (
                self.kind(1) == "number" or (self.peek(1) in "+-" and self.kind(2) == "number" and self.peek(1))):
            sign = -1 if self.peek(1) == "-" else 1
            self.at += 1 + (self.peek(1) in ("+", "-"))
            power = int(self.peek()[:5])
            self.at += 1
            if power > 400:
                raise UnreadableError("a power too large")
            return ("num", Fraction(text) * Fraction(10) ** (sign * power), max(0, len(places) - sign * power))
        return ("num", Fraction(text), len(places))
