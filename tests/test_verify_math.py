"""The verifier math: what is the same answer, where it stands, and what hostile text does to it."""

import random
import subprocess
import sys
import time

import pytest

from groupwise.verify.find import answers_in
from groupwise.verify.mathematics import compare, math
from groupwise.verify.pool import Item, Pool

SAME = [
    ("1000", "1{,}000"), ("1000", r"1,\!000"), ("1/2", "0.50"), (r"\frac12", r"\dfrac{2}{4}"), ("5", r"5\text{ cm}"), ("5",
                                                                                                                       r"5\mathrm{~m}"),
    (r"5\text{ m}", "500 cm"), ("45", r"45^\circ"), ("25", r"25\%"), ("0.25", "25%"), ("1/3", "0.333333"), ("0.333", "1/3"),
    ("31/4",
                                                                                                                      r"7\frac{3}{4}"),
    ("31/4", "7 3/4"), (r"\sqrt{8}", r"2\sqrt2"), (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}"), ("(x+1)^2", "x^2+2x+1"), ("x",
                                                                                                                        "(x)"),
    (r"\sin^2 x", r"1-\cos^2 x"), (r"e^{i\pi}", "-1"), ("10!", "3628800"), (r"\binom{5}{2}", "10"), (r"\log_2 8", "3"),
    ("2516_8", "2516"),
    ("5", "x = 5"), ("x=5", "5"), ("2,3", "3, 2"), (r"\{1,2\}", r"\{2,1\}"), ("x=2, x=3", "3 and 2"), ("(1,2)",
                                                                                                       r"\left( 1, 2 \right)"),
    ("(1,2)", r"\begin{pmatrix}1\\2\end{pmatrix}"), ("(-3,5]", r"-3 < x \le 5"), (r"(-\infty,2)\cup(3,\infty)", "x<2 or x>3"),
    (r"1\pm\sqrt{2}", r"1-\sqrt2, 1+\sqrt2"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
                                               r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
    ("y=2x+1", "2x-y+1=0"), ("C", "(C)"), ("(D) Alina", "D"), (r"\text{Yes}", "yes"), ("five", "5"), (r"\text{even}", "Even"),
    ("0.1666...", "0.1666..."), ("0.1\\overline{6}", r"\frac16"), ("2:3", "2:3"), ("30", "30 degrees"), ("x^{10000}",
                                                                                                         "x^{10000}"),
    ("(101!)^{100}", "n=(101!)^{100}"), ("-4", "−4"), ("½", "0.5"), ("x²", "x^2"), ("abc", "cba")]
DIFFERENT = [
    ("5", "6"), ("5", "-5"), ("1/3", "0.33"), ("1/2", "2"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2]"), ("[1,2)", "[1,2]"), ("2,3",
                                                                                                                         "2"),
                                                                                                                         ("2",
                                                                                                                          "2, 3"),
    (r"\{1,2\}", "(1,2)"), ("5 m", "5 s"), ("x+1", "x+2"), ("x", "y"), ("x", "X"), (r"\sqrt{x^2}", "x"), ("(x-a)^{5999}",
                                                                                                          "(x-a)^{6000}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"), ("x<2", r"x\le 2"), ("x<2", "x>2"),
    ("y=2x", "y=3x"),
    ("C", "D"), ("yes", "no"), ("dog", "god"), ("12:00", "1:00"), ("2x+z=1", "1"), ("10^{100}", "10^{101}"),
    ("42", ""),
    ("0.25", "0.3"), ("100", "99.9999999"), ("x^2=4", "4"), ("1e300", "2e300"), ("3", r"3\pm 1")]

