"""Escapes: text that somebody else wrote, made safe to be shown to a person.

Whoever reads a question or a line decides by what they see; so nothing in it may move the cursor, hide
or reorder what stands beside it.
"""

import re

# Everything a terminal or a dialog would act on or draw wrongly: C0 without tab and newline, DEL, C1, and
# what reorders or hides text (zero-width and bidi characters, line separators, tags), lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe(text: str) -> str:
    """`text` with every character that a terminal would act on written as its JSON escape."""
    return _UNSAFE.sub(_escape, text)


def safe_line(text: str) -> str:
    """As `safe`, and on one line."""
    return safe(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"
