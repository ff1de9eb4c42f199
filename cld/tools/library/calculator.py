"""Arithmetic: exact where numbers are fractions, with bounds on how large they and the expression may become.

The expression is read by Python's own parser and worked out node by node; nothing in it is ever executed.
"""

import ast
import math
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction

from cld.tools.declare import ToolError, tool

Number = Fraction | float
"""A fraction stays exact; what no fraction is, is a float."""

MAX_LENGTH = 1000
MAX_BITS = 20_000
"""Bound on numerators and denominators: some 6,000 digits."""

MAX_FACTORIAL = 2000
MAX_DIGITS = 15
"""Digits of a number that has no end."""

_NAMES: Mapping[str, float] = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FLOATING: Mapping[str, Callable[..., float]] = {
    name: getattr(math, name)
    for name in (
        *("sqrt", "cbrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
        *("sinh", "cosh", "tanh", "degrees", "radians", "hypot"),
    )
}


@tool(title="Calculator", read_only=True, open_world=False, seconds=10)
def calculator(expression: str) -> str:
    """Work out an arithmetic expression, exactly where that is possible.

    Knows + - * / // % **, brackets, pi, e, tau, and abs min max floor ceil round gcd lcm sum mean factorial sqrt
    cbrt exp log log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh degrees radians hypot.

    Args:
        expression: such as (1 + 0.05) ** 10 * 1200, or sqrt(2) / 3; numbers without units or thousands separators
    """
    return written(value_of(expression))


def value_of(expression: str) -> Number:
    """The value of `expression`.

    Raises:
        ToolError: it is none, or too large; says what of it.
    """
    if len(expression) > MAX_LENGTH:
        raise ToolError(f"the expression has {len(expression)} characters; at most {MAX_LENGTH} are read")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _value(tree.body)
    except SyntaxError as error:
        raise ToolError(f"that is no expression: {error.msg}, at character {error.offset}") from None
    except ZeroDivisionError:
        raise ToolError("it divides by zero") from None
    except OverflowError:
        raise ToolError("a number in it becomes too large") from None
    except (RecursionError, MemoryError):
        raise ToolError("it nests too deep") from None
    except (ValueError, TypeError) as error:
        raise ToolError(f"it cannot be worked out: {error}") from None


def written(value: Number) -> str:
    """The value in decimals: all of them when they end, else as many as count."""
    if not isinstance(value, Fraction):
        return format(value, f".{MAX_DIGITS}g")
    if value.denominator == 1:
        # Python refuses to write very long numbers, and nobody reads them.
        return str(value.numerator) if value.numerator.bit_length() < 14_000 else _scientific(value)
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > 30:
        return _scientific(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _scientific(value: Fraction) -> str:
    try:
        near = float(value)
    except OverflowError:
        near = math.inf
    # Below the smallest of them, floats lose digits, and then everything.
    if math.isfinite(near) and (abs(near) >= sys.float_info.min or not value):
        return format(near, f".{MAX_DIGITS}g")
    exponent = int((value.numerator.bit_length() - value.denominator.bit_length()) * math.log10(2))
    mantissa = float(value / Fraction(10) ** exponent)
    shift = math.floor(math.log10(abs(mantissa)))
    return f"{mantissa / 10**shift:.{MAX_DIGITS - 3}g}e{exponent + shift:+}"


def _value(node: ast.AST) -> Number:
    match node:
        case ast.Constant(value=bool()):
            raise ToolError("True and False are no numbers")
        case ast.Constant(value=(int() | float()) as number):
            if number == math.inf:
                raise OverflowError
            # By its digits, so that 0.1 is a tenth.
            return Fraction(str(number))
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _bounded(_operation(op, _value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _EXACT:
            return _bounded(_EXACT[name](*map(_value, given)))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FLOATING:
            return _bounded(_FLOATING[name](*(float(_value(one)) for one in given)))
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            raise ToolError(f"{name} is not known here; known are {', '.join((*_NAMES, *_EXACT, *_FLOATING))}")
        case _:
            raise ToolError(f"it has something in it that is no arithmetic ({type(node).__name__})")


def _operation(op: ast.operator, left: Number, right: Number) -> Number:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.FloorDiv():
            return Fraction(left // right)
        case ast.Mod():
            return left % right
        case ast.Pow():
            return _power(left, right)
        case _:
            raise ToolError("only + - * / // % and ** are known")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        # Looked at before it is worked out: that is what could take for ever.
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent.numerator) * max(bits - 1, 1) > MAX_BITS and abs(base) not in (0, 1):
            raise OverflowError
        return base**exponent.numerator
    value = float(base) ** float(exponent)
    if isinstance(value, complex):
        raise ToolError("a root of a negative number is none")
    return value


def _bounded(value: Number) -> Number:
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise OverflowError
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    return value


def _abs(value: Number) -> Number:
    return abs(value)


def _floor(value: Number) -> Number:
    return Fraction(math.floor(value))


def _ceil(value: Number) -> Number:
    return Fraction(math.ceil(value))


def _round(value: Number, digits: Number = 0) -> Number:
    places = _whole(digits, "digits of round")
    if abs(places) > 1000:
        raise OverflowError
    return Fraction(round(Fraction(value), places))


def _gcd(*values: Number) -> Number:
    return Fraction(math.gcd(*(_whole(value, "arguments of gcd") for value in values)))


def _lcm(*values: Number) -> Number:
    return Fraction(math.lcm(*(_whole(value, "arguments of lcm") for value in values)))


def _sum(*values: Number) -> Number:
    return sum(values, Fraction(0))


def _mean(*values: Number) -> Number:
    return _sum(*values) / len(values)


def _factorial(value: Number) -> Number:
    if value > MAX_FACTORIAL:
        raise OverflowError
    return Fraction(math.factorial(_whole(value, "argument of factorial")))


def _whole(value: Number, what: str) -> int:
    if value != int(value):
        raise ToolError(f"the {what} must be whole numbers")
    return int(value)


_EXACT: Mapping[str, Callable[..., Number]] = {
    "abs": _abs,
    "min": min,
    "max": max,
    "floor": _floor,
    "ceil": _ceil,
    "round": _round,
    "gcd": _gcd,
    "lcm": _lcm,
    "sum": _sum,
    "mean": _mean,
    "factorial": _factorial,
}