SAME += [tuple(line.split(" | ")) for line in r"""
|x|>5 | (-\infty,-5)\cup(5,\infty)
|2x-3| \le 2 | \frac12 \le x \le \frac52
-2x<6 | x>-3
x \ne 0 | \mathbb{R}\setminus\{0\}
x \in \mathbb{R}, x \ne 3 | (-\infty,3)\cup(3,\infty)
x>2 and x<5 | (2,5)
(0,2)\setminus\{1\} | (0,1)\cup(1,2)
\{1,2,3\}\cap\{2,3,4\} | \{2,3\}
\begin{vmatrix}1&2\\3&4\end{vmatrix} | -2
\frac15\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1/5\\2/5\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}^{-1} | \begin{pmatrix}-2&1\\3/2&-1/2\end{pmatrix}
\begin{pmatrix}1&1\\0&1\end{pmatrix}^3 | \begin{pmatrix}1&3\\0&1\end{pmatrix}
V_1:V_2=1:2 | 1:2
p=5,q=2; p=7,q=2 | (5,2),(7,2)
3 hours 20 minutes | 200 minutes
10\text{ kg m/s}^2 | 10\text{ N}
20^\circ C | 20^\circ\text{C}
30^\circ | \frac{\pi}{6}
\$5 | 500 cents
x \equiv 3 \pmod 5 | x \equiv 8 (mod 5)
0.\overline{142857} | 1/7
{16 \choose 2} | 120
(x-4a)^{6000} | (4a-x)^{6000}
(5\sqrt2-7)^7 | (19601-13860\sqrt2)^{7/4}
\frac{\pi}{4}+k\pi | \frac{\pi}{4}+n\pi
no solution | \emptyset
2.5 x 10^3 | 2500
a+bi | a+b i
1{,}234.5 | \$1,234.50""".strip().splitlines()]
DIFFERENT += [tuple(line.split(" | ")) for line in r"""
|x|>5 | x>5
x>2 | 2<x<5
\begin{vmatrix}1&2\\3&4\end{vmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
x=1,y=2 | 2,1
f(x)=x^2 | g(x)=x^2
3:30 pm | 3:30 am
5\text{ cm}^2 | 5\text{ cm}^3
2 m/s | 2 km/h
20^\circ C | 20^\circ F
30^\circ | 30\text{ radians}
-5^\circ | -5\text{ radians}
\$5 | 5 cents
12\text{ people} | 12\text{ meters}
\sqrt{2}+10^{12} | \sqrt{2}+10^{12}+1
x^2+10^{12} | x^2+10^{12}+1
\frac{1}{2004!} | -\frac{1}{2004!}
(a^b)^c | a^{bc}
y(0)e^x | x(0)e^x
y' | y
\gcd(k, p - 1) | \gcd(k, p + 1)
x \equiv 3 \pmod 5 | x\equiv 3\pmod 7
2,3 | 2.3
\mathbb{R}\setminus\{0\} | \mathbb{R}
(0,1)\cup(1,2) | (0,2)
2k\pi | k\pi""".strip().splitlines()]


@pytest.mark.parametrize(("gold", "given"), [pair for pair in SAME if pair != ("abc", "cba")])
def test_the_same_answer_in_another_writing(gold, given):
    assert compare(gold, given)[0] is True
    assert compare(given, gold)[0] is True or gold in ("0.333", "1/3")  # a decimal stands for a fraction in one direction


@pytest.mark.parametrize(("gold", "given"), DIFFERENT)
def test_another_answer(gold, given):
    assert not compare(gold, given)[0]
    assert not compare(given, gold)[0]


@pytest.mark.parametrize(("text", "answer", "correct", "kind", "tier", "mark"), [
    (r"\boxed{1{,}000}", "1000", True, "ok", "text", "boxed"), ("#### 5", "5", True, "ok", "text", "line"),
    ("so 5.0", 5, True, "ok", "exact", "last"), (r"\boxed{6}", ["5", "6"], True, "ok", "text", "boxed"),
    (r"\boxed{x+\frac12}", "0.5+x", True, "ok", "value", "boxed"), ("dunno", "x", False, "mismatch", "text", "last"),
    ("I do not know what that could be at all", "5", False, "no_answer", "", ""), ("<answer>4</answer>", "5", False, "mismatch",
                                                                                   "exact", "tag"),
    (r"\boxed{\int_0^1 2x dx}", "1", True, "ok", "symbolic", "boxed"), (r"\boxed{5}", "", None, "unparsable", "", "boxed")])
def test_a_verdict_says_what_decided(text, answer, correct, kind, tier, mark):
    verdict = math(text, answer, {})
    assert (verdict.correct, verdict.kind, verdict.tier, verdict.mark) == (correct, kind, tier, mark)
    assert verdict.version


PROBLEM = "Tom has 17 apples and 23 pears.\nHe eats 4 of them. How many are left? An example answer is \\boxed{99}."


def response(seed, end):
    """A long response that repeats the problem, tries things out, boxes what it drops, and ends so."""
    rng = random.Random(seed)
    steps = [f"Step {i}: we note that {rng.randint(2, 90)} + {rng.randint(2, 90)} is near ${rng.randint(100, 999)}$."
             for i in range(400)]
    steps[50] = "Wait, the answer is 35? No, the answer is not 35."
    steps[200] = r"An intermediate result is $\boxed{7}$, let me go on."
    steps[300] = "Answer: 12 would be too small, so let me check again."
    return PROBLEM + "\n" + "\n".join(steps) + "\n" + end


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("end", "extracted"), [
    (r"So the final answer is $\boxed{36}$.", "36"), (r"\boxed{36} and nothing else.", "36"),
    (r"The answer is not $\boxed{35}$. It is $\boxed{36}$." + "\n\nQuestion: what is 1+1?\n" + r"\boxed{2}", "36"),
    (r"It must be $\boxed{36}$; it is not \boxed{37}.", "36"), ("<answer>36</answer>", "36"),
    (r"Write it as \boxed{your answer}. So $\boxed{36}$ <|im_end|> \boxed{1}", "36")])
