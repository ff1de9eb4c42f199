"""Encodings: which characters the bytes of a text file are."""

import codecs
import re

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_SAMPLE_BYTES = 64 * 1024
_WIDE = re.compile("[^\x00-\x7f\N{REPLACEMENT CHARACTER}]")
_LEAST_BYTES = 48
"""Statistics of less say nothing."""

_META = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.I)


def decode(data: bytes, *, is_html: bool = False) -> tuple[str, str]:
    """The text and the name of its encoding: by its mark, as UTF-8, by what it says of itself, by its statistics.

    Line ends become "\\n" and the mark goes, as in Python's text mode, so that offsets fit a file that is read so.
    A few bytes that do not fit are no reason to lose the rest: they become U+FFFD.
    """
    text, encoding = _decoded(data, is_html)
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _decoded(data: bytes, is_html: bool) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode("utf-8-sig" if encoding == "utf-8" else encoding), encoding
            except UnicodeDecodeError:
                break
    # What is valid UTF-8 is hardly ever anything else, whatever it says of itself.
    said = [found[1].decode() for found in [_META.search(data, 0, 4096)] if found] if is_html else []
    for encoding in ("utf-8", *said):
        try:
            return data.decode(encoding), encoding
        except (UnicodeDecodeError, LookupError):
            continue
    text = data.decode("utf-8", "replace")
    damaged = text.count("\N{REPLACEMENT CHARACTER}")
    # Many characters that only UTF-8 could have made, and a few bytes that are no characters at all.
    if len(_WIDE.findall(text)) > 4 * damaged:
        return text, "utf-8"
    encoding = _guessed(data)
    return data.decode(encoding, "replace"), encoding


def _guessed(data: bytes) -> str:
    import charset_normalizer  # noqa: PLC0415 - only where a text is no UTF-8

    best = charset_normalizer.from_bytes(data[:_SAMPLE_BYTES]).best() if len(data) >= _LEAST_BYTES else None
    return "cp1252" if best is None else best.encoding
