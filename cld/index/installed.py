"""Whether the libraries that indexes need are installed: the extra `knowledge`. Loads none of them."""

from importlib.util import find_spec

_NEEDED = ("numpy", "wordllama", "pyoxigraph", "selectolax", "yaml", "kreuzberg")


def is_installed() -> bool:
    """Whether all of them are there."""
    return all(find_spec(name) for name in _NEEDED)
