"""What is optional for cld, and so for its tests."""

import importlib.util

import pytest


def needs_litellm() -> None:
    """Skip a test, or a file of tests, where litellm is not installed; does not import it, which asks the network."""
    if importlib.util.find_spec("litellm") is None:
        pytest.skip("litellm is optional, and not installed", allow_module_level=True)
