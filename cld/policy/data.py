"""The format of `data.json`: checked by name and value before rules see it, because a typo must not weaken them.

A grant misspelt gives too little, which is noticed; a deny misspelt denies nothing, which is not. So
what cld's own rules look up has to fit exactly; any other key on the first level belongs to
whoever writes further rules. Keys named `//` are comments, anywhere. `docs/policy.md` is the manual.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, cast

import msgspec

from cld.errors import InvalidURI, PolicyError
from cld.principal import PRINCIPAL
from cld.uri import parse_prefix

_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"

Principal = Annotated[str, msgspec.Meta(pattern=rf"^{PRINCIPAL}\Z")]
Subject = Annotated[
    str, msgspec.Meta(pattern=rf"^(?:{PRINCIPAL}|role:{_NAME}|kind:(?:user|assistant|service)|anyone|delegate)\Z")
]
Role = Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}(?:@[A-Za-z0-9_-]{{1,128}})?\Z")]
Type = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]*\.(?:\*|[A-Za-z][A-Za-z0-9_]*)\Z")]
TypeOrAll = Annotated[str, msgspec.Meta(pattern=r"^(?:\*|[A-Za-z][A-Za-z0-9_]*\.(?:\*|[A-Za-z][A-Za-z0-9_]*))\Z")]
Action = Literal["*", "read", "write", "delete", "list", "call", "subscribe"]
Actions = Annotated[list[Action], msgspec.Meta(min_length=1)]
Types = Annotated[list[TypeOrAll], msgspec.Meta(min_length=1)]
Subjects = Annotated[list[Subject], msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Grant(msgspec.Struct, forbid_unknown_fields=True):
    """What a subject may do at a place and below; at `cld:` it ends at namespaces unless `namespaces`."""

    allow: list[Action]
    types: list[TypeOrAll] | msgspec.UnsetType = msgspec.UNSET
    namespaces: bool = False


class Denial(msgspec.Struct, forbid_unknown_fields=True):
    """What a subject may not do at a place and below, whatever else is granted; an empty list would deny nothing."""

    deny: Actions
    types: Types | msgspec.UnsetType = msgspec.UNSET
    reason: str = ""


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """What needs a person's approval at a place and below; for everyone, or only for `subjects`."""

    actions: Actions
    types: Types | msgspec.UnsetType = msgspec.UNSET
    subjects: Subjects | msgspec.UnsetType = msgspec.UNSET
    reason: str = ""


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    max_tokens: Count | msgspec.UnsetType = msgspec.UNSET


class Namespace(msgspec.Struct, forbid_unknown_fields=True):
    """The tools a namespace may use (all, when not said) and its limits."""

    tools: list[str] | msgspec.UnsetType = msgspec.UNSET
    limits: Limits = msgspec.field(default_factory=Limits)


class Approvals(msgspec.Struct, forbid_unknown_fields=True):
    """`tools` names why a tool needs approval; false says it needs none though it destroys."""

    confidence_below: Share | msgspec.UnsetType = msgspec.UNSET
    tools: dict[str, str | bool] = {}
    targets: dict[str, Target] = {}


class Data(msgspec.Struct):
    """What cld's own rules look up; other keys are not looked at."""

    members: dict[Principal, list[Role]] = {}
    grants: dict[Subject, dict[str, Grant]] = {}
    denies: dict[Subject, dict[str, Denial]] = {}
    owners_only: dict[Type, bool] = {}
    persons_only: dict[Type, bool] = {}
    namespaces: dict[str, Namespace] = {}
    approvals: Approvals = msgspec.field(default_factory=Approvals)
    limits: dict[Subject, Limits] = {}


def check_data(text: bytes) -> Data:
    """What `data.json` with these bytes says.

    Raises:
        PolicyError: it is no JSON, names something twice, or something in it does not fit; says where.
    """
    try:
        raw: object = msgspec.json.decode(text)
        # Only Python's own parser tells that a key came twice, of which the first would be lost unseen.
        json.loads(text, object_pairs_hook=_once)
        data = msgspec.convert(_without_comments(raw), Data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise PolicyError(f"data.json does not fit: {error}") from error
    _check_places("grants", data.grants)
    _check_places("denies", data.denies)
    _check_place("approvals.targets", data.approvals.targets)
    for name, said in data.approvals.tools.items():
        if said is True:
            raise PolicyError(f"data.json does not fit: approvals.tools.{name}: say why in words, or false for never")
    for namespace in data.namespaces:
        _valid_place(f"namespaces.{namespace}", f"cld:cld.Namespace.{namespace}")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and key != "//":
            raise ValueError(f"{key!r} is there twice on one level; join the two")
        found[key] = value
    return found


def _without_comments(value: object) -> object:
    match value:
        case dict():
            members = cast("Mapping[str, object]", value)
            return {key: _without_comments(member) for key, member in members.items() if key != "//"}
        case _:
            return value


def _check_places(key: str, table: Mapping[str, Mapping[str, object]]) -> None:
    for subject, places in table.items():
        _check_place(f"{key}.{subject}", places)


def _check_place(where: str, places: Iterable[str]) -> None:
    for place in places:
        _valid_place(where, place)


def _valid_place(where: str, place: str) -> None:
    try:
        parse_prefix(place)
    except InvalidURI as error:
        raise PolicyError(f"data.json does not fit: {where}: {error}") from error
