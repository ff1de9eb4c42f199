"""The gate: every access to a store or to events goes through here, or does not happen.

`Guard` is one principal and one policy; `GuardedStore` is a store that only does what the guard
allows, and `GuardedSubscription` tells only what it allows. The order is always the same: the URI
is canonical already, the policy decides, and only then is the file opened, so that what is denied
is not even looked at. (Rules that look at `input.resource.meta` need the file first; then it is
read, decided on, and that same object is returned.) What may not be read is told in the same words
as what is not there.
"""

from cld.guard.events import GuardedSubscription
from cld.guard.gate import Guard, Journal
from cld.guard.store import Entries, Entry, GuardedStore

__all__ = ["Entries", "Entry", "Guard", "GuardedStore", "GuardedSubscription", "Journal"]
