"""Equations for a page: MathML, which browsers draw without a library."""

from html import escape

from groupwise.lab.tex import Cases, Fence, Frac, Node, Root, Row, Script, Sign, parse

PRIME = Sign("′", "letter")
BIG = {"Σ": "∑", "Π": "∏"}


def mathml(latex: str, block: bool = True) -> str:
    """A `math` element."""
    inside = _element(parse(latex))
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="{"block" if block else "inline"}">{inside}</math>'


def _element(node: Node) -> str:
    match node:
        case Sign():
            return _sign(node)
        case Row(items):
            return f"<mrow>{''.join(_element(item) for item in items)}</mrow>"
        case Frac(top, bottom):
            return f"<mfrac>{_element(top)}{_element(bottom)}</mfrac>"
        case Root(inside):
            return f"<msqrt>{_element(inside)}</msqrt>"
        case Fence(left, inside, right):
            tall = is_tall(inside)
            return f"<mrow>{_bracket(left, tall)}{_element(inside)}{_bracket(right, tall)}</mrow>"
        case Script(base, sub, sup):
            return _script(base, sub, sup)
        case Cases(rows):
            body = "".join("<mtr>" + "".join(f'<mtd style="text-align:left">{_element(c)}</mtd>' for c in row) + "</mtr>"
                           for row in rows)
            return f"<mrow>{_bracket('{')}<mtable>{body}</mtable></mrow>"


def is_tall(node: Node | None) -> bool:
    """Whether brackets around it should grow: without a mathematical font a browser lets them grow around any index."""
    match node:
        case None:
            return False
        case Frac() | Root() | Cases():
            return True
        case Row(items):
            return any(is_tall(item) for item in items)
        case Script(base, sub, sup):
            return (isinstance(base, Sign) and base.kind == "big") or any(is_tall(one) for one in (base, sub, sup))
        case Fence(_, inside, _):
            return is_tall(inside)
        case Sign():
            return False


def _sign(sign: Sign) -> str:
    text = escape(sign.text)
    match sign.kind:
        case "number":
            return f"<mn>{text}</mn>"
        case "letter":
            return f"<mi>{text}</mi>" if len(text) == 1 else f'<mi style="font-style:italic">{text}</mi>'
        case "word":
            return f'<mi mathvariant="normal">{text}</mi>'
        case "space":
            return f'<mspace width="{len(sign.text) * 0.25}em"></mspace>'
        case "big":
            return f"<mo>{BIG.get(sign.text, text)}</mo>"
        case "operator":
            return f'<mo lspace="0" rspace="0" stretchy="false">{text}</mo>'
        case _:
            return f"<mo>{text}</mo>"


def _bracket(text: str, tall: bool = True) -> str:
    return f'<mo stretchy="{str(tall).lower()}">{escape(text)}</mo>' if text else ""


def _script(base: Node, sub: Node | None, sup: Node | None) -> str:
    if sup == PRIME and isinstance(base, Sign):  # the sign stands high by itself
        base, sup = Sign(base.text + PRIME.text, base.kind), None
        if sub is None:
            return _sign(base)
    under = isinstance(base, Sign) and base.kind == "big"
    inside = _element(base) + "".join(_element(one) for one in (sub, sup) if one is not None)
    if sub is not None and sup is not None:
        tag = "munderover" if under else "msubsup"
    elif sub is not None:
        tag = "munder" if under else "msub"
    else:
        tag = "mover" if under else "msup"
    return f"<{tag}>{inside}</{tag}>"
