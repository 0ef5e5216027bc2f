"""Processes for many simulations; however the work ends, they end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import structlog

from dsdnode.errors import DsdError

_LOG_ERRORS = 40


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Ctrl-C, or any error, does not wait for what is being simulated. Raises DsdError where the system ends one."""
    with ProcessPoolExecutor(jobs, initializer=_begin) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise DsdError("a process that simulates was killed, for want of memory perhaps: run fewer") from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def num_cores() -> int:
    return max(1, os.cpu_count() or 1)


def _begin() -> None:
    """The terminal's Ctrl-C is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end with the parent", daemon=True).start()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_LOG_ERRORS))


def _end_with_parent() -> None:
    """Whoever kills it, or ends it with a signal that it does not hear of, means us too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
