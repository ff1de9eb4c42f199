"""Limits: what one file may cost before it is given up."""

import msgspec

MEGABYTE = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on a single file, and on a run.

    `memory_bytes` bounds the address space of a converting process, which on Linux includes about half a
    gigabyte of reserved and unused space of the PDF library's threads.
    """

    file_bytes: int = 64 * MEGABYTE
    text_characters: int = 16 * MEGABYTE
    passages: int = 20_000
    seconds: float = 60.0
    memory_bytes: int = 1536 * MEGABYTE
    files: int = 1_000_000
    depth: int = 64
