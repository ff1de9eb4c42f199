"""Fixtures every test file shares."""

import pytest

# The contract suite is imported by test files, and its assertions should say as much as theirs.
pytest.register_assert_rewrite("store_contract", "store_model")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
