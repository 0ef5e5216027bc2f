"""How many threads an engine takes where nobody says."""

from __future__ import annotations

import os

import psutil
import pytest

from dsdnode.engine.cores import usual_threads


@pytest.mark.parametrize(("said", "num"), [("1", 1), ("12", 12)])
def test_as_many_as_the_environment_says(said: str, num: int) -> None:
    assert usual_threads({"OMP_NUM_THREADS": said}) == num


@pytest.mark.parametrize("said", ["", "0", "-1", "many", "4,2"])
def test_what_says_nothing_is_one_a_physical_core(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert usual_threads({"OMP_NUM_THREADS": said}) == psutil.cpu_count(logical=False)


def test_no_more_than_the_cores_that_are_left_to_alice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    assert usual_threads({}) == 2
