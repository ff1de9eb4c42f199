"""What rules see: the one place where a question becomes Rego's `input`.

Owns its shape, the checks made before it is asked (a type error inside a rule makes the rule undefined,
and a deny that is undefined does not fire), what is kept out of it (secrets) and what is shortened
(bodies). Everything downstream, the log included, works with the bytes made here.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from cld.errors import InvalidArgument
from cld.policy import ACTIONS, Action, Context
from cld.principal import Principal
from cld.resource import timestamp
from cld.uri import ROOT, URI, namespace_of, parent_of, parents_of, parse_prefix, type_of

MAX_TEXT = 256
MAX_ENTRIES = 32
MAX_LEVELS = 4
MAX_VALUES = 256

REDACTED = "[redacted]"

_SECRET = re.compile(r"passw|passphrase|secret|token|apikey|authorization|credential|cookie|privatekey|accesskey")
_KINDS = frozenset({"user", "assistant", "service"})

Metas = Mapping[str, str] | None


class _Who(msgspec.Struct):
    id: str
    kind: str
    roles: tuple[str, ...]
    on_behalf_of: str


class ResourceInput(msgspec.Struct):
    uri: str
    type: str
    namespace: str
    parents: list[URI]
    meta: Mapping[str, str]


class ContextInput(msgspec.Struct):
    tool: str
    arguments: Mapping[str, Any]
    task: str
    host: str
    time: str
    destructive: bool
    shortened: bool


class _One(msgspec.Struct):
    principal: msgspec.Raw
    action: str
    resource: ResourceInput
    context: ContextInput


class _Many(msgspec.Struct):
    principal: msgspec.Raw
    action: str
    resources: list[ResourceInput]
    context: ContextInput


_encoder = msgspec.json.Encoder()


def build_input(
    principal: Principal, action: Action, what: URI | Sequence[URI], context: Context, meta: Any = None
) -> bytes:
    """`input` as JSON: with `resource` for one URI, with `resources` for several (`meta` then is one for each).

    `principal.on_behalf_of` is the id of who it acts for, empty for nobody. A `resource` names its
    ancestors in `parents`, from `cld:` down. Secrets among the arguments are redacted; long texts and
    large values are shortened, which `context.shortened` tells.

    Raises:
        InvalidArgument: something is of the wrong type, or no canonical URI.
    """
    if action not in ACTIONS:
        raise InvalidArgument(f"{action!r} is no action; it is one of {', '.join(ACTIONS)}", field="action")
    try:
        who, how = principal_input(principal), context_input(context)
        if isinstance(what, str):
            return _encoder.encode(_One(who, action, resource_input(what, meta), how))
        return _encoder.encode(_Many(who, action, _resources(what, meta), how))
    except (TypeError, ValueError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"the question cannot be put to the rules: {error}", field="context") from error


@functools.lru_cache(maxsize=256)
def principal_input(principal: Principal) -> msgspec.Raw:
    """`input.principal` for a principal, as JSON."""
    other = principal.on_behalf_of
    who = _Who(principal.id, principal.kind, tuple(principal.roles), "" if other is None else other.id)
    texts = (who.id, who.kind, who.on_behalf_of, *who.roles)
    if not all(isinstance(text, str) for text in texts) or not _fits(who):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgument(f"{principal!r} is no principal", field="principal")
    return msgspec.Raw(_encoder.encode(who))


def _fits(who: _Who) -> bool:
    """An id begins with its kind, so that none can be a role or any other subject of data.json."""
    return who.kind in _KINDS and who.id.startswith(f"{who.kind}:")


def _resources(uris: Sequence[URI], metas: Sequence[Metas] | None) -> list[ResourceInput]:
    if metas is not None and len(metas) != len(uris):
        raise InvalidArgument(f"{len(metas)} metas for {len(uris)} resources", field="metas")
    # Most resources of a listing are siblings and share their ancestors.
    known: dict[URI, list[URI]] = {}
    found: list[ResourceInput] = []
    for index, uri in enumerate(uris):
        parent = parent_of(uri)
        if (parents := known.get(parent)) is None or uri == ROOT:
            parents = known[parent] = parents_of(uri)
        found.append(resource_input(uri, None if metas is None else metas[index], parents))
    return found


def resource_input(uri: URI, meta: Metas = None, parents: list[URI] | None = None) -> ResourceInput:
    """`input.resource` for a URI; `parents` when they are known already.

    Raises:
        InvalidURI: it is none.
        InvalidArgument: its meta is not all texts.
    """
    parse_prefix(uri)
    if meta and not all(isinstance(text, str) for pair in meta.items() for text in pair):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgument(f"the meta of {uri} is not all texts", field="meta")
    return ResourceInput(uri, type_of(uri), namespace_of(uri), parents or parents_of(uri), meta or {})


def context_input(context: Context) -> ContextInput:
    """`input.context` for a context, with the time it is now."""
    texts = (context.tool, context.task, context.host)
    if not all(isinstance(text, str) for text in texts) or not isinstance(context.destructive, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgument(
            "tool, task and host of a context are texts, destructive is true or false", field="context"
        )
    arguments, shortened = shown(context.arguments) if context.arguments else ({}, False)
    return ContextInput(
        tool=context.tool,
        arguments=arguments,
        task=context.task,
        host=context.host,
        time=timestamp(),
        destructive=context.destructive,
        shortened=shortened,
    )


def shown(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Arguments as rules and logs may see them, and whether anything was cut.

    A cut text stays a text and a cut list a list, so that a rule about their beginning still holds;
    what was cut is named by its digest. Arguments that are single values come first: their order is the
    caller's, who could otherwise push `confidence` out of sight with a large value before it.
    """
    cut = _Cut()
    found = cut.mapping(dict(sorted(arguments.items(), key=_is_nested)), 1)
    return found, cut.happened


