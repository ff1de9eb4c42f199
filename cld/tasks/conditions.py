"""Conditions and lists of a plan: expressions in CEL (https://cel.dev) over a task's inputs.

Owns what an expression may cost: it is evaluated in this process and cannot be stopped, so whatever could take
long is refused beforehand. An input is read by its name, and as `inputs.<name>`. Integers beyond 64 bits are read as
doubles. Pure; the library is imported at the first use.
"""

import functools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, cast

from cld.errors import InvalidArgument, Unsupported

EACH = ("item", "index")
"""The inputs that `for_each` gives to each of its tasks."""

MAX_LENGTH = 1_000
"""Bound on the characters of an expression."""

MAX_NESTING = 16
"""Bound on brackets within one another; the parser's stack overflows at some hundred."""

MAX_INPUT_NODES = 100_000
"""Bound on the values within the inputs that an expression refers to."""

MAX_LIST = 1_000
"""Bound on the values of a list that `for_each` goes through, unless the caller says another."""

MAX_WORK = 2_000_000_000
"""Bound on the bytes that evaluating may copy, estimated from above: about a second."""

_VALUE_BYTES = 150  # what copying a number costs, in the measure of copying texts
_LITERAL_PATTERN_BYTES = 200_000  # what compiling a plain regular expression costs, in the measure of MAX_WORK
_ANY_PATTERN_BYTES = 50_000_000  # one with counted repetitions, which take up to 50 ms

_TOKEN = re.compile(
    r"""(?P<text>[rRbB]{0,2}(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<comment>//[^\n]*)|(?P<number>\d[\w.]*)|(?P<name>[A-Za-z_]\w*)|(?P<other>\S)""",
    re.VERBOSE | re.DOTALL,
)
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter", "transformList", "transformMap"})
_BUILDING = frozenset({"map", "transformList", "transformMap"})
_COPYING = _BUILDING | {"filter"}
_WORDS = frozenset({"true", "false", "null", "in", "int", "uint", "double", "bool", "string", "bytes", "list", "type"})
_PLACE = re.compile(r"<input>:(\d+):(\d+): (.*)")


def is_question(when: str) -> bool:
    """Whether a condition is a question for the model instead of an expression."""
    return when.lstrip().startswith("?")


def question(when: str) -> str:
    """The question itself, without its mark."""
    return when.lstrip().removeprefix("?").strip()


def path_expression(path: str) -> str:
    """The expression that a `path` into an output stands for: what follows `output`, or one that begins with it."""
    if re.match(r"output\b", path):
        return path
    return f"output{path}" if path.startswith("[") else f"output.{path}"


def check_expression(expression: str, field: str, *, names: Collection[str] | None = None) -> None:
    """Raises InvalidArgument when `expression` is no CEL, is too long, or reads inputs other than `names`."""
    tokens = _tokens(expression, field)
    _compiled(expression, field)
    if names is not None:
        for token in _read(tokens):
            if token.text != "inputs" and token.text not in names:
                there = ", ".join(sorted(names)[:10]) or "none"
                raise InvalidArgument(
                    f"{field}: {_quoted(expression)} reads {token.text!r} at {_place(expression, token.at)}, which is "
                    f"no input; the inputs are: {there}",
                    field=field,
                )


def evaluate_when(expression: str, inputs: Mapping[str, Any], *, field: str = "when") -> bool:
    """Whether the condition holds for these inputs.

    Raises:
        InvalidArgument: naming the expression, and where in it, when it cannot be evaluated, would take too long, or
            gives something else than true or false.
    """
    value = _evaluate(expression, inputs, field)
    if not isinstance(value, bool):
        raise InvalidArgument(
            f"{field}: {_quoted(expression)} gives {_kind(value)}, and not true or false; compare it with something",
            field=field,
        )
    return value


def evaluate_list(
    expression: str, inputs: Mapping[str, Any], *, limit: int = MAX_LIST, field: str = "for_each"
) -> list[Any]:
    """The list that the expression gives, of JSON values, at most `limit` of them.

    Raises:
        InvalidArgument: as `evaluate_when`, or when it gives no such list.
    """
    value = evaluate(expression, inputs, field=field)
    if not isinstance(value, list):
        raise InvalidArgument(f"{field}: {_quoted(expression)} gives {_kind(value)}, and not a list", field=field)
    values = cast("list[Any]", value)
    if len(values) > limit:
        raise InvalidArgument(
            f"{field}: {_quoted(expression)} gives {len(values)} values; at most {limit} are allowed, so filter them",
            field=field,
        )
    return values


