"""Rates: how often something may be done, by token buckets. In memory and of this process only."""

import time
from collections.abc import Callable, Mapping

from cld.errors import ToolFailed

_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}

OTHERS = "*"
"""The name under which a rate is set for each of those that have none of their own."""


class Bucket:
    """`count` at once, and as many again over `seconds`."""

    def __init__(self, count: int, seconds: float, now: float) -> None:
        self._count = count
        self._seconds = seconds
        self._left = float(count)
        self._at = now

    def wait(self, now: float) -> float:
        """In how many seconds there is one to take; 0 for now."""
        self._left = min(float(self._count), self._left + (now - self._at) * self._count / self._seconds)
        self._at = now
        return max(0.0, (1.0 - self._left) * self._seconds / self._count)

    def take(self) -> None:
        self._left -= 1.0


class Rates:
    """Rates of tools and of namespaces as the settings give them, `30/minute`; `now` is a clock in seconds."""

    def __init__(
        self,
        tools: Mapping[str, str],
        namespaces: Mapping[str, str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._set = {"tool": tools, "namespace": namespaces}
        self._now = now
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take(self, tool: str, namespace: str) -> None:
        """Count one call, unless that is one too many; then it is not counted anywhere.

        Raises:
            ToolFailed: `rate_limited`, saying of what and when there is room again.
        """
        now = self._now()
        found = {
            key: bucket for key in (("tool", tool), ("namespace", namespace)) if (bucket := self._bucket(key, now))
        }
        for (kind, name), bucket in found.items():
            # What adding up leaves over is no reason to wait.
            if (wait := bucket.wait(now)) > 1e-6:
                what = f"the {kind} {name}" if name else "calls outside namespaces"
                raise ToolFailed(
                    f"too many calls: {what} may have {self._rate(kind, name)} (tooling.{kind}_rates); "
                    f"try again in {max(wait, 0.1):.1f} seconds",
                    kind="rate_limited",
                )
        for bucket in found.values():
            bucket.take()

    def _rate(self, kind: str, name: str) -> str | None:
        rates = self._set[kind]
        return rates.get(name, rates.get(OTHERS))

    def _bucket(self, key: tuple[str, str], now: float) -> Bucket | None:
        # Only what exists and policy allowed comes here, so there are no more of these than tools and namespaces.
        if key not in self._buckets and (rate := self._rate(*key)):
            count, _, period = rate.partition("/")
            self._buckets[key] = Bucket(int(count), _PERIODS[period], now)
        return self._buckets.get(key)
