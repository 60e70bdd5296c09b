r"""Where the answer stands in a response.

    tag     the last closed <answer>...</answer>            line   "#### 5", "Answer: 5", "the answer is 5"
    boxed   the last closed \boxed{}, or several in a row   math   the last formula of the end
    last    the last number of the last sentence, where it concludes something; or a text that is an answer itself

Never read: what is in <think> once that is closed, what follows the end of the model's turn (another question that it asks
itself), lines of the problem that are repeated, an empty box or one with a placeholder, and an answer that is denied ("is not
5").
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from groupwise.verify.text import balanced

MARKED = ("tag", "boxed", "line")
"""The marks that a format asks for."""
_LONGEST = 300_000
"""Characters of the end that are read at all: four characters a token, 75,000 tokens."""
_END = 3000
"""Characters of the end in which an unmarked answer is looked for."""
_REPEATED = 8
"""Characters from which a line that also stands in the problem is taken for a repetition of it."""
_STOP = re.compile(r"<\|im_(?:start|end)\|>|<\|endoftext\|>|<\|eot_id\|>|</s>"
                   r"|\n[ \t]*(?:User|Human|Question|Problem|Q)\s*\d{0,3}\s*:")
_OPEN_TAG = re.compile(r"<answer>", re.IGNORECASE)
_LINE = re.compile(
    r"####|\b(?:final\s{1,3}|correct\s{1,3}|right\s{1,3}|best\s{1,3})?(?:answers?|option|choice|result|solution)\b"
    r"(?:\s{1,3}(?:to|of|for)\s[^.:\n$\\]{1,60}?)?"
    r"\s{0,3}(?:\*\*)?\s{0,3}(?::|\bis\b|\bare\b|=|\bshould\s{1,3}be\b)(?:\s{0,3}\*\*)?\s{0,3}:?",
    re.IGNORECASE)
_CLAUSE = re.compile(r"[.](?=\s+[A-Z(<]|\s*$)|;\s|\bbecause\b|\bsince\b|, (?=it|so|as|which|because)")
_STATES = re.compile(r"(?<![a-zA-Z])(?:is|are|equals)(?:\s+equal\s+to)?(?=[\s:])(?!\s+(?:not|in|an?|the|at|on|of)\b)[\s:]+")
_DENIED = re.compile(r"(?:\bnot|n't|\bnever|\bneither|\brather than|\binstead of)\s*(?:\$|\\\(|\*\*)?\s*$", re.IGNORECASE)
_DENIES = re.compile(r"\s*(?:\$|\*\*)?\s*(?:not|never|neither|wrong|incorrect|unknown|unclear)\b", re.IGNORECASE)
_EITHER = re.compile(r"\$[^$]{1,60}\$[\w\s,]{0,20}\bor\b[\w\s,]{0,20}\$")
_FORMULA = re.compile(r"\$\$(.{1,1500}?)\$\$|\\\[(.{1,1500}?)\\\]"
                      r"|(?<![\\$])\$(?!\$)([^$]{1,1500}?)(?<!\\)\$|\\\((.{1,1500}?)\\\)", re.DOTALL)
_BETWEEN = re.compile(r"(?:\s|[$,;&~]|\\[()\[\],;:! ]|\\q?quad|\\(?:text|textbf|mathrm)\{\s*(?:and|or)?\s*\}|\b(?:and|or)\b"
                      r"|\\?[a-zA-Z](?:_\{?\w\}?)?\s*=){0,60}"
                      r"|[\s$~]*(?:\\text\{)?[\w\s()$-]{1,40}(?:\band|\bor|,)[\s$~]*\}?[\s$~]*")
"""What stands between the boxes of one list."""
_PLACEHOLDER = re.compile(
    r"\s*|\W*(?:(?:your|the|final|numeric|insert|enter|put)?[\s_]*(?:final|numeric(?:al)?)?[\s_]*"
    r"(?:answer|result|value|expression|option|letter)[\s_]*(?:here)?|\.{2,}|…|\\[lc]?dots|#+|_+|X{3,}|\?+)\W*", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-−+])?\\?\$?(?:\\[dt]?frac\{-?\d{1,40}\}\{\d{1,40}\}|(?:\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    r"(?:[eE][-+]?\d{1,3}(?!\d)|\s?/\s?\d+)?|\.\d+)(?:\s?\\?%)?")
_MORE = re.compile(r"[-+*/^_=<>{}\\]|\((?![A-J]\))")
"""What makes a number a part of a formula: it is not the answer by itself."""
_CONCLUDES = re.compile(r"=|\b(?:is|are|was|were|be|equals?|therefore|thus|so|hence|total|get|gets|have|has|gives?|makes?|needs?"
                        r"|left|by|answer|result|finally|only)\b|≈|\\approx|:", re.IGNORECASE)
_SAYS = re.compile(r"\b(?:is|are|was|so|thus|hence|get|be|not)\b", re.IGNORECASE)
_ASKS = re.compile(r"^\W*(?:compute|find|evaluate|simplify|determine|calculate|what|how|express|solve|convert|expand|factor"
                   r"|let us|let's|now we|next|we (?:need|must|have) to)\b|\?\W*$", re.IGNORECASE)
"""A sentence that states a problem or a plan concludes nothing."""
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!(?:sin|cos|tan|sqrt|log|exp|and|frac|text|left|right)\b)[a-zA-Z]{2,}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\\$(])|\n+")
_CHOICE = re.compile(r"(?:answer is(?: \w+){1,3} (?=[A-HJ][,.;)]|[A-HJ]$)"
                     r"|(?:answer|option|choice|it'?s|is|think|choose|select|pick|be)\W{1,6})\(?([A-HJ])\)?(?![\w'])"
                     r"|^\W{0,3}([A-HJ])\W{0,3}(?:$|[.):])")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer's text and what marked it."""

    mark: str
    text: str