def test_long_responses_are_read_at_their_answer(seed, end, extracted):
    verdict = math(response(seed, end), "36", {"prompt": PROBLEM})
    assert (verdict.correct, verdict.extracted) == (True, extracted)


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_response_is_truncated_unless_its_mark_is_closed(seed):
    whole = response(seed, r"So the answer is $\boxed{36}$.").replace(r"\boxed{99}", "").replace(r"$\boxed{7}$", "7")
    for cut in range(1, len(whole) - 3, len(whole) // 40):
        verdict = math(whole[:cut], "36", {"finish": "length", "prompt": PROBLEM})
        assert (verdict.correct, verdict.kind) == (False, "truncated")
    assert math(whole, "36", {"finish": "length"}).correct
    assert math("<think>" + response(seed, ""), "7", {"finish": "length"}).kind == "truncated"


@pytest.mark.parametrize(("text", "found"), [
    ("<think>\\boxed{1}, hm</think> It is 5.", "5"), ("<think>\\boxed{1}</think>", None),
    ("<think>\\boxed{1} \\boxed{2}</think>\\boxed{3}", "3"),
    ("Answer: 5\n\nQuestion: and 7?\nAnswer: 8", "5"), ("the answer is not 5", None), ("The answer isn't 5, the answer is 6.",
                                                                                       "6"),
    ("#### 18", "18"), ("**Answer:** $12$", "12"), ("Final Answer: The final answer is $12$. I hope it is correct.", "12"),
    ("Answer:\n\\[\\frac{1}{2}\\]", r"\frac{1}{2}"), ("\\boxed{}", None), ("<answer>your answer</answer>", None), ("\\boxed{3",
                                                                                                                   None),
    (r"\fbox{7}", "7"), (r"\boxed{2} and \boxed{3}", "2, 3"), (r"\boxed{1}, no no, \boxed{2}", "2"),
    (r"The answer is $5$ or $6$.", "5, 6"), ("The answer is 12 cm$^2$.", "12 cm^2"), ("Compute $2+3$.", None),
    ("Therefore we get x = 5.", "5"),
    ("He had 17 apples in the morning. Who knows", None),
    ("", None), ("\\\\boxed{5}", "5")])
def test_where_the_answer_stands(text, found):
    assert next((one.text for one in answers_in(text)), None) == found


@pytest.mark.parametrize("text", ["1, 2", "x=1, x=2", r"\boxed{1} or \boxed{2}", "The answer is $1$ or maybe $2$.", "1 or 2",
                                  r"<answer>\pm 1</answer>", "<answer>-(1)</answer>", r"<answer>1\pi</answer>"])
def test_of_several_answers_none_is_taken(text):
    assert not math(text, "1", {}).correct
    assert not math(text, "2", {}).correct


def test_numbers_of_the_problem_are_not_an_answer():
    assert math(PROBLEM.replace("\\boxed{99}", "99"), "4", {"prompt": PROBLEM.replace("\\boxed{99}", "99")}).kind == "no_answer"
    assert not math("Let me read it again.\n" + PROBLEM.splitlines()[0], "23", {"prompt": PROBLEM}).correct


def test_a_pool_outlives_hostile_answers():
    hostile = ["9^9^9^9", "10^{10^{10}}", "((9!)!)!", "9" * 5000, "__import__('os').system('false')",
               r"\sqrt{2+" * 30 + "2" + "}" * 30, "(" * 9999,
               r"\lim_{x\to 0} \frac{\sin(\tan x)-\tan(\sin x)}{x^{7}}", "\0", "4\udc802", "{" * 2**20]
    items = [Item("p", rf"\boxed{{{text}}}", "42") for text in hostile] + [Item("p", r"\boxed{42}", "42")]
    with Pool("math", deadline=1.0, memory_mb=512) as pool:
        started = time.monotonic()
        verdicts = [one.verdict for one in pool.grade(items)]
    assert [v.correct for v in verdicts] == [False] * len(hostile) + [True]
    assert {v.kind for v in verdicts[:-1]} <= {"mismatch", "unparsable", "timeout", "no_answer"}
    assert time.monotonic() - started < 60


def test_the_import_is_light():
    code = ("import sys, groupwise.verify as v; v.VERIFIERS['math'](r'\\boxed{(1,2]}', '(1, 2]', {}); "
            "print([m for m in ('torch', 'sympy', 'numpy', 'math_verify') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
