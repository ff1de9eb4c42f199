"""Fixtures every test file shares."""

import os
import signal

import pytest
from hypothesis import settings

# How long one example takes says something about the machine, not about the code.
settings.register_profile("cld", deadline=None)
settings.load_profile("cld")

# No test may depend on the settings of whoever runs it.
os.environ["XDG_CONFIG_HOME"] = os.devnull
os.environ.pop("CLD_CONFIG", None)

# Nor on whether it was started in the background, where Ctrl-C is ignored, by children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The contract suite is imported by test files, and its assertions should say as much as theirs.
pytest.register_assert_rewrite("store_contract", "store_model")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
