"""Points in time as tasks keep them: text like `2026-11-21T07:34:55.123456Z`.

Reads and writes them; there is no clock here, whoever asks brings the time along.
"""

from datetime import UTC, datetime, timedelta

Instant = datetime | str
"""An aware datetime, or its text as resources carry it."""

_MAX_SECONDS = 10 * 365 * 86_400


def instant(when: Instant) -> datetime:
    """`when` as an aware datetime in UTC; a text without an offset is taken as UTC.

    Raises:
        ValueError: when the text is no time in ISO 8601.
    """
    read = datetime.fromisoformat(when) if isinstance(when, str) else when
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def written(when: Instant) -> str:
    """`when` as resources carry it: UTC, microseconds, Z; such texts sort by time."""
    return instant(when).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def later(now: Instant, seconds: float) -> str:
    """The text of the time `seconds` after `now`; more than ten years count as ten."""
    return written(instant(now) + timedelta(seconds=min(seconds, _MAX_SECONDS)))


def is_over(until: str, now: Instant) -> bool:
    """Whether `until` has been reached.

    A text that is no time (a person has edited the file) counts as over: what waits for it would wait for ever.
    """
    try:
        return instant(now) >= instant(until)
    except ValueError:
        return True
