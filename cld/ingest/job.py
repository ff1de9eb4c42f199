"""The job: what a run was asked to do, what its folders and files share, and the tally of what became of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from anyio import CapacityLimiter

from cld.config import IngestLimits
from cld.guard import GuardedStore
from cld.ingest.pool import Pool
from cld.ingest.report import Failure, Progress, Report
from cld.uri import URI


@dataclass
class Tally:
    """What became of the files so far; `counts` are by the names of the report's fields."""

    on_progress: Callable[[Progress], None]
    counts: Counter[str] = field(default_factory=Counter[str])
    skipped: Counter[str] = field(default_factory=Counter[str])
    failed: list[Failure] = field(default_factory=list[Failure])
    roots: list[URI] = field(default_factory=list[URI])
    done: int = 0
    total: int = 0

    def step(self, path: str) -> None:
        """One more file is done with."""
        self.done += 1
        self.on_progress(Progress(self.done, self.total, path))

    def report(self) -> Report:
        return Report(
            roots=tuple(dict.fromkeys(self.roots)),
            skipped=dict(sorted(self.skipped.items())),
            failed=tuple(sorted(self.failed, key=lambda one: one.path)),
            **self.counts,
        )


@dataclass(frozen=True)
class Job:
    """`exclude`, `check`, `retry` and `until` are those of `ingest`; `avoid` are folders as (device, inode)."""

    store: GuardedStore
    below: URI
    limits: IngestLimits
    exclude: Sequence[str]
    avoid: frozenset[tuple[int, int]]
    check: bool
    retry: bool
    until: float | None
    pool: Pool
    tally: Tally
    large: CapacityLimiter
    """Held while a large file is in memory: of those, one at a time."""
