"""Alice breaks her sweep off."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future

import pytest

from dsdnode.errors import DsdError
from dsdnode.sim.workers import workers

LONGER_THAN_A_TEST_S = 600.0
SLEEPS = """
import os, signal, time
from dsdnode.sim.workers import workers

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored

def sleep(number):
    os.write(1, b"asleep\\n")
    time.sleep(600)

with workers(2) as pool:
    list(pool.map(sleep, range(2)))
"""


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


def test_a_process_that_the_system_kills_is_no_bug() -> None:
    """It had no memory left for what alice simulates."""
    with pytest.raises(DsdError, match="was killed, for want of memory perhaps"), workers(1) as pool:
        pool.submit(os._exit, 1).result()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_process_outlives_a_command_that_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as command:
        assert command.stdout is not None
        try:
            assert [command.stdout.readline() for _ in range(2)] == [b"asleep\n"] * 2
            command.send_signal(number)
            assert command.stdout.read() == b"", "it ends when nobody holds the pipe any more"
        finally:
            command.kill()
