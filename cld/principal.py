"""Principals: who acts, and for whom. Made by configuration or a verified token, never from arguments."""

import re
from typing import Literal

import msgspec

from cld.errors import ConfigError

Kind = Literal["user", "assistant", "service"]

PRINCIPAL = r"(?:user|assistant|service):[A-Za-z0-9][A-Za-z0-9_.@+-]{0,256}"
"""What a principal is written like, as a regular expression."""

_PRINCIPAL = re.compile(PRINCIPAL)


class Principal(msgspec.Struct, frozen=True):
    """Who acts; `on_behalf_of` bounds what they may do to what both may do.

    `roles` are those that a verified token brought; policy data adds the ones it grants by id. `also` are others
    who have a hand in it, and must be allowed by themselves: nobody of them acts for anybody, or gains by it.
    """

    id: str
    kind: Kind
    roles: tuple[str, ...] = ()
    on_behalf_of: "Principal | None" = None
    also: "tuple[Principal, ...]" = ()

    def chain(self) -> "tuple[Principal, ...]":
        """This principal, then the one it acts for, and so on, and those who have a hand in it: all must be allowed."""
        found: list[Principal] = []
        one: Principal | None = self
        while one is not None:
            found.append(one)
            one = one.on_behalf_of
        return (*found, *(hand for acting in found for other in acting.also for hand in other.chain()))


def parse_principal(text: str, *, roles: tuple[str, ...] = (), on_behalf_of: Principal | None = None) -> Principal:
    """The principal that `text`, such as `user:ada` or `assistant:writer`, names.

    Raises:
        ConfigError: when it names none.
    """
    if not _PRINCIPAL.fullmatch(text):
        raise ConfigError(f"{text!r} is no principal; write user:<name>, assistant:<name> or service:<name>")
    kind: Kind = text.partition(":")[0]  # pyright: ignore[reportAssignmentType]
    return Principal(id=text, kind=kind, roles=roles, on_behalf_of=on_behalf_of)
