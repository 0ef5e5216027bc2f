"""For every test: time limits are pytest-timeout's; hypothesis would call a busy machine a failure."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")


os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as dsdnode does: they cost each process that is started
os.environ.setdefault("OMP_NUM_THREADS", "1")  # engines of tests share the cores: threads would wait for one another
gc.disable()  # until all tests are collected, which makes no garbage

# What is logged goes nowhere but into a test's report. With its defaults structlog would colour each traceback, and
# list what all its variables hold: of simulated swarms in trouble, a twentieth of the time.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests are a million objects, all of which each collection of garbage would visit again and again:
    they stay. Younger ones are still collected, and gc.collect() in a test finds what it left behind."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing that happens is logged as an error."""
    with structlog.testing.capture_logs() as logs:
        yield
    bugs = [entry for entry in logs if entry["log_level"] in ("error", "critical")]
    assert bugs == []
