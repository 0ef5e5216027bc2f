"""What a machine and its files say of themselves. Nothing is sent, nothing is changed; a look takes seconds at most."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
from pathlib import Path

import psutil

from dsdnode.config import AUTO, NodeConfig
from dsdnode.doctor import firewall
from dsdnode.doctor.facts import Files, Interface, Machine, ModelFile
from dsdnode.engine.gguf_parts import read_model, size_bytes_of
from dsdnode.errors import DsdError
from dsdnode.files import check_own, shown
from dsdnode.identity import load
from dsdnode.models import demo_draft, demo_target
from dsdnode.net.interfaces import own_addresses
from dsdnode.net.mapper import gateway
from dsdnode.net.places import source

_CLOCK_UNSET = 5
"""TIME_ERROR of adjtimex(2): nobody has set it since the start."""
_TIMEX_BYTES = 512
"""More than the struct has anywhere."""


async def at_machine(port: int) -> Machine:
    """`port`: where a node listens here. (What others are not told, and why, is left out.)"""
    return Machine(
        interfaces=_interfaces(),
        route_v4=source(socket.AF_INET),
        route_v6=source(socket.AF_INET6),
        gateway=gateway(),
        firewall=await asyncio.to_thread(firewall.look, port),
        clock_set=_is_clock_set(),
        descriptors=_descriptors(),
        free_memory_bytes=psutil.virtual_memory().available,
    )


def _interfaces() -> tuple[Interface, ...]:
    hosts: dict[str, list[str]] = {}
    for own in own_addresses():
        hosts.setdefault(own.interface, []).append(own.host)
    try:
        states = sorted(psutil.net_if_stats().items())
    except (OSError, psutil.Error):
        return tuple(Interface(name, True, tuple(found)) for name, found in sorted(hosts.items()))
    is_loopback = {"lo", "lo0"}
    return tuple(
        Interface(name, state.isup, tuple(hosts.get(name, ()))) for name, state in states if name not in is_loopback
    )


def _is_clock_set() -> bool | None:
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _CLOCK_UNSET


def _descriptors() -> int:
    """As many as `dsdnode start` gets itself."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if hard == resource.RLIM_INFINITY else hard


def who_listens(port: int) -> str:
    """The program, as far as this user may see; "": not to be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f"{psutil.Process(one.pid).name()}, process {one.pid}"
    return ""


def at_files(config: NodeConfig, models: bool = True) -> Files:
    """`models`: those that a node would be started with, too."""
    trouble, free_bytes = "", None
    try:
        _check_folder(config.data_dir)
        if config.identity_file.exists():
            load(config.identity_file)
    except (DsdError, OSError) as error:
        trouble = str(error)
    with contextlib.suppress(OSError):
        free_bytes = psutil.disk_usage(str(_nearest(config.data_dir))).free
    paths = {"shard": config.model or demo_target(), "drafter": config.draft_model or demo_draft()}
    if config.no_draft_model:
        del paths["drafter"]
    found = [_model(role, path) for role, path in paths.items() if models and {role, AUTO} & set(config.roles)]
    return Files(shown(config.data_dir), trouble, free_bytes, tuple(found))


def _nearest(folder: Path) -> Path:
    """The folder, or where it would be made."""
    return next((one for one in (folder, *folder.parents) if one.is_dir()), Path("/"))


def _check_folder(folder: Path) -> None:
    """Raises BadInput and OSError, in words."""
    check_own(folder)
    if folder.exists() and not folder.is_dir():
        raise DsdError(f"the data dir {shown(folder)} is a file: choose another (--data-dir)")
    nearest = _nearest(folder)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DsdError(f"nothing can be written into {shown(nearest)}: choose a data dir of your own (--data-dir)")


def _model(role: str, path: Path) -> ModelFile:
    try:
        read_model(path)
        num_bytes = size_bytes_of(path)
    except DsdError as error:
        return ModelFile(role, shown(path), trouble=str(error))
    except OSError as error:
        return ModelFile(role, shown(path), trouble=f"{shown(path)}: {error.strerror}")
    return ModelFile(role, shown(path), num_bytes)
