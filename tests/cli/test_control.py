"""Who may ask a daemon how it does, and have it stopped: its own user, on the same machine; and how long one waits."""

from __future__ import annotations

import asyncio
import fcntl
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dsdnode.cli import control
from dsdnode.errors import BadInput, DsdError, NotRunning
from tests.cli.conftest import Result


async def test_alice_s_daemon_answers_alice_and_its_door_is_shut_to_all_others(tmp_path: Path) -> None:
    async def status() -> dict[str, int]:
        return {"sessions": 3}

    with control.hold(tmp_path):
        async with control.serve(tmp_path, {"status": status}):
            assert await control.ask(tmp_path, "status", dict[str, int]) == {"sessions": 3}
            door = (tmp_path / control.SOCKET).stat()
            assert stat.S_ISSOCK(door.st_mode)
            assert stat.S_IMODE(door.st_mode) == 0o600


async def test_what_a_daemon_hears_late_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice's laptop was asleep, or its node on Ctrl-Z: that it would not pause she was told."""
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.05)
    done = []

    async def pause() -> None:
        done.append("pause")

    async def status() -> str:
        return "well"

    def told() -> None:
        with pytest.raises(DsdError, match="does not answer"):
            asyncio.run(control.ask(tmp_path, "pause", type(None)))
        done.append("told")

    with control.hold(tmp_path):
        async with control.serve(tmp_path, {"pause": pause, "status": status}):
            alice = threading.Thread(target=told)
            alice.start()
            alice.join()  # the daemon's loop stands still
            monkeypatch.undo()
            assert await control.ask(tmp_path, "status", str) == "well"
            assert done == ["told"]


def test_a_node_that_does_not_end_is_spoken_of_and_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TOLD_S", 0.0)
    monkeypatch.setattr(control, "GONE_WITHIN_S", 0.06)
    words: list[str] = []
    with control.hold(tmp_path), pytest.raises(DsdError, match="was told to end and has not"):
        control.wait_until_gone(tmp_path, words.append)
    assert len(words) == 1 and "finishes its replies" in words[0]
    control.wait_until_gone(tmp_path, words.append)
    assert len(words) == 1


async def test_what_stands_in_a_daemon_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file as data dir: it is no folder"), control.hold(tmp_path / "file"):
        pass
    (tmp_path / control.SOCKET).mkdir()
    with pytest.raises(BadInput, match=r"control\.sock cannot be written"):
        async with control.serve(tmp_path, {}):
            pass


def test_a_node_that_starts_is_not_told_to_be_started(call: Callable[..., Result], tmp_path: Path) -> None:
    """It loads a large model for minutes."""
    with control.hold(tmp_path):
        for command in (("status",), ("stop",), ("run", "hello")):
            refused = call(*command, "--data-dir", tmp_path)
            assert refused.code == NotRunning.exit_code
            assert "is starting, or ending, and does not answer yet" in refused.err
    assert "start one with `dsdnode start`" in call("status", "--data-dir", tmp_path).err


def test_whoever_asks_for_a_node_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with control.hold(tmp_path):
        pass
    with (tmp_path / "lock").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda for_s: asked.close())
        with control.hold(tmp_path):
            assert control.is_held(tmp_path)
