"""Alice breaks her sweep off."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import Future

import pytest

from dsdnode.sim.workers import workers

LONGER_THAN_A_TEST_S = 600.0


def test_ctrl_c_does_not_wait_for_what_is_being_simulated() -> None:
    def sweep() -> None:
        with workers(2) as pool:
            running: list[Future[None]] = [pool.submit(time.sleep, LONGER_THAN_A_TEST_S) for _ in range(6)]
            while not running[0].running():
                time.sleep(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    assert not multiprocessing.active_children()
