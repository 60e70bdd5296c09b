"""The words that `syntax` knows."""

_OWN = """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln exp min max gcd lcm floor ceil det sqrt cbrt abs
    arcsinh arccosh arctanh factorial coth sech csch
"""
FUNCTIONS = {name: name for name in _OWN.split()} | {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "log": "ln", "lg": "log10", "ceiling": "ceil", "binomial":
    "binom", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh":
    "arctanh"}
"""The name of a function by how it is written."""
INVERSE = {name: "arc" + name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
CONSTANTS = {"pi": "pi", "e": "e", "i": "i", "infty": "inf", "infinity": "inf", "oo": "inf", "inf": "inf", "emptyset": "empty",
             "imaginaryI": "i", "exponentialE": "e", "Infinity": "inf"}
RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in"}
CLOSING = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
SIGNS = {"+": 1, "-": -1}
_LETTERS = """
    Delta Gamma Lambda Omega Phi Pi Psi Sigma Theta Upsilon Xi alpha beta cdots chi delta dots ell epsilon eta gamma
    hbar iota kappa lambda ldots mathbbC mathbbN mathbbQ mathbbR mathbbZ mu nabla nu omega omicron partial phi prime psi
    rho sigma tau theta top upsilon xi zeta
"""
GREEK = frozenset(_LETTERS.split())
"""Letters that are written as a command."""
IGNORED = frozenset({
    "angle", "bar", "displaystyle", "hat", "mathring", "overline", "overrightarrow", "triangle", "underline", "vec",
    "widehat"})
"""Commands that say nothing of the value of what they stand over."""