def evaluate(expression: str, inputs: Mapping[str, Any], *, field: str) -> Any:
    """What the expression gives for these inputs, as JSON values.

    Raises:
        InvalidArgument: as `evaluate_when`.
    """
    value = _evaluate(expression, inputs, field)
    if (odd := _no_json(value)) is not None:
        raise InvalidArgument(
            f"{field}: {_quoted(expression)} gives {odd}, which JSON does not have; use string(…)", field=field
        )
    return value


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Macro(NamedTuple):
    name: str
    variable: str
    start: int
    end: int


class _Size(NamedTuple):
    """Of inputs: the bytes of all, how many values the longest list or object has, the bytes of the largest value."""

    whole: int
    longest: int
    largest: int


def _tokens(expression: str, field: str) -> list[_Token]:
    """The words and marks of the expression; refused when it is too long or nests too deep for the parser."""
    if not expression.strip():
        raise InvalidArgument(f"{field} is empty; write an expression in CEL", field=field)
    if len(expression) > MAX_LENGTH:
        raise InvalidArgument(
            f"{field}: the expression has {len(expression)} characters; at most {MAX_LENGTH} are allowed", field=field
        )
    tokens = [
        _Token(found.lastgroup or "", found[0], found.start())
        for found in _TOKEN.finditer(expression)
        if found.lastgroup != "comment"
    ]
    depth = run = 0
    for token in tokens:
        depth += (token.text in "([{") - (token.text in ")]}")
        run = run + 1 if token.text in "!-?" else 0
        if depth > MAX_NESTING or run > MAX_NESTING:
            where = _place(expression, token.at)
            raise InvalidArgument(
                f"{field}: {_quoted(expression)} nests deeper than {MAX_NESTING} at {where}", field=field
            )
    return tokens


def _macros(tokens: list[_Token]) -> Iterator[_Macro]:
    """What goes through a list: `.map(x, …)` and its like, with the places of what is between the brackets."""
    for at in range(1, len(tokens) - 2):
        if tokens[at - 1].text == "." and tokens[at].text in _MACROS and tokens[at + 1].text == "(":
            depth, end = 1, at + 2
            while end < len(tokens) and depth:
                depth += (tokens[end].text in "([{") - (tokens[end].text in ")]}")
                end += 1
            yield _Macro(tokens[at].text, tokens[at + 2].text, at + 2, end)


def _read(tokens: list[_Token]) -> Iterator[_Token]:
    """The names of inputs that the expression reads, `inputs` as such; those it gives itself are left out."""
    macros = list(_macros(tokens))
    for at, token in enumerate(tokens):
        if token.kind != "name" or token.text in _WORDS or (at and tokens[at - 1].text == "."):
            continue
        if at + 1 < len(tokens) and tokens[at + 1].text == "(":
            continue
        if not any(macro.variable == token.text and macro.start <= at < macro.end for macro in macros):
            yield token


def _evaluate(expression: str, inputs: Mapping[str, Any], field: str) -> Any:
    tokens = _tokens(expression, field)
    program = _compiled(expression, field)
    context: dict[str, Any] = {}
    for token in _read(tokens):
        if token.text == "inputs":
            context["inputs"] = dict(inputs)
        elif token.text in inputs:
            context[token.text] = inputs[token.text]
        else:
            raise InvalidArgument(
                f"{field}: {_quoted(expression)} reads {token.text!r} at {_place(expression, token.at)}, which is no "
                f"input; the inputs are: {', '.join(sorted(inputs)[:10]) or 'none'}",
                field=field,
            )
    _check_work(expression, tokens, context, field)
    try:
        return program.execute(context)
    except Exception as error:  # the library raises every kind of builtin error, by what went wrong
        raise InvalidArgument(
            f"{field}: {_quoted(expression)} cannot be evaluated: {_why(error)}", field=field
        ) from None


