"""The numbers and the equations of a text, the equations computed again. Pure; the time grows with the text's length alone.

Read are `3 x 60 = 180`, with units, brackets, percents and thousands' commas in it, and GSM8K's `<<3*60=180>>`. What holds
a variable (`2x + 5 = 15`) is algebra, and is left alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

MOST_EQUATIONS = 32  # of a text: the last ones
_MOST_TOKENS = 40  # of one side
_DEEPEST = 6  # brackets within brackets

_NUMBER = re.compile(r"\d+(?:,\d\d\d)*(?:\.\d+)?%?")
_FRACTION = re.compile(r"\\d?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}")
_COMMAND = re.compile(r"\\([a-z]{3,6}|[()\[\]])")
_COMMANDS = {"times": "×", "cdot": "×", "div": "÷", "approx": "≈", "(": "\n", ")": "\n", "[": "\n", "]": "\n"}
# The set holds all that may begin a token: it is what makes the search fast. What follows says what it is.
_TOKEN = re.compile(
    r"[\d=+\-−*×·/÷^≈(),;:!?.\n<>xX]"
    r"(?:(?<=\d)\d*(?:,\d\d\d)*(?:\.\d+)?(?:%|(?![xX]\d)[^\W\d_](?![^\W\d_]))?(?: of\b)?"  # `20% of`; `2S` is a variable
    r"|(?<=[=≈(),;:!?.])"
    r"|(?<=[+*×·÷^])(?![^\W\d_])"
    r"|(?<=[-−/])(?![^\W\d_]) ?"  # no sign in `200-page`, `$6/hour`
    r"|(?<=\n)(?: *[-−*•] )?"  # with the bullet of a list
    r"|(?<=<)<|(?<=>)>"
    r"|(?<=[xX])(?<![^\W\d_].)(?=[\s$(]*\d))"  # `60 feet x 3`
)

_END, _VARIABLE, _EQUALS, _OPENS, _CLOSES = ";", "?", "=", "<<", ">>"
_MINUS, _DASH = "-", "–"  # `-6`, which may also be a minus; ` - `, which can't begin anything
_NARROW, _WIDE = "//", "/"  # `1/2`, which binds more tightly; ` / `
_TOKENS = {
    "+": "+", "-": _MINUS, "−": _MINUS, "- ": _DASH, "− ": _DASH, "*": "*", "×": "*", "·": "*", "x": "*", "X": "*", "/": _NARROW,
    "/ ": _WIDE, "÷": _WIDE, "^": "^", "(": "(", ")": ")", "=": _EQUALS, "≈": _EQUALS, "<<": _OPENS, ">>": _CLOSES, ",": _END,
    ";": _END, ":": _END, "!": _END, "?": _END, ".": _END,
}  # fmt: skip
_OPERATORS = frozenset(("+", _MINUS, _DASH, "*", _NARROW, _WIDE, "^"))
_MOST_DIGITS = 40  # of a number
_REMARK_TOKENS = 8  # `(socks, not of Peter)`: brackets without a number hold no more signs


class Percent(float):
    """A number that was written with a `%`, as the part that it is."""


Token = float | str  # a number; a sign, a variable, or what ends a statement


class Equation(msgspec.Struct, frozen=True, gc=False):
    """`operands` are what the left side is made of, `value` is what it comes to, `stated` what the text says."""

    operands: tuple[float, ...]
    value: float
    stated: float

    @property
    def holds(self) -> bool:
        """Whether it is right but for rounding to the next whole number, or to as many digits as are stated."""
        return self.exact or abs(self.value - self.stated) <= _step(self.stated)

    @property
    def exact(self) -> bool:
        """Whether nothing was rounded either: both are the same but for the last bits."""
        return abs(self.value - self.stated) <= max(1e-12 * abs(self.value), 1e-9)


def _step(stated: float) -> float:
    """How far what was rounded, or cut off, may be away: half of one for whole numbers, one of the last digit for others."""
    digits = len(f"{stated:.9f}".rstrip("0").partition(".")[2])
    return 0.5 if digits == 0 else 1.000001 * 10.0**-digits


class Figures(msgspec.Struct, frozen=True):
    """The numbers of a text as they are written (a percent is that part), and its different equations, in their order."""

    numbers: tuple[float, ...]
    equations: tuple[Equation, ...]


def numbers(text: str) -> list[float]:
    """The numbers of a text, as in its Figures."""
    return [_number(found) for found in _NUMBER.findall(text)]


def figures(text: str) -> Figures:
    """The numbers of a text, and its last MOST_EQUATIONS equations."""
    if "\\" in text:
        text = _FRACTION.sub(r"(\1)/(\2)", text)
        text = _COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[1]), text)
    tokens = _tokens(text)
    at = [place for place, token in enumerate(tokens) if token == _EQUALS]
    found: dict[tuple[float, float], Equation] = {}
    for place in at[-2 * MOST_EQUATIONS :]:
        equation = _equation(tokens, place)
        if equation is not None:
            found.setdefault((equation.value, equation.stated), equation)
    there = tuple(token for token in tokens if isinstance(token, float))
    return Figures(there, tuple(found.values())[-MOST_EQUATIONS:])


def _equation(tokens: Sequence[Token], at: int) -> Equation | None:
    """The one whose `=` is there, if both sides can be computed."""
    stated = _stated(tokens, at + 1)
    if not stated:
        return None
    left = _side_before(tokens, at)
    operands = tuple([one for one in left if isinstance(one, float)])
    value = _value(left) if len(operands) > 1 else None
    if value is None:
        return None
    values = (value, value / 100) if isinstance(stated[0], Percent) else (value,)  # `3 / 4 * 100 = 75%`
    pairs = [(one, other) for one in values for other in stated]
    if len(pairs) > 1:
        pairs.sort(key=lambda pair: abs(pair[0] - pair[1]))
    value, said = pairs[0]
    return Equation(operands, value, float(said))


def _stated(tokens: Sequence[Token], at: int) -> list[float]:
    """What the right side may be: its first number, and all of it. An annotation before it is skipped."""
    if at < len(tokens) and tokens[at] == _OPENS:
        at = next(
            (place + 1 for place in range(at, min(at + _MOST_TOKENS, len(tokens))) if tokens[place] == _CLOSES), at
        )
    if at >= len(tokens):
        return []
    first = tokens[at]
    if isinstance(first, float) and (at + 1 == len(tokens) or tokens[at + 1] not in _OPERATORS):
        return [first]
    whole = _value(tokens[at : at + _MOST_TOKENS])
    return [one for one in (first, whole) if isinstance(one, float)]


def _tokens(text: str) -> list[Token]:
    """What counts of a text: words are left out."""
    tokens: list[Token] = []
    found: list[str] = _TOKEN.findall(f"\n{text}")
    for one in found:
        sign = _TOKENS.get(one)
        if sign is not None:
            tokens.append(sign)
            if sign == ")":
                _leave_out_remark(tokens)
        elif one.isdecimal() and len(one) < _MOST_DIGITS:  # as most are
            tokens.append(float(one))
        elif one[0] == "\n":
            tokens.append(_END)
        else:
            _add_number(one, tokens)
    return tokens


def _leave_out_remark(tokens: list[Token]) -> None:
    """Take away brackets that end here and hold no number: `60 (socks of Peter) + 60`."""
    for at in range(len(tokens) - 2, max(len(tokens) - 2 - _REMARK_TOKENS, -1), -1):
        if tokens[at] == "(":
            del tokens[at:]
            return
        if isinstance(tokens[at], float):
            return


def _add_number(text: str, tokens: list[Token]) -> None:
    """A number, and what is written with it."""
    written = text.removesuffix(" of")
    variable = written[-1].isalnum() and not written[-1].isdecimal()  # also `²` and `½`
    tokens.append(_number(written[:-1] if variable else written))
    if variable:
        tokens.append(_VARIABLE)
    elif written is not text and (written[-1] == "%" or tokens[-2:-1] == [_NARROW]):
        tokens.append("*")


def _number(text: str) -> float:
    """As far as it is looked at."""
    try:
        return float(text[:_MOST_DIGITS])
    except ValueError:
        value = float(text.rstrip("%").replace(",", "")[:_MOST_DIGITS])
        return Percent(value / 100) if text[-1] == "%" else value


def _side_before(tokens: Sequence[Token], end: int) -> Sequence[Token]:
    """The longest expression that ends before `end`; none where it would begin in the middle of another one."""
    at = end
    least = max(end - _MOST_TOKENS, 0)
    depth, wants_term = 0, True
    while at > least:
        one = tokens[at - 1]
        if wants_term:
            if isinstance(one, float):
                wants_term = False
            elif one == ")":
                depth += 1
            else:
                break
        elif one in _OPERATORS:
            wants_term = True
        elif one == "(" and depth:
            depth -= 1
        else:
            break
        at -= 1
    before = tokens[at - 1] if at else _END
    if depth or before == ")" or before in _OPERATORS or before == _VARIABLE:
        return ()
    begins = not wants_term or (at < end and tokens[at] == _MINUS)
    return tokens[at:end] if begins else ()


def _value(tokens: Sequence[Token]) -> float | None:
    """What the longest expression at the beginning comes to; None where there is none, or no finite number."""
    try:
        value, _ = _sum(tokens, 0, 0)
    except (_NoTerm, ZeroDivisionError, OverflowError, ValueError):
        return None
    return value if math.isfinite(value) else None


class _NoTerm(Exception):
    """There is no number where one is needed."""


def _sum(tokens: Sequence[Token], at: int, depth: int) -> tuple[float, int]:
    """(value, where it ends) of the terms from `at` on; a product is gathered in `product` until the next `+` or `-`."""
    total, end = 0.0, len(tokens)
    product, at = _term(tokens, at, depth)
    while at + 1 < end:
        sign = tokens[at]
        if sign not in _OPERATORS or sign == "^" or not _begins(tokens[at + 1]):
            break
        term, at = _term(tokens, at + 1, depth)
        if sign == "*":
            product *= term
        elif sign in (_WIDE, _NARROW):
            product /= term
        else:
            total += product
            product = term if sign == "+" else -term
    return total + product, at


def _begins(token: Token) -> bool:
    return isinstance(token, float) or token in ("(", _MINUS)


def _term(tokens: Sequence[Token], at: int, depth: int) -> tuple[float, int]:
    """A number or brackets, with the power or the fraction that it is a part of."""
    first = tokens[at] if at < len(tokens) else _END
    if isinstance(first, float):
        value, at = float(first), at + 1
    elif first in (_MINUS, _DASH):
        value, at = _term(tokens, at + 1, depth)
        return -value, at
    elif first == "(" and depth < _DEEPEST:
        value, at = _sum(tokens, at + 1, depth + 1)
        if at >= len(tokens) or tokens[at] != ")":
            raise _NoTerm
        at += 1
    else:
        raise _NoTerm
    while at + 1 < len(tokens) and tokens[at] in ("^", _NARROW):
        sign, other = tokens[at], tokens[at + 1]
        if not isinstance(other, float):
            break
        value = math.pow(value, other) if sign == "^" else value / other
        at += 2
    return value, at
