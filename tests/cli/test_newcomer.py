"""Bob types one line, at a terminal and without one: what he is told and asked, and what is left when he says no."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsdnode.models import demo_target
from tests.cli.conftest import ROOT, Daemon, Result
from tests.cli.test_terminal import CTRL_C, take_terminal

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0


class Bob:
    """`dsdnode start` at a terminal of its own."""

    def __init__(self, data_dir: Path, join: str) -> None:
        self._ours, theirs = pty.openpty()
        words = ["start", "--join", join, "--listen", "tcp://127.0.0.1:0", "-t", "1", "--data-dir", str(data_dir)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dsdnode.cli", *words, "--log-level", "error"], stdin=theirs, stdout=theirs,
            stderr=theirs, start_new_session=True, cwd=ROOT, preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self._seen = ""

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def see(self, text: str) -> str:
        while text not in self._seen:
            assert select.select([self._ours], [], [], PATIENCE_S)[0], self._seen
            self._seen += os.read(self._ours, 65536).decode(errors="replace")
        seen, _, self._seen = self._seen.partition(text)
        return seen

    def left(self) -> int:
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            os.close(self._ours)


@pytest.fixture
def alice(daemon: Callable[..., Daemon], home: Path) -> Daemon:
    """She has the first half of a model that is not the bundled one, in a file of her own."""
    file = home / "big.gguf"
    file.write_bytes(demo_target().read_bytes() + bytes(32))
    return daemon("--role", "shard", "-m", str(file), "--layers", "0:4", "-t", "1")


@pytest.fixture
def join(alice: Daemon) -> Iterator[str]:
    yield str(alice.ready()["join"])


def left_behind(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*.gguf")) + [
        str(one) for one in folder.glob("models/*")
    ]


def test_bob_is_asked_and_nothing_is_left_until_he_says_yes(join: str, home: Path) -> None:
    folder = home / "bob"
    for said, code in ((b"n\n", 130), (CTRL_C, 130), (b"what?\n\n", 0)):
        bob = Bob(folder, join)
        told = bob.see("[Y/n]")
        assert "with layers 4:8 of 8 of dsdnode demo target" in told and "hosted by nobody" in told
        assert "to fetch  1.7 MB of 3.1 MB" in told and "licence" in told and "are free" in told
        assert left_behind(folder) == []
        bob.type(said)
        if code == 0:
            bob.see("[Y/n]")
            assert "drafter, shard, layers 4:8" in bob.see("On the next machine")
            bob.process.send_signal(signal.SIGTERM)
        assert bob.left() == code
        assert bool(left_behind(folder)) is (code == 0)


def test_where_nobody_can_be_asked_it_is_said_how_to_agree(
    join: str, home: Path, call: Callable[..., Result], daemon: Callable[..., Daemon]
) -> None:
    refused = call("start", "--join", join, "--listen", "tcp://127.0.0.1:0", "--data-dir", home / "bob")
    assert refused.code == 2 and "say so with --yes" in refused.err
    assert left_behind(home / "bob") == []
    looked = call("start", "--dry-run", "--join", join, "--data-dir", home / "bob", "-t", "1")
    assert looked.code == 0 and "layers 4:8 of 8" in looked.out and "Nothing was started" in looked.out
    assert left_behind(home / "bob") == []
    bob = daemon("--role", "auto", "--join", join, "--yes", "-t", "1", name="bob")
    ready = bob.ready()
    assert (ready["roles"], ready["layers"]) == (["drafter", "shard"], [4, 8])
    told = call("run", "--data-dir", bob.data_dir, "Anna has 3 apples and buys 4 more. How many apples does she have?")
    assert told.code == 0 and "apples" in told.out