def answers_in(text: str, prompt: str = "", cut: bool = False) -> Iterator[Found]:
    """The readings of a response's answer, the most certain first; all have one mark. `cut`: the response was truncated.

    Nothing where there is no answer; an answer in a line of a truncated response is none, as it may go on.
    """
    spoken = _spoken(text[-_LONGEST:].replace("\\\\boxed", "\\boxed"), cut)
    if spoken is None:
        return
    spoken = _without(spoken, prompt)
    if (tag := _tag(spoken, cut)) is not None:
        yield from (Found("tag", one) for one in _boxed(tag) or _readings(tag))
        return
    if (boxes := _boxed(spoken)) and not _concluded(spoken, cut):
        yield from (Found("boxed", one) for one in boxes)
        return
    if cut:
        return
    if (line := _line(spoken)) is not None:
        yield from (Found("line", one) for one in _readings(line))
        return
    yield from _unmarked(spoken)


def _spoken(text: str, cut: bool) -> str | None:
    """The response behind its thinking and before the next turn; None if it was cut while thinking."""
    end = text.rfind("</think>")
    if end >= 0:
        text = text[end + 8:]
    elif "<think>" in text and cut:
        return None
    stop = next((m for m in _STOP.finditer(text) if text[:m.start()].strip()), None)
    return text if stop is None else text[:stop.start()]


def _tag(text: str, cut: bool) -> str | None:
    """The inside of the last answer tag; a stop string may have taken the closing one."""
    starts = [found.end() for found in _OPEN_TAG.finditer(text)]
    lower = text.casefold() if starts else ""
    for start in reversed(starts[-20:]):
        end = lower.find("</answer>", start)
        inside = text[start:end].strip() if end >= 0 else text[start:].strip()
        if (end >= 0 or not cut) and not _PLACEHOLDER.fullmatch(inside[:80]):
            return inside
    return None


def _boxed(text: str) -> list[str]:
    r"""The last closed box with something in it; before it several boxes of one sentence as one list, where there are such."""
    boxes = [(start, end, inside) for start, end, inside in balanced(text)
             if not (len(inside) < 80 and _PLACEHOLDER.fullmatch(inside)) and not _DENIED.search(text[max(0, start - 40):start])]
    if not boxes:
        return []
    start, _, inside = boxes[-1]
    parts = [inside]
    for before in reversed(boxes[:-1]):
        if before[1] > start or start - before[1] > 80 or not _BETWEEN.fullmatch(text[before[1]:start]):
            break
        parts.append(before[2])
        start = before[0]
    distinct = list(dict.fromkeys(reversed(parts)))
    return [", ".join(distinct)] if sum(map(len, distinct)) < 1000 else [inside]


def _concluded(text: str, cut: bool) -> bool:
    r"""Whether a line "Final answer: ..." comes after the last box, and says something."""
    last = text.rfind(r"\boxed")
    tail = text[last:]
    return not cut and any(found.group().casefold().startswith("final") for found in _LINE.finditer(tail)) and (
        _line(tail) is not None and not balanced(tail[1:]) and r"\boxed" not in (_line(tail) or ""))


def _line(text: str) -> str | None:
    """What follows the last "answer is" that is not denied."""
    marks = list(_LINE.finditer(text))[-20:]
    for found in reversed(marks):
        rest = text[found.end():found.end() + 1500].lstrip(" \t*:")
        if _DENIES.match(rest):
            continue
        if not rest.strip("\n *$.") or rest.startswith("\n"):
            rest = rest.lstrip("\n *$").split("\n\n", 1)[0] if rest.startswith(("\n\\[", "\n$$", "\n\n", "\n")) else ""
        display = _FORMULA.match(rest)
        line = rest if display and "\n" in display.group() else rest.split("\n", 1)[0]
        line = line.strip().removesuffix("**").strip()
        if line and not _PLACEHOLDER.fullmatch(line[:80]):
            return line
    return None


