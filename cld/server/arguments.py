"""Arguments of tool calls: their JSON Schema, made from the struct that checks them, and that check.

One struct per tool says both, so that schema and check cannot differ. Pure; knows no tool and no store.
URIs are canonical from here on: fields typed `HostURI` or `HostPrefix` are read as hosts write them.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NewType, TypeVar, cast, get_args, get_type_hints

import msgspec

from cld.errors import InvalidArgument, InvalidURI
from cld.uri import URI, from_host, parse_uri

HostURI = NewType("HostURI", URI)
"""A field with a resource's URI; hosts may write `cld:/x` and the like, the handler gets `cld:x`."""

HostPrefix = NewType("HostPrefix", URI)
"""As `HostURI`, or `cld:` for everything."""

Parse = Callable[[Mapping[str, Any]], Any]
ArgumentsT = TypeVar("ArgumentsT", bound=msgspec.Struct)


class InvalidURIArgument(InvalidURI):
    """A URI that does not fit, with the argument it was given as."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field

    def details(self) -> dict[str, Any]:
        return {"field": self.field}


def schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of what `parser(struct)` accepts, in one piece and without words nobody reads.

    Titles, empty `required` lists and `$defs` are taken out: the schema of every tool is in every
    conversation of every host.
    """
    (schema,), definitions = msgspec.json.schema_components([struct])
    return cast("dict[str, Any]", _compact(schema, definitions))


def parser(struct: type[ArgumentsT]) -> Callable[[Mapping[str, Any]], ArgumentsT]:
    """A function that makes `struct` of a call's arguments.

    It raises InvalidArgument or InvalidURI, naming the field by its path and saying what was expected.
    """
    readers = _uri_readers(struct)

    def parse(arguments: Mapping[str, Any]) -> ArgumentsT:
        given = dict(arguments)
        for field, read in readers:
            if isinstance(text := given.get(field), str):
                try:
                    given[field] = read(text)
                except InvalidURI as error:
                    raise InvalidURIArgument(str(error), field) from None
        check_json(given)
        try:
            return msgspec.convert(given, struct)
        except msgspec.ValidationError as error:
            raise _named(error, struct) from None

    return parse


def check_json(value: object, path: str = "") -> None:
    """Raises InvalidArgument for what no JSON text can hold: NaN, infinities, lone surrogates.

    HTTP bodies are read by a parser that lets them through.
    """
    match value:
        case str():
            if not value.isascii():
                _check_text(value, path)
        case float():
            if not math.isfinite(value):
                raise InvalidArgument(f"{path or 'arguments'}: {value} is no JSON number", field=path)
        case dict():
            for key, item in cast("dict[str, object]", value).items():
                check_json(key, path)
                check_json(item, f"{path}.{key}" if path else key)
        case list():
            for index, item in enumerate(cast("list[object]", value)):
                check_json(item, f"{path}[{index}]")
        case _:
            pass


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{path or 'arguments'}: text with a lone surrogate is no JSON", field=path) from None


def _read_uri(text: str) -> URI:
    return parse_uri(from_host(text))


def _uri_readers(struct: type[msgspec.Struct]) -> list[tuple[str, Callable[[str], URI]]]:
    """The fields of `struct` that hold URIs, each with how it is read."""
    found: list[tuple[str, Callable[[str], URI]]] = []
    for name, hint in get_type_hints(struct, include_extras=True).items():
        kinds = _parts(hint)
        if HostURI in kinds:
            found.append((name, _read_uri))
        elif HostPrefix in kinds:
            found.append((name, from_host))
    return found


def _parts(hint: Any) -> set[Any]:
    """`hint` and what it is a union or annotation of."""
    found = {hint} if isinstance(hint, NewType) else set[Any]()
    for part in get_args(hint):
        found |= _parts(part)
    return found


_AT = re.compile(r" - at `\$\.?(.*)`$")
_NAMED = re.compile(r"(missing required|contains unknown) field `([^`]*)`")


def _named(error: msgspec.ValidationError, struct: type[msgspec.Struct]) -> InvalidArgument:
    """msgspec's error with the path of the field it is about, in words that say how to do better."""
    text = str(error)
    path = found[1] if (found := _AT.search(text)) else ""
    text = _AT.sub("", text)
    if found := _NAMED.search(text):
        field = f"{path}.{found[2]}" if path else found[2]
        if found[1] == "missing required":
            return InvalidArgument(f"{field}: missing, and it is required", field=field)
        known = "" if path else f"; there are {', '.join(struct.__struct_encode_fields__)}"
        return InvalidArgument(f"{field}: no such argument{known}", field=field)
    return InvalidArgument(f"{path or 'arguments'}: {text[:1].lower()}{text[1:]}", field=path)


def _compact(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if not isinstance(schema, dict):
        return (
            [_compact(item, definitions) for item in cast("list[Any]", schema)] if isinstance(schema, list) else schema
        )
    given = cast("dict[str, Any]", schema)
    if reference := given.get("$ref"):
        target = definitions[str(reference).removeprefix("#/$defs/")]
        given = {**target, **{key: value for key, value in given.items() if key != "$ref"}}
    kept = {
        key: {name: _compact(one, definitions) for name, one in value.items()}
        if key == "properties"
        else _compact(value, definitions)
        for key, value in given.items()
        if key != "title" and not (key == "required" and not value) and not (key == "default" and value == "")
    }
    if isinstance(values := kept.get("enum"), list) and all(isinstance(one, str) for one in cast("list[Any]", values)):
        kept = {"type": "string", **kept}
    return kept