def _check_work(expression: str, tokens: list[_Token], context: Mapping[str, Any], field: str) -> None:
    """Raises InvalidArgument when evaluating could copy more than MAX_WORK.

    The library builds the list of a macro by copying it for each value, so going through n values that give v
    bytes each copies n²v/2; macros within others multiply, and those after others may work on what these made
    larger.
    """
    size = _size_of(context, field, expression)
    macros = list(_macros(tokens))
    names = [
        at
        for at, token in enumerate(tokens)
        if token.kind == "name" and tokens[at - 1].text != "." and not _only_gone_through(tokens, at)
    ]
    # A list may also be written out, or put together by +.
    longest = (size.longest + sum(token.text == "," for token in tokens) + 1) * (
        1 + sum(token.text == "+" for token in tokens)
    )
    own = {macro.variable for macro in macros}
    value = size.largest + _VALUE_BYTES + len(expression)
    work = size.whole
    deepest = 0
    for macro in macros:
        inside = [at for at in names if macro.start < at < macro.end]
        if any(tokens[at].text in context and tokens[at].text not in own for at in inside):
            value = max(value, size.whole)
        if macro.name in _BUILDING:
            value *= max(1, len(inside))
        depth = sum(other.start <= macro.start and macro.end <= other.end for other in macros)
        deepest = max(deepest, depth)
        work += longest**depth * (longest if macro.name in _COPYING else 1) * value
    patterns = [at for at, token in enumerate(tokens) if token.text == "matches"]
    for at in patterns:
        plain = tokens[at + 1 : at + 4]
        literal = len(plain) > 1 and plain[1].kind == "text" and plain[-1].text == ")" and "{" not in plain[1].text
        # Of what a plain one has, classes such as \w are what takes long.
        cost = _LITERAL_PATTERN_BYTES * (1 + plain[1].text.count("\\")) if literal else _ANY_PATTERN_BYTES
        work += longest**deepest * cost
    if work > MAX_WORK:
        raise InvalidArgument(
            f"{field}: {_quoted(expression)} could take too long with these inputs (lists of up to {size.longest} "
            f"values, {size.whole} bytes); refer to less, nest less, or make the list in a step before",
            field=field,
        )


def _only_gone_through(tokens: list[_Token], at: int) -> bool:
    """Whether the name there, with what follows it by dots, is a list that a macro goes through and does not give."""
    while at + 2 < len(tokens) and tokens[at + 1].text == "." and tokens[at + 2].kind == "name":
        at += 2
    return tokens[at].text in _MACROS - {"filter"} and tokens[at - 1].text == "."


def _size_of(context: Mapping[str, Any], field: str, expression: str) -> _Size:
    nodes = longest = largest = 0

    def size(value: object, depth: int) -> int:
        nonlocal nodes, longest, largest
        nodes += 1
        if nodes > MAX_INPUT_NODES or depth > MAX_NESTING * 4:
            what = (
                f"nest deeper than {MAX_NESTING * 4}"
                if depth > MAX_NESTING * 4
                else f"have over {MAX_INPUT_NODES} values"
            )
            raise InvalidArgument(f"{field}: the inputs that {_quoted(expression)} reads {what}", field=field)
        match value:
            case str():
                return _VALUE_BYTES + len(value)
            case dict():
                items = cast("dict[str, object]", value)
                sizes = [size(child, depth + 1) + len(str(key)) for key, child in items.items()]
            case list() | tuple():
                sizes = [size(child, depth + 1) for child in cast("list[object]", value)]
            case _:
                return _VALUE_BYTES
        longest = max(longest, len(sizes))
        largest = max(largest, max(sizes, default=0))
        return _VALUE_BYTES + sum(sizes)

    whole = sum(size(value, 1) for value in context.values())
    return _Size(whole, longest, largest)


@functools.lru_cache(maxsize=512)
def _program(expression: str) -> Any:
    import cel  # noqa: PLC0415 - takes a tenth of a second, and most tasks have no condition

    return cel.compile(expression)


def _compiled(expression: str, field: str) -> Any:
    try:
        return _program(expression)
    except ModuleNotFoundError as error:
        raise Unsupported(f"{field}: conditions need the package common-expression-language ({error})") from None
    except ValueError as error:
        raise InvalidArgument(f"{field}: {_quoted(expression)} is no CEL: {_why(error)}", field=field) from None


def _why(error: Exception) -> str:
    text = str(error)
    if found := _PLACE.search(text):
        reason = found[3].partition(" expecting {")[0].replace("<EOF>", "end")
        return f"line {found[1]}, column {found[2]}: {reason}"
    if isinstance(error, KeyError):
        return f"there is no {text}; ask has(…) before"
    return text.partition("\n")[0][:300]


def _no_json(value: object) -> str | None:
    """What in a value is not JSON, None if all is."""
    match value:
        case dict():
            items = cast("dict[object, object]", value)
            if odd := next((key for key in items if not isinstance(key, str)), None):
                return f"the key {odd!r}"
            return next((odd for child in items.values() if (odd := _no_json(child))), None)
        case list():
            return next((odd for child in cast("list[object]", value) if (odd := _no_json(child))), None)
        case float() if not math.isfinite(value):
            return str(value)
        case str() | int() | float() | None:
            return None
        case _:
            return f"a {type(value).__name__}"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return "a text"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _quoted(expression: str) -> str:
    return repr(expression if len(expression) <= 120 else expression[:119] + "…")


def _place(expression: str, at: int) -> str:
    line = expression.count("\n", 0, at) + 1
    return f"line {line}, column {at - expression.rfind(chr(10), 0, at)}"
