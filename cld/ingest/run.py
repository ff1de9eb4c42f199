"""A run: the paths given, one after the other, with a pool of converting processes for all of them."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from cld.config import IngestLimits
from cld.errors import Unsupported
from cld.guard import GuardedStore
from cld.ingest.folder import bring_folder, bring_gone
from cld.ingest.job import Job, Tally
from cld.ingest.places import identity_of, place_of
from cld.ingest.pool import open_pool
from cld.ingest.report import Progress, Report
from cld.uri import URI

DEFAULTS = IngestLimits()

LIBRARIES = ("charset_normalizer", "kreuzberg", "mammoth", "pathspec", "semantic_text_splitter")


async def ingest(
    store: GuardedStore,
    paths: Sequence[str | Path],
    *,
    below: URI,
    on_progress: Callable[[Progress], None] = lambda _: None,
    exclude: Sequence[str] = (),
    avoid: Sequence[Path] = (),
    within: Sequence[Path] | None = None,
    limits: IngestLimits = DEFAULTS,
    workers: int | None = None,
    check: bool = False,
    retry: bool = False,
    until: float | None = None,
) -> Report:
    """Bring the documents below `below` in step with the files at `paths`, folders or single files.

    A folder's files become documents below the folder's document; a path within a folder that is known
    already belongs to that one, any other single file to the folder it lies in. What is in the tree
    and no longer in the part of the folder that `paths` names is deleted, also where the path itself is gone.

    `exclude` are patterns as in `.gitignore`; `avoid` are folders never to be looked into, such as the tree itself.
    With `within`, each path must lie in one of those folders. `check` also looks whether all passages of files
    that did not change are still there; `retry` tries again what could not be converted before. No file is
    begun after `until` (of `time.monotonic`): the report says how many remain.

    A bad file is in the report's `failed`; a path that is not there and not known, and what policy forbids, too.
    Nothing is undone when it is cancelled: a document is complete or will be done again.

    Raises:
        InvalidArgument: a path may not be taken.
        AccessDenied: the folder's document may not be written.
        ApprovalRequired: something may be written or deleted only once a person agrees; then run again.
        StoreError: the storage failed.
        Unsupported: a library that converts is not installed.
    """
    _require_libraries()
    identities = frozenset(one for path in avoid if (one := identity_of(path)) is not None)
    places = [await run_sync(place_of, path, within, f"paths[{n}]") for n, path in enumerate(paths)]
    tally = Tally(on_progress)
    async with open_pool(workers or max(1, min(4, os.cpu_count() or 1)), limits) as pool:
        large = CapacityLimiter(1)
        job = Job(store, below, limits, exclude, identities, check, retry, until, pool, tally, large)
        for place in places:
            await (bring_gone(job, place) if place.is_gone else bring_folder(job, place))
    return tally.report()


def _require_libraries() -> None:
    """A file that cannot be converted here is no bad file, so this is said before one is looked at."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise Unsupported(f"ingest needs {', '.join(missing)}; install them with pip install 'cld[knowledge]'")
