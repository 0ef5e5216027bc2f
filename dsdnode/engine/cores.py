"""How many threads an engine has, where nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping

MAX_THREADS = 1024


def usual_threads(environ: Mapping[str, str] = os.environ) -> int:
    """What OMP_NUM_THREADS says, as to other programs that compute; else one for each physical core, of those that this
    process may use: `taskset`, or a unit's CPUAffinity, may leave it fewer."""
    said = environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and len(said) < 10 and int(said) > 0:
        return min(int(said), MAX_THREADS)
    import psutil  # which takes a worker some time

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or 1, usable))
