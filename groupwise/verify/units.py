"""Units and number words: a unit is a product of powers of dimensions and a size, so that 500 cm is 5 m and 1 J is 1 kg m^2/s^2.

Source: the SI (exact values), international yard and pound, US gallon, and the words in the answers of MATH and Minerva.
"""

import re
from fractions import Fraction

_TABLE = {
    "length": """m metre meter=1 km kilometer kilometre=1000 dm=1/10 cm centimeter centimetre=1/100 mm millimeter=1/1000
        inch in=0.0254 ft foot feet=0.3048 yard yd=0.9144 mile mi=1609.344 nm nanometer=1e-9 micrometer micron=1e-6
        angstrom=1e-10 au=149597870700""",
    "length^2": "acre=4046.8564224 hectare=10000",
    "length^3": "l L liter litre=1/1000 ml mL milliliter cc=1e-6 gallon gal=0.003785411784",
    "mass": """g gram=1 kg kilogram=1000 mg milligram=1/1000 lb pound=453.59237 oz ounce=28.349523125 ton=1000000
        amu=1.6605390666e-24""",
    "time": "s sec second=1 millisecond=1/1000 min minute=60 h hr hour=3600 day=86400 week=604800",
    "length time^-1": "mph=0.44704 kmh kph kmph=5/18",
    "mass length time^-2": "N newton=1000 kN=1000000 dyne=1/100",
    "mass length^2 time^-2": """J joule=1000 kJ=1000000 erg=1e-4 eV=1.602176634e-16 keV=1.602176634e-13 MeV=1.602176634e-10
        GeV=1.602176634e-7""",
    "mass length^2 time^-3": "W watt=1000 kW=1000000",
    "mass length^-1 time^-2": "Pa pascal=1000 kPa=1000000",
    "time^-1": "Hz hertz hz=1 kHz=1000 MHz=1000000",
    "current": "A amp ampere=1", "current time": "C coulomb=1", "mass length^2 time^-3 current^-1": "V volt=1000",
    "mass length^2 time^-3 current^-2": "ohm=1000", "mass time^-2 current^-1": "T tesla=1000 gauss=1/10",
    "amount": "mol mole=1", "temperature": "K kelvin=1", "celsius": "celsius=1", "fahrenheit": "fahrenheit=1",
    "angle": "degree deg=1", "radian": "radian rad=1", "money": "dollar usd=1 cent=1/100", "euro": "euro=1",
    "calendar": "month=1 year yr=12", "morning": "am=1", "afternoon": "pm=1"}
Dimensions = dict[str, int]


def _powers(text: str) -> Dimensions:
    return {name: int(power or 1) for name, _, power in (one.partition("^") for one in text.split())}


_KNOWN: dict[str, tuple[Dimensions, Fraction]] = {
    name: (_powers(dimension), Fraction(size))
    for dimension, words in _TABLE.items()
    for names, size in re.findall(r"([^=]+)=(\S+)", words) for name in names.split()}
_COUNTED = """
    rpm rupee people person student point edge digit way integer meal ticket multiple square block side
    solution child children boy girl man men woman women apple orange book car coin page piece item number percent
    trip game bushel cube vote ball marble card pencil word letter term face vertex vertices triangle pc kpc Mpc noon F
"""
_PLAIN = frozenset(_COUNTED.split())
_DROP = re.compile(r"\b(?:per|sq|square|cubic|cu|the|of|a|an|each|total|in|total|around|about|approximately)\b|[.,()]")
_PIECE = re.compile(r"[A-Za-z]+|\^?\s*\{?\s*-?\d+\s*\}?|/")
"""A word, a power or a stroke of a unit."""
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen
"""
_TIMES_TEN = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: n for n, word in enumerate(_ONES.split())} | {word: 10 * n for n, word in enumerate(_TIMES_TEN.split(), 2)}
_TENS = re.compile(r"(twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)[- ](one|two|three|four|five|six|seven|eight|nine)")


def singular(word: str) -> str:
    """A unit's word without the plural's ending where it then is known.

    >>> singular("inches"), singular("cm"), singular("Meters")
    ('inch', 'cm', 'meter')
    """
    small = word if word in _PLAIN or word in _KNOWN or len(word) == 1 else word.casefold()
    for ending in ("", "s", "es"):
        stem = small.removesuffix(ending) if ending else small
        if stem in _KNOWN or stem in _PLAIN or stem == "unit":
            return stem
    return small


def is_unit(word: str) -> bool:
    """Whether a word, or all words of a phrase such as "square units" or "km per hour", are units."""
    words = _DROP.sub(" ", word.replace("/", " ").replace("-", " ")).split()
    bare = [re.sub(r"\^?\{?-?\d+\}?$", "", one) for one in words]
    return all(singular(one) in _KNOWN or singular(one) in _PLAIN or singular(one) == "unit" for one in bare if one)


def scale(unit: str) -> tuple[Dimensions, Fraction]:
    """The powers of the dimensions of a unit, and its size; words that count things are the dimension "things", others "units".

    >>> scale("km per hour") == ({"length": 1, "time": -1}, Fraction(5, 18)), scale("square units")[0]
    (True, {'units': 2})
    """
    powers, size = dict[str, int](), Fraction(1)
    below, ahead = 1, 1
    last: tuple[Dimensions, Fraction, int] | None = None
    for piece in _PIECE.findall(unit):
        if piece in ("/", "per"):
            below = -1
        elif piece in _POWER_WORDS:
            ahead = _POWER_WORDS[piece]
        elif piece[0].isalpha():
            if _DROP.fullmatch(piece) and piece != "in":
                continue
            dimensions, each = _KNOWN.get(singular(piece), ({"things" if singular(piece) in _PLAIN else "units": 1}, Fraction(1)))
            size *= _multiplied(powers, dimensions, each, below * ahead)
            last, below, ahead = (dimensions, each, below * ahead), 1, 1
        elif last is not None:
            more = int(re.sub(r"[^\d-]", "", piece)[:3])
            size *= _multiplied(powers, last[0], last[1], last[2] * (more - 1)) if abs(more) <= 12 else 1
            last = None
    return {name: power for name, power in powers.items() if power}, size


def _multiplied(powers: Dimensions, dimensions: Dimensions, size: Fraction, power: int) -> Fraction:
    """Add the dimensions of a unit to some power to the powers, and give the size to it."""
    for name, one in dimensions.items():
        powers[name] = powers.get(name, 0) + one * power
    return size ** power


def worded(text: str) -> str | None:
    """The digits of a number in words, up to ninety-nine; None if the text is something else.

    >>> worded("twenty-five"), worded("Five"), worded("dozen")
    ('25', '5', None)
    """
    small = " ".join(text.casefold().split())
    if small in _NUMBERS:
        return str(_NUMBERS[small])
    found = _TENS.fullmatch(small)
    return str(_NUMBERS[found[1]] + _NUMBERS[found[2]]) if found else None
