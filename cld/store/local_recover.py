"""Recovery: what a writer that died left is thrown away or becomes history, by what its name says."""

import os

from cld.store.local_history import History
from cld.store.local_paths import Layout
from cld.store.local_tmp import Temporary, forget, temporaries
from cld.uri import URI


def rescue(layout: Layout, history: History, name: str, temporary: Temporary) -> str | None:
    """Finish what a writer that died left at `name`; what was done, None if it is no longer there.

    The lock of its URI must be held: then no living writer has it.
    """
    try:
        os.stat(name, dir_fd=layout.tmp, follow_symlinks=False)
    except FileNotFoundError:
        return None
    never_there = temporary.never_in_tree(layout, name)
    if never_there:
        os.unlink(name, dir_fd=layout.tmp)
    else:
        # Whoever wrote since has put newer versions there already.
        displaced = temporary.stage == "swap"
        key = history.key_displaced_by(temporary.version, temporary.uri) if displaced else None
        history.take(name, temporary.uri, key)
    forget(layout, name)
    if never_there:
        return "an unfinished write, never acknowledged, was removed"
    return f"a version that was being replaced was moved to the history of {temporary.uri}"


def rescue_one(layout: Layout, history: History, uri: URI) -> None:
    """Finish what a dead writer of `uri`, whose lock is held, left."""
    for name, temporary in temporaries(layout):
        if temporary is not None and temporary.uri == uri:
            rescue(layout, history, name, temporary)
