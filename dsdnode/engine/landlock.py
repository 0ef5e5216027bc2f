"""Which files a worker may still open: a list of paths, for good (landlock(7), Linux 5.13 and later).

By three system calls, whose numbers are the same everywhere; there is no well-kept library for them.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _IOCTL = 1 << 1, 1 << 2, 1 << 3, 1 << 15
_FILE_RIGHTS_BITS: Final = ((5, 16), (3, 15), (2, 14), (1, 13))
"""From a version on the kernel knows so many rights of files: all are taken away that it knows."""
_TCP: Final = 3
"""Bind and connect (version 4)."""
_SCOPES: Final = 3
"""Abstract sockets and signals of others (version 6)."""


def version() -> int:
    """What the kernel offers; 0: nothing."""
    return max(0, _call(_CREATE, None, 0, _ASK_VERSION)) if sys.platform == "linux" else 0


def restrict(readable: Iterable[Path], devices: Iterable[Path] = ()) -> bool:
    """From now on this thread, and those that it starts, open nothing but what lies at or under these paths.

    What does not exist is left out. `devices` may be written to, too. False: not on this system. The process must have
    given up new privileges before; a thread that runs already is not bound.
    """
    offered = version()
    if not offered:
        return False
    rights = (1 << next(bits for least, bits in _FILE_RIGHTS_BITS if offered >= least)) - 1
    wanted = struct.pack("=QQQ", rights, _TCP if offered >= 4 else 0, _SCOPES if offered >= 6 else 0)
    ruleset = _call(_CREATE, wanted, len(wanted), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in devices:
            _allow(ruleset, path, (_READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL) & rights)
        return _call(_RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= ~_READ_DIR
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, *(ctypes.c_size_t(one) if isinstance(one, int) else one for one in arguments)))
