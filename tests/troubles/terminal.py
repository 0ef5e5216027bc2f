"""A user at a terminal of 80 columns: what they saw, and when."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.node.processes import COMMAND

ROWS, COLUMNS = 24, 80
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """One command of ours there. `screen()` is all that it has shown, without what steers."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.ended_s = 0.0
        self._master = master
        self._chunks: list[tuple[float, bytes]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how a terminal says that everybody has left
            while data := os.read(self._master, 4096):
                with self._changed:
                    self._chunks.append((time.monotonic(), data))
                    self._changed.notify_all()
        self.process.wait()
        with self._changed:
            self.ended_s = time.monotonic()
            self._changed.notify_all()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def screen(self, until_s: float = float("inf")) -> str:
        with self._changed:
            data = b"".join(data for seen_s, data in self._chunks if seen_s <= until_s)
        return _STEERING.sub("", data.decode(errors="replace"))

    @property
    def moments_s(self) -> list[float]:
        """When something was shown."""
        with self._changed:
            return [seen_s for seen_s, _ in self._chunks]

    def first_s(self, is_there: Callable[[str], bool], since_s: float = 0.0) -> float | None:
        """When the screen first was so, not before `since_s`; None: never yet."""
        with self._changed:
            moments = [seen_s for seen_s, _ in self._chunks if seen_s >= since_s]
        return next((seen_s for seen_s in moments if is_there(self.screen(seen_s))), None)

    def wait_for(self, is_there: Callable[[str], bool], timeout_s: float) -> bool:
        """Until the screen is so, or the command is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended_s or is_there(self.screen()), timeout_s)
        return is_there(self.screen())

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None: it goes on and on."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended_s, timeout_s)
        return self.process.returncode if self.ended_s else None


@contextlib.contextmanager
def terminal(data_dir: Path, *words: str, within: Sequence[str] = ()) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DSDNODE")}
    process = subprocess.Popen(
        [*within, *COMMAND, *words, "--data-dir", str(data_dir)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=environment | {"TERM": "xterm"},
    )
    os.close(slave)
    there = Terminal(process, master)
    try:
        yield there
    finally:
        process.kill()
        there.wait(10)
        os.close(master)
