"""How commands talk to the running daemon: JSON lines over a Unix socket in its data dir, mode 0600, one request a
connection. A lock beside it says whether a daemon lives, whatever became of the socket."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from dsdnode.errors import BadInput, DsdError, NotRunning
from dsdnode.files import check_own, words

SOCKET = "control.sock"
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 16 << 20
MAX_SOCKET_PATH_BYTES = 100
"""sockaddr_un holds 108 bytes on Linux, 104 elsewhere."""
REQUEST_TIMEOUT_S = 15.0
"""Longer than a look at the swarm takes (FIND_TIMEOUT_S, SURVEY_S and a ping), whoever is in it."""
TOLD_S, POLL_S, NUM_TRIES = 2.0, 0.05, 3
GONE_WITHIN_S = 60.0
"""Of a node that was told to end: twice as long as it drains."""

Handler = Callable[[], Awaitable[Any]]
T = TypeVar("T")
log = structlog.get_logger()


class Connection(msgspec.Struct, frozen=True):
    """How the daemon's swarm is joined."""

    join: str
    swarm_keys: tuple[str, ...]
    identity: str = ""
    """A seed, in hex, of a peer that it serves, whoever else is served: its own user's client."""
    resting: str = ""
    """Why it does not even serve him now."""


def endings() -> list[signal.Signals]:
    """Signals that end what serves: Ctrl-C, `kill`, and the terminal's window that is closed (not under `nohup`)."""
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hung_up else [])]


@contextlib.contextmanager
def hold(data_dir: Path) -> Iterator[None]:
    """Be the only daemon on this data dir (made if missing, 0700). Raises DsdError when another one is, BadInput."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(data_dir)
        file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise BadInput(f"cannot use {data_dir} as data dir: {why}") from None
    if not _take(file):
        os.close(file)
        raise DsdError(
            f"a node is already running on {data_dir} (`dsdnode status`); `dsdnode stop` ends it, "
            "another --data-dir gives a second one its own place"
        )
    try:
        yield
    finally:
        os.close(file)


def _take(lock: int) -> bool:
    """More than once: commands touch the lock for a moment, to know whether a daemon has it."""
    for _ in range(NUM_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(POLL_S)
    return False


def is_held(data_dir: Path) -> bool:
    """Is there a daemon, though it may not answer yet, or no more?"""
    try:
        with open(data_dir / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def wait_until_gone(data_dir: Path, tell: Callable[[str], None]) -> None:
    """Block until no daemon holds the data dir; a word after TOLD_S. Raises DsdError when that takes too long."""
    told_s, end_s = (time.monotonic() + wait_s for wait_s in (TOLD_S, GONE_WITHIN_S))
    with open(data_dir / "lock") as file:
        while time.monotonic() < end_s:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            if time.monotonic() >= told_s:
                told_s = inf
                tell("it finishes its replies first, for half a minute at most (another `dsdnode stop` kills it)")
            time.sleep(POLL_S)
    raise DsdError(f"the node on {data_dir} was told to end and has not; another `dsdnode stop` kills it")


@contextlib.asynccontextmanager
async def serve(data_dir: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
    """Answer requests while the context lasts; the caller holds the data dir, so a socket found there is a dead one."""
    with words(data_dir / SOCKET):
        (data_dir / SOCKET).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        with _socket_path(data_dir) as path:
            server = await asyncio.start_unix_server(
                lambda reader, writer: _answer(reader, writer, handlers), path, limit=MAX_REQUEST_BYTES
            )
    finally:
        os.umask(before)
    try:
        yield
    finally:
        (data_dir / SOCKET).unlink(missing_ok=True)
        server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]) -> None:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            request = json.loads(await reader.readuntil(b"\n"))
            if time.monotonic() > request.get("by", inf):  # we stood still, and whoever asked was told so
                writer.close()
                return
            answer = {"ok": True, "result": await handlers[request["command"]]()}
    except DsdError as error:
        answer = {"ok": False, "error": str(error)}
    except (ValueError, KeyError, TypeError, AttributeError, TimeoutError, EOFError, asyncio.LimitOverrunError):
        answer = {"ok": False, "error": "not a request that this node understands, or no answer in time"}
    except ConnectionError:
        writer.close()
        return
    with contextlib.suppress(ConnectionError):
        writer.write(json.dumps(msgspec.to_builtins(answer)).encode() + b"\n")
        await writer.drain()
    writer.close()


async def ask(data_dir: Path, command: str, kind: type[T]) -> T:
    """One request to the daemon of this data dir. Raises NotRunning, or DsdError with the daemon's own words."""
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            with _socket_path(data_dir) as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
            request = {"command": command, "by": time.monotonic() + REQUEST_TIMEOUT_S}
            writer.write(json.dumps(request).encode() + b"\n")
            line = await reader.readline()
            writer.close()
    except TimeoutError:
        raise DsdError(f"the node on {data_dir} does not answer; its log may say why") from None
    except OSError:
        if is_held(data_dir):
            words = "is starting, or ending, and does not answer yet: its log says how far it is"
            raise NotRunning(f"the node on {data_dir} {words}") from None
        raise NotRunning(f"no node is running on {data_dir}: start one with `dsdnode start`") from None
    if not line:
        raise NotRunning(f"the node on {data_dir} has just ended")
    try:
        answer = json.loads(line)
    except ValueError:  # cut off in the middle
        raise NotRunning(f"the node on {data_dir} has just ended") from None
    if not answer["ok"]:
        raise DsdError(answer["error"])
    try:
        return msgspec.convert(answer["result"], kind)
    except msgspec.ValidationError:
        raise DsdError(f"the node on {data_dir} is of another version than this command: start it again") from None


@contextlib.contextmanager
def _socket_path(data_dir: Path) -> Iterator[str]:
    """A path of the socket that is short enough to be bound and dialled while the context lasts."""
    path = str(data_dir.absolute() / SOCKET)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield path
        return
    if not Path("/proc/self/fd").is_dir():
        raise BadInput(f"the data dir's path is too long for a socket ({path}): take a shorter --data-dir")
    folder = os.open(data_dir, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
