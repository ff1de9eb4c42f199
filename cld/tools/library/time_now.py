"""What time it is, anywhere."""

import difflib
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec

from cld.tools.declare import ToolError, tool


class Time(msgspec.Struct, frozen=True):
    time: str
    weekday: str
    zone: str
    utc_offset: str
    utc: str


@tool(title="Time", read_only=True, open_world=False, seconds=10)
def time_now(zone: str = "UTC") -> Time:
    """Tell the date and time now, in any time zone.

    Args:
        zone: name of a time zone, as Europe/Berlin
    """
    return time_in(zone, datetime.now(UTC))


def time_in(zone: str, now: datetime) -> Time:
    """`now` in `zone`.

    Raises:
        ToolError: there is no such zone; names close ones.
    """
    try:
        there = now.astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        names = {name.lower(): name for name in sorted(available_timezones())}
        wanted = zone.lower().replace(" ", "_")
        # People name cities, zones are called after continents too.
        close = [name for low, name in names.items() if low.endswith(f"/{wanted}")]
        close += [names[low] for low in difflib.get_close_matches(wanted, names, 3) if names[low] not in close]
        hint = f"; do you mean {', '.join(close[:3])}?" if close else "; zones are named as Europe/Berlin"
        raise ToolError(f"there is no time zone {zone[:80]!r}{hint}", code="invalid_argument") from None
    offset = there.strftime("%z")
    return Time(
        time=there.isoformat(timespec="seconds"),
        weekday=there.strftime("%A"),
        zone=zone,
        utc_offset=f"{offset[:3]}:{offset[3:5]}",
        utc=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