def _is_nested(argument: tuple[str, Any]) -> bool:
    return isinstance(argument[1], (Mapping, list, tuple))


class _Cut:
    """One walk over arguments, with a bound on how many values it takes over."""

    def __init__(self) -> None:
        self.left = MAX_VALUES
        self.happened = False

    def mapping(self, value: Mapping[str, Any], level: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number, (key, member) in enumerate(value.items()):
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidArgument(f"the name {key!r} is not a text", field="context.arguments")
            if number >= MAX_ENTRIES or self.left <= 0:
                found["…"] = self._digest(value, f"{len(value)} members")
                break
            found[key if len(key) <= MAX_TEXT else self._text(key)] = self._member(key, member, level)
        return found

    def _member(self, key: str, value: Any, level: int) -> Any:
        if _SECRET.search(key.lower().replace("_", "").replace("-", "")) and not _harmless(key, value):
            return REDACTED
        return self._value(value, level)

    def _value(self, value: Any, level: int) -> Any:
        self.left -= 1
        match value:
            case str():
                return value if len(value) <= MAX_TEXT else self._text(value)
            case None | bool() | int() | float():
                return value
            case Mapping():
                known = cast("Mapping[str, Any]", value)
                return self.mapping(known, level + 1) if level < MAX_LEVELS else {"…": self._digest(known, "members")}
            case list() | tuple():
                return self._list(cast("Sequence[Any]", value), level)
            case _:
                raise InvalidArgument(f"a {type(value).__name__} is no JSON", field="context.arguments")

    def _list(self, value: Sequence[Any], level: int) -> list[Any]:
        if level >= MAX_LEVELS:
            return [self._digest(value, f"{len(value)} items")]
        found: list[Any] = []
        for number, member in enumerate(value):
            if number >= MAX_ENTRIES or self.left <= 0:
                found.append(self._digest(value, f"{len(value)} items"))
                break
            found.append(self._value(member, level + 1))
        return found

    def _text(self, value: str) -> str:
        return value[:MAX_TEXT] + self._digest(value, f"{len(value)} characters")

    def _digest(self, value: Any, size: str) -> str:
        self.happened = True
        return f"… ({size}, sha256 {hashlib.sha256(_encoder.encode(value)).hexdigest()})"


def _harmless(key: str, value: Any) -> bool:
    """`max_tokens: 500` is no secret, `password: 1234` is."""
    return value is None or isinstance(value, bool) or (isinstance(value, int) and "token" in key.lower())
