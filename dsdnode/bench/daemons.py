"""Real daemons on this machine, as a user starts them: for `dsdnode bench` and the demo. None survives who began it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import msgspec

from dsdnode.errors import BadInput, DsdError
from dsdnode.node.status import Ready

START_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
AGAIN_S = 5

T = TypeVar("T")
POLL_S = 0.02


class Daemon:
    """One `dsdnode start` on loopback in a process group of its own: the terminal's Ctrl-C is ours alone to obey.

    Its input is a pipe that only we hold open: however we end, even killed, so does it.
    """

    def __init__(self, data_dir: Path, *words: str, threads: int = 1) -> None:
        data_dir.mkdir(mode=0o700)
        self.data_dir = data_dir
        self._log = data_dir / "node.log"
        command = [sys.executable, "-m", "dsdnode.cli", "start", "--listen", "tcp://127.0.0.1:0", "--json", "--leash"]
        command += ["--on-battery", "--on-metered"]  # its user waits for it
        # Stages of one reply take turns, and small models gain nothing from more threads.
        with self._log.open("wb") as log_file:
            self.process = subprocess.Popen(
                [*command, "--threads", str(threads), "--data-dir", str(data_dir), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                process_group=0,
            )

    def ready(self) -> Ready:
        """Its readiness line. Raises DsdError with its own last words when it ends before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._ended()
        return msgspec.json.decode(line, type=Ready)

    def port(self) -> int:
        """Where it really listens, whatever it advertises; as soon as it does, which is long before it is ready."""
        import psutil

        deadline_s = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            try:
                connections = psutil.Process(self.process.pid).net_connections(kind="tcp")
            except psutil.Error:
                break
            listening = [one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN]
            if listening:
                return int(listening[0])
            time.sleep(POLL_S)
        raise self._ended()

    def cpu_s(self) -> tuple[float, float]:
        """So far: by its workers, in which the layers are computed, and by itself."""
        return cpu_s(self.process.pid)

    def _ended(self) -> DsdError:
        """With its own last word and exit code, if it had one."""
        said = self._log.read_text(errors="replace").splitlines()
        told = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        if not told:
            return DsdError("a daemon did not start:\n" + "\n".join(said[-10:]))
        error = DsdError(f"a daemon did not start: {told[-1]}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            error.exit_code = max(error.exit_code, self.process.wait(STOP_WITHIN_S))
        return error


def cpu_s(pid: int) -> tuple[float, float]:
    """Spent so far, of a processor: by the processes that this one started, and by itself. What has ended counts
    nothing: who needed it says so."""
    import psutil

    def spent_s(process: psutil.Process) -> float:
        with contextlib.suppress(psutil.Error):
            spent = process.cpu_times()
            return float(spent.user + spent.system)
        return 0.0

    try:
        process = psutil.Process(pid)
        return sum(map(spent_s, process.children())), spent_s(process)
    except psutil.Error:
        return 0.0, 0.0


def take_down(running: Sequence[Daemon]) -> None:
    """All of them, also when Ctrl-C is pressed again meanwhile."""
    signal.alarm(0)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for daemon in running:
        daemon.process.terminate()
    deadline_s = time.monotonic() + STOP_WITHIN_S
    for daemon in running:
        try:
            daemon.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(daemon.process.pid, signal.SIGKILL)
            daemon.process.wait()
        for pipe in (daemon.process.stdin, daemon.process.stdout):
            if pipe is not None:
                pipe.close()
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def leaving_by_exception() -> Iterator[None]:
    """Every way of being told to leave is an exception, which takes the daemons down.

    Where it is raised is chance: a callback from C swallows it, say. So it is raised again until `take_down` begins.
    """
    before = {number: signal.signal(number, handler) for number, handler in _HANDLERS.items()}
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def run_leaving(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` within `leaving_by_exception`: the exception comes between two steps of the loop, not amid one.

    Amid one it would leave a socket that nobody knows of, and libzmq, which waits for all of them, would never end. A
    chat, and its line editor, may take Ctrl-C for themselves meanwhile and give it back.
    """
    runner = asyncio.Runner()
    for number, handler in _HANDLERS.items():
        signal.signal(number, partial(runner.get_loop().call_soon_threadsafe, handler))
    try:
        with runner:
            return runner.run(main)
    finally:
        for number, handler in _HANDLERS.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """In place of asyncio's handler, which cancels a task: a cancellation that meets a timeout can be lost."""
    signal.alarm(AGAIN_S)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    signal.alarm(AGAIN_S)
    raise SystemExit(128 + number)


_HANDLERS: dict[signal.Signals, Callable[..., object]] = {
    signal.SIGINT: _interrupt,
    signal.SIGALRM: _interrupt,
    signal.SIGTERM: _leave,
    signal.SIGHUP: _leave,
}


def isolate(folder: Path, env_prefix: str) -> None:
    """The daemons have the built-in settings, whatever this user's own ones are."""
    for name in [name for name in os.environ if name.startswith(env_prefix)]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")


def even_ranges(num_layers: int, num_shards: int) -> list[str]:
    """Layers 0 to `num_layers` in `num_shards` ranges as even as can be, as `--layers` has them. Raises BadInput."""
    if not 1 <= num_shards <= num_layers:
        raise BadInput(f"the target has {num_layers} layers: --shards 1 to {num_layers}, not {num_shards}")
    cuts = [num_layers * i // num_shards for i in range(num_shards + 1)]
    return [f"{start}:{end}" for start, end in itertools.pairwise(cuts)]
