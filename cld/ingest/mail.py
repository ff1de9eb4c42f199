"""E-mail: the headers a person looks at, and the body as text or HTML. The standard library's parser, tolerant."""

import contextlib
import email
import email.policy
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import cast

import msgspec

from cld.ingest.encoding import decode
from cld.ingest.failed import ConversionFailed

_SHOWN = ("From", "To", "Cc", "Date", "Subject")
_MAX_PARTS = 1000
_HEADER_CHARACTERS = 1000


class Mail(msgspec.Struct, frozen=True):
    subject: str
    headers: tuple[str, ...]
    body: str
    is_html: bool


def read_mail(data: bytes) -> Mail:
    """The message; attachments by name only.

    Raises:
        ConversionFailed: it is no message.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not any(name in message for name in ("From", "To", "Date", "Subject", "Message-ID", "Received")):
        raise ConversionFailed("it is no e-mail: it has none of the headers every message has")
    headers = [f"{name}: {_header(message, name)}" for name in _SHOWN if name in message]
    plain, page, attached = "", "", list[str]()
    for part in _parts(message):
        name = part.get_filename()
        if part.get_content_disposition() == "attachment" or name:
            attached.append(_plain(name or part.get_content_type()))
        elif part.get_content_type() == "text/plain" and not plain:
            plain = _text(part, is_html=False)
        elif part.get_content_type() == "text/html" and not page:
            page = _text(part, is_html=True)
    if attached:
        headers.append(f"Attachments: {', '.join(attached)[:_HEADER_CHARACTERS]}")
    is_html = not plain.strip() and bool(page)
    return Mail(_header(message, "Subject"), tuple(headers), page if is_html else plain, is_html)


def _parts(message: EmailMessage) -> Iterator[EmailMessage]:
    """The parts that are no containers, without recursion; not those of a message within the message."""
    waiting = [message]
    for _ in range(_MAX_PARTS):
        if not waiting:
            return
        part = waiting.pop()
        if part.get_content_type() == "message/rfc822":
            continue
        below = part.get_payload()
        if isinstance(below, list):
            waiting += reversed(cast("list[EmailMessage]", below))
        else:
            yield part


def _header(message: EmailMessage, name: str) -> str:
    """The first header of the name, as far as it is looked at; the parser takes its time over long ones."""
    value = next((str(raw) for key, raw in message.raw_items() if key.lower() == name.lower()), "")
    value = value[: 4 * _HEADER_CHARACTERS]
    with contextlib.suppress(ValueError, LookupError, HeaderParseError):
        value = str(make_header(decode_header(value)))
    return _plain(value)


def _plain(value: str) -> str:
    """One line; bytes that are no text are carried as lone surrogates, which JSON cannot hold."""
    return " ".join(value.encode("utf-8", "replace").decode().split())[:_HEADER_CHARACTERS]


def _text(part: EmailMessage, *, is_html: bool) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes) or not data:
        return ""
    charset = part.get_content_charset()
    try:
        text = data.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return decode(data, is_html=is_html)[0]
    return text.replace("\r\n", "\n").replace("\r", "\n")