def _readings(line: str) -> Iterator[str]:
    """An answer's line as it is, its formulas, and its first clause."""
    line = re.sub(r"\$(\^[^$]{1,10})\$", r"\1", line)
    clause = _clause(line)
    if stated := list(_STATES.finditer(clause)):
        line = clause = clause[stated[-1].end():]
    formulas = _formulas(line)
    if formulas:
        outside = _FORMULA.sub("", line)
        if len(formulas) > 1 and re.fullmatch(r"(?:[\s,;.\"'\\]|\band\b|\bor\b|\bx\b)*", outside):
            yield ", ".join(formulas)
            return
        if len(formulas) > 1 and _EITHER.search(line):  # two answers are none
            return
        yield formulas[0]
        if len(formulas) > 1:
            return
    if clause and not formulas:
        yield clause
        number = [m.group() for m in _NUMBER.finditer(clause)]
        if len(number) == 1 and number[0] != clause and not _MORE.search(clause.replace(number[0], "", 1)):
            yield number[0]
        elif "=" in clause:
            yield clause.rsplit("=", 1)[1]
    if (choice := _CHOICE.search("answer is " + line)) is not None:
        yield choice.group(1) or choice.group(2)


def _clause(line: str) -> str:
    """The line up to the end of its first sentence or clause, where that is outside formulas."""
    at = 0
    for found in _CLAUSE.finditer(line):
        if line.count("$", at, found.start()) % 2 == 0 and line.count("\\(", 0, found.start()) == line.count("\\)", 0,
                                                                                                             found.start()):
            return line[:found.start()].strip().strip("*").strip()
    return line.strip().strip("*").strip()


def _formulas(text: str) -> list[str]:
    return [next(part for part in found.groups() if part is not None).strip() for found in _FORMULA.finditer(text)]


def _unmarked(text: str) -> Iterator[Found]:
    """A short text itself, the last formulas, or the last number where a sentence concludes."""
    end = text[-_END:].strip()
    if not end:
        return
    if r"\boxed" in end or "<answer>" in end:  # begun and not closed, or a placeholder: nothing else of it is an answer
        return
    if len(end) <= 200 and "\n" not in end and len(_WORD.findall(end)) <= 2 and not (_SAYS.search(end) or _ASKS.search(end)):
        yield Found("last", end)
        if re.search(r",\s|;|\b(?:and|or)\b", end):  # of several answers the last is not the answer
            return
    sentence = next((s for s in reversed(_SENTENCE.split(end)) if s.strip(" *$.`\\")), "")
    formulas = _formulas(end)
    shown = max((found.start() for found in _FORMULA.finditer(end)), default=0)
    before = next((s for s in reversed(_SENTENCE.split(end[:shown])) if s.strip()), "")
    if _ASKS.search(sentence) or (formulas and _ASKS.search(before)):
        return
    after = end[max((found.end() for found in _FORMULA.finditer(end)), default=0):]
    if formulas and not (_NUMBER.search(after) and _CONCLUDES.search(after)):
        spans = list(_FORMULA.finditer(end))
        joined = [formulas[-1]]
        for left, right in zip(spans[-2::-1], spans[:0:-1], strict=False):
            if not re.fullmatch(r"\s*(?:,|;|,?\s*and|,?\s*or)\s*", end[left.end():right.start()]):
                break
            joined.append(next(part for part in left.groups() if part is not None).strip())
        if len(joined) > 1:
            yield Found("math", ", ".join(reversed(joined)))
        yield Found("math", formulas[-1])
        return
    if (choice := _CHOICE.search(sentence)) is not None and not _NUMBER.search(sentence):
        yield Found("last", choice.group(1) or choice.group(2))
    numbers = [m.group() for m in _NUMBER.finditer(sentence) if not _DENIED.search(sentence[:m.start()])]
    if numbers and (_CONCLUDES.search(sentence) or len(end) <= 200):
        if "=" in sentence:
            yield Found("last", sentence.rsplit("=", 1)[1].strip(" .*"))
        yield Found("last", numbers[-1])


def _without(text: str, prompt: str) -> str:
    """The text without lines that are the problem's."""
    if not prompt:
        return text
    known = {line.strip() for line in prompt.splitlines() if len(line.strip()) >= _REPEATED}
    return "\n".join(line for line in text.split("\n") if line.strip() not in known)
