"""Who may ask a daemon how it does, and have it stopped: its own user, on the same machine."""

from __future__ import annotations

import stat
from pathlib import Path

from dsdnode.cli import control


async def test_alice_s_daemon_answers_alice_and_its_door_is_shut_to_all_others(tmp_path: Path) -> None:
    async def status() -> dict[str, int]:
        return {"sessions": 3}

    with control.hold(tmp_path):
        async with control.serve(tmp_path, {"status": status}):
            assert await control.ask(tmp_path, "status", dict[str, int]) == {"sessions": 3}
            door = (tmp_path / control.SOCKET).stat()
            assert stat.S_ISSOCK(door.st_mode)
            assert stat.S_IMODE(door.st_mode) == 0o600
