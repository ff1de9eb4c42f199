"""Drafts of mails, left as files in the outbox folder for a person to look at. Nothing here sends anything."""

import os
import re
import secrets
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

import msgspec

from cld.tools.declare import ToolContext, ToolError, tool

MAX_RECIPIENTS = 100
MAX_SUBJECT = 500
MAX_ADDRESS = 500
MAX_TEXT = 1_000_000
"""Characters."""

# Addresses as people have them; what else the standard allows is more often a trick than an address.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_NAMED = re.compile(r'\s*"?([^"<>\r\n]*?)"?\s*<([^<>\s]+)>\s*')


class Draft(msgspec.Struct, frozen=True):
    file: str
    to: tuple[str, ...]
    subject: str


@tool(title="Draft an e-mail", destructive=False, open_world=False, seconds=20)
def email_draft(
    to: list[str], subject: str, text: str, context: ToolContext, cc: list[str] | None = None, reply_to: str = ""
) -> Draft:
    """Leave the draft of an e-mail in the outbox folder for a person to check and send. Never sends anything.

    Args:
        to: addresses, as ada@example.org or Ada Lovelace <ada@example.org>
        subject: one line
        text: the mail itself, as plain text
        cc: addresses of who gets a copy
        reply_to: the address that answers go to
    """
    return leave(Path(context.options["outbox"]), draft_of(to, subject, text, cc or [], reply_to))


def draft_of(to: list[str], subject: str, text: str, cc: list[str], reply_to: str) -> EmailMessage:
    """The mail.

    Raises:
        ToolError: an address or the subject is none; says which.
    """
    if not to or len(to) + len(cc) > MAX_RECIPIENTS:
        raise ToolError(f"a draft is for 1 to {MAX_RECIPIENTS} people, copies included", code="invalid_argument")
    if len(text) > MAX_TEXT or len(subject) > MAX_SUBJECT:
        raise ToolError(
            f"the subject has {len(subject)} characters and the text {len(text)}; "
            f"at most {MAX_SUBJECT} and {MAX_TEXT} are taken",
            code="invalid_argument",
        )
    if any(not char.isprintable() for char in subject):
        raise ToolError("the subject has a line break or another control character in it", code="invalid_argument")
    message = EmailMessage(policy=SMTP)
    message["To"] = [_address(one) for one in to]
    if cc:
        message["Cc"] = [_address(one) for one in cc]
    if reply_to:
        message["Reply-To"] = _address(reply_to)
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["X-Unsent"] = "1"  # mail programs then open it as a draft
    try:
        message.set_content(text)
    except UnicodeEncodeError:
        raise ToolError("the text is no Unicode (lone surrogates)", code="invalid_argument") from None
    return message


def leave(outbox: Path, message: EmailMessage) -> Draft:
    """Write the mail to a new file of the outbox, whole or not at all."""
    outbox.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.eml"
    partial = outbox / f".{name}.partial"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(message.as_bytes())
            file.flush()
            os.fsync(file.fileno())
        partial.rename(outbox / name)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    to = tuple(str(one) for one in message["To"].addresses)
    return Draft(file=name, to=to, subject=str(message["Subject"]))


def _address(text: str) -> Address:
    named = _NAMED.fullmatch(text) if len(text) <= MAX_ADDRESS else None
    name, address = (named[1], named[2]) if named else ("", text.strip())
    if len(text) > MAX_ADDRESS or not _ADDRESS.fullmatch(address) or not name.isprintable():
        raise ToolError(f"{text[:200]!r} is no address; write ada@example.org", code="invalid_argument")
    user, _, domain = address.rpartition("@")
    try:
        return Address(name, user, domain)
    except Exception as error:  # the parser raises many things, some of them its own bugs
        raise ToolError(f"{text[:200]!r} is no address: {error}", code="invalid_argument") from None
