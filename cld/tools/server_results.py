"""Results: what a tool server answered, in cld's words. Pure, and bounded by what the connection lets through."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cld.escape import safe_line
from cld.tools import Result
from cld.tools.server_secrets import Secrets
from cld.types import Failure

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

MAX_ERROR = 4000
MAX_PROGRESS = 500
_MAX_LABEL = 200


def result_of(answer: "CallToolResult", secrets: Secrets) -> Result:
    """The answer of a call: structured content as data, texts as text, anything else as a line saying what it was."""
    text = secrets.hide("\n".join(_texts(answer.content, secrets)))
    data = secrets.hide_in(answer.structured_content)
    if answer.is_error:
        said = shortened(text, MAX_ERROR) or "the tool failed and did not say why"
        return Result(data=data, text=text, error=Failure("failed", said))
    if data is not None and not text:
        text = msgspec.json.encode(data).decode()
    return Result(data=data, text=text)


def progress_of(done: float, total: float | None, message: str | None, secrets: Secrets) -> str:
    """What a server says of how far it is, on one line."""
    amount = f"{done:g}" if total is None else f"{done:g}/{total:g}"
    return shortened(safe_line(secrets.hide(message or "")), MAX_PROGRESS) or amount


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2] + " …"


def _texts(content: "Sequence[ContentBlock]", secrets: Secrets) -> list[str]:
    def label(text: object) -> str:
        # Hidden before it is cut: half of a secret is not found.
        return shortened(safe_line(secrets.hide(str(text))), _MAX_LABEL)

    return [_text(block, label) for block in content]


def _text(block: "ContentBlock", label: Callable[[object], str]) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type} {label(block.mime_type)}, {_decoded(block.data)} bytes]"
        case "resource_link":
            size = "" if block.size is None else f", {block.size} bytes"
            return f"[resource {label(block.uri)}{size}]"
        case "resource":
            inner: Any = block.resource
            kind = inner.mime_type or "of unknown type"
            size = len(inner.text.encode()) if hasattr(inner, "text") else _decoded(inner.blob)
            return f"[resource {label(inner.uri)}, {label(kind)}, {size} bytes]"


def _decoded(data: str) -> int:
    """How many bytes base64 stands for."""
    return len(data) * 3 // 4 - data[-2:].count("=")
