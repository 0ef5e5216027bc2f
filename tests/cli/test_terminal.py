"""The chat at a terminal of its own (a pty): keys, colours, history."""

from __future__ import annotations

import os
import pty
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import JOIN, ROOT

pytestmark = pytest.mark.slow

CTRL_C, CTRL_D = b"\x03", b"\x04"
PATIENCE_S = 20.0


class Terminal:
    """What alice types and sees."""

    def __init__(self, data_dir: Path, env: dict[str, str], stdout: str = "") -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "tests.cli.fake_chat", "chat", "--join", JOIN, "--data-dir", str(data_dir)]
        shown = os.open(stdout, os.O_WRONLY) if stdout else theirs
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=shown, stderr=theirs, start_new_session=True, cwd=ROOT, env=os.environ | env,
            preexec_fn=take_terminal,
        )  # fmt: skip
        for one in {theirs, shown}:
            os.close(one)
        self._seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def see(self, text: str) -> str:
        """Wait for `text`; everything seen up to it, which is then behind us."""
        wanted = text.encode()
        while wanted not in self._seen:
            assert select.select([self._ours], [], [], PATIENCE_S)[0], self._seen
            self._seen += os.read(self._ours, 65536)
        seen, _, self._seen = self._seen.partition(wanted)
        return seen.decode(errors="replace") + text

    def left(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


def take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(home: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(**env: str) -> Terminal:
        opened.append(Terminal(home / "d", {"TERM": "xterm", "NO_COLOR": "", "PROMPT_TOOLKIT_NO_CPR": "1", **env}))
        opened[-1].see("demo-target")
        opened[-1].see("\x1b[?25h")
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_ctrl_c_stops_a_reply_and_ctrl_d_leaves(terminal: Callable[..., Terminal]) -> None:
    alice = terminal()
    alice.type(b"babble\r")
    alice.see("You said babble!")
    alice.type(CTRL_C)
    alice.see("\x1b[?25h")
    alice.type(b"/peers\r")
    alice.see("looking for them")
    alice.type(CTRL_C)
    alice.see("\x1b[?25h")
    alice.type(b"hello\r")
    alice.see("You said hello!")
    alice.see("tok/s")
    alice.see("\x1b[?25h")
    alice.type(CTRL_C)
    alice.see("leaves")
    alice.see("\x1b[?25h")
    alice.type(CTRL_D)
    assert alice.left() == 0


def test_ctrl_z_is_the_shell_s_and_no_text(terminal: Callable[..., Terminal]) -> None:
    """Here no shell is there that could go on with it: the system leaves it alone."""
    alice = terminal()
    alice.type(b"\x1a")
    alice.see("\x1b[?25h")
    alice.type(b"hello\r")
    alice.see("You said hello!")


def test_accepted_drafts_can_be_coloured(terminal: Callable[..., Terminal]) -> None:
    alice = terminal()
    alice.type(b"/set colors on\r")
    alice.see("\x1b[?25h")
    alice.type(b"hello\r")
    assert "\x1b[32mYou said hello\x1b[0m!" in alice.see("!\r\n")
    alice.see("\x1b[?25h")
    alice.type(b"/bye\r")
    assert alice.left() == 0


def test_no_color_is_heeded(terminal: Callable[..., Terminal]) -> None:
    alice = terminal(NO_COLOR="1")
    alice.type(b"/set colors on\r")
    alice.see("\x1b[?25h")
    alice.type(b"hello\r")
    alice.see("You said hello!")
    assert "\x1b[2m" not in alice.see("tok/s")


def test_history_is_kept_for_its_user_alone(terminal: Callable[..., Terminal], home: Path) -> None:
    alice = terminal()
    alice.type(b"remember me\r")
    alice.see("You said remember me!")
    alice.see("\x1b[?25h")
    alice.type(CTRL_D)
    assert alice.left() == 0
    history = home / "d" / "history"
    assert "remember me" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_kept_is_done_without(terminal: Callable[..., Terminal], home: Path) -> None:
    (home / "d").touch()
    alice = terminal()
    alice.type(b"hello\r")
    alice.see("You said hello!")
    alice.see("\x1b[?25h")
    alice.type(CTRL_D)
    assert alice.left() == 0


@pytest.mark.parametrize("typed", [b"caf\xe9", b"/system \xff", b"/set stop \xc3\x28"])
def test_what_is_typed_in_another_encoding_is_told_and_the_chat_goes_on(
    terminal: Callable[..., Terminal], typed: bytes
) -> None:
    alice = terminal()
    alice.type(typed + b"\r")
    assert "Traceback" not in alice.see("error: what was typed is not UTF-8 text: the byte 0x")
    alice.see("\x1b[?25h")
    alice.type(b"hello\r")
    alice.see("You said hello!")
    alice.see("\x1b[?25h")
    alice.type(CTRL_D)
    assert alice.left() == 0


def test_a_chat_whose_words_cannot_be_written_ends(home: Path) -> None:
    alice = Terminal(home / "d", {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}, stdout="/dev/full")
    try:
        alice.type(b"hello\r")
        alice.see("error: cannot write to standard output: No space left on device")
        assert alice.left() == 1
    finally:
        alice.close()
