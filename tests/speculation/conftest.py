from __future__ import annotations

import pytest

from .alice import Alice
from .stages import Stage


@pytest.fixture
def alice() -> Alice:
    """Owns a reply of a drafter with a window of 3."""
    return Alice()


@pytest.fixture
def bob() -> Stage:
    """A stage in the middle."""
    return Stage(1)


@pytest.fixture
def carol() -> Stage:
    """The judge."""
    return Stage(2)
