"""For every test: time limits are pytest-timeout's; hypothesis would call a busy machine a failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing that happens is logged as an error."""
    with structlog.testing.capture_logs() as logs:
        yield
    bugs = [entry for entry in logs if entry["log_level"] in ("error", "critical")]
    assert bugs == []
