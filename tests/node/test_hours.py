"""A machine serves others at the hours that its user has said, and not while it runs on battery."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from dsdnode.config import NodeConfig, parse_hours
from dsdnode.node import hours, surroundings, volunteering
from dsdnode.node.admission import Admission
from dsdnode.node.ledger import Given
from dsdnode.node.node import Node
from dsdnode.node.surroundings import Surroundings
from dsdnode.node.volunteering import Volunteering
from tests.node import jumping
from tests.node.swarm import FakeSwarm
from tests.node.test_drafter_host import story


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-30T{text}").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "serves", "rests"),
    [
        ("20:00-08:00", ["20:00", "23:59", "00:00", "07:59"], ["08:00", "12:00", "19:59"]),
        ("9:30-17:00", ["09:30", "16:59:59"], ["00:00", "09:29:59", "17:00", "23:59"]),
        ("22:00-24:00", ["22:00", "23:59"], ["00:00", "21:59"]),
        ("00:00-06:00", ["00:00", "05:59"], ["06:00", "23:59"]),
    ],
)
def test_sam_serves_at_his_hours_over_midnight_too(said: str, serves: list[str], rests: list[str]) -> None:
    asked = parse_hours(said)
    assert all(not hours.resting(asked, at(time)) for time in serves)
    assert all(hours.resting(asked, at(time)) for time in rests)
    assert not hours.resting(None, at("12:00"))


def test_the_end_of_a_pause_is_told() -> None:
    assert hours.resting((1200, 480), at("12:00")) == "paused for others until 20:00 (--hours 20:00-08:00)"


def test_it_rests_and_serves_again_by_itself_unless_its_user_has_paused_it(tmp_path: Path) -> None:
    news: list[str] = []

    async def day() -> None:
        loop, admission = asyncio.get_running_loop(), Admission()
        begun_s = loop.time()
        config = NodeConfig(data_dir=tmp_path, hours=(20 * 60, 8 * 60))
        one = Volunteering(
            config,
            admission,
            lambda: news.append(admission.resting),
            Given,
            now=lambda: at("19:59") + timedelta(seconds=loop.time() - begun_s),
        )
        one.start()
        assert admission.refusal(b"alice") is not None
        await asyncio.sleep(90)
        assert admission.refusal(b"alice") is None
        one.rest("user", "a game")
        await asyncio.sleep(13 * 3600)
        one.rest("user", "")
        assert admission.resting.startswith("paused for others until 20:00")
        await one.close()

    jumping.run(day())
    assert [words.partition(" (")[0] for words in news] == [
        "paused for others until 20:00",
        "",
        "a game",
        "a game; paused for others until 20:00",
        "paused for others until 20:00",
    ]


def supplies(folder: Path, **said: dict[str, str]) -> Path:
    """As Linux tells of what a machine runs on."""
    for name, words in said.items():
        (folder / name).mkdir()
        for what, word in words.items():
            (folder / name / what).write_text(f"{word}\n")
    return folder


FULL = {"type": "Battery", "status": "Discharging"}
MOUSE = {**FULL, "scope": "Device"}
PLUG, NO_PLUG = ({"type": "Mains", "online": online} for online in "10")


@pytest.mark.parametrize(
    ("machine", "is_on_battery"),
    [
        ({"BAT0": FULL}, True),
        ({"BAT0": FULL, "ADP1": NO_PLUG}, True),
        ({"BAT0": FULL, "ADP1": PLUG}, False),
        ({"BAT0": FULL, "ucsi": {"type": "USB", "online": "1"}}, False),
        ({"BAT0": {**FULL, "status": "Not charging"}}, False),
        ({"hidpp_battery_0": MOUSE}, False),
        ({"CMB1": FULL, "hidpp_battery_0": MOUSE, "AC": NO_PLUG}, True),
        ({}, False),
    ],
)
def test_a_laptop_is_on_battery_and_a_desktop_with_a_mouse_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: dict[str, dict[str, str]], is_on_battery: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(surroundings, "SUPPLIES", supplies(tmp_path, **machine))
    assert surroundings.is_on_battery() is is_on_battery
    monkeypatch.setattr(surroundings, "SUPPLIES", tmp_path / "nowhere")  # a container
    assert not surroundings.is_on_battery()


class Battery:
    def __init__(self, power_plugged: bool | None) -> None:
        self.power_plugged = power_plugged


@pytest.mark.parametrize(
    ("battery", "is_metered", "flags", "who"),
    [
        (Battery(False), False, {}, "battery"),
        (Battery(False), False, {"on_battery": True}, ""),
        (Battery(True), False, {}, ""),
        (Battery(None), False, {}, ""),
        (None, False, {}, ""),
        (None, True, {}, "network"),
        (None, True, {"on_metered": True}, ""),
    ],
)
async def test_on_battery_and_where_volume_is_paid_for_it_rests_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch, battery: Battery | None, is_metered: bool, flags: dict[str, Any], who: str
) -> None:
    async def metered() -> bool:
        return is_metered

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    monkeypatch.setattr(surroundings, "is_metered", metered)
    found = await Surroundings(NodeConfig(**flags)).look()
    assert [one for one, why in found.items() if why] == ([who] if who else [])


@pytest.mark.parametrize(("prints", "is_metered"), [("u 1", True), ("u 3", True), ("u 2", False), ("u 4", False)])
async def test_what_network_manager_says_is_understood(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prints: str, is_metered: bool
) -> None:
    busctl = tmp_path / "busctl"
    busctl.write_text(f"#!/bin/sh\necho '{prints}'\n")
    busctl.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert await surroundings.is_metered() is is_metered
    monkeypatch.setenv("PATH", "")
    assert not await surroundings.is_metered()


def test_the_plug_is_pulled_and_put_in_again(tmp_path: Path) -> None:
    why = [""]

    class Told(Surroundings):
        async def look(self) -> dict[str, str]:
            return {"battery": why[0]}

    async def day() -> None:
        admission = Admission()
        config = NodeConfig(data_dir=tmp_path)
        one = Volunteering(config, admission, lambda: None, Given, Told(config))
        one.start()
        for words in ("", "on battery", ""):
            why[0] = words
            await asyncio.sleep(2 * volunteering.LOOK_AROUND_S)
            assert admission.resting == words
        await one.close()

    jumping.run(day())


def test_a_machine_that_tells_nonsense_of_itself_keeps_its_hours(tmp_path: Path) -> None:
    """It looked at nothing any more, in silence."""

    class Broken(Surroundings):
        async def look(self) -> dict[str, str]:
            raise TypeError("no battery has told that before")

    async def day() -> None:
        loop, admission = asyncio.get_running_loop(), Admission()
        begun_s = loop.time()
        config = NodeConfig(data_dir=tmp_path, hours=(20 * 60, 8 * 60))
        one = Volunteering(
            config,
            admission,
            lambda: None,
            Given,
            Broken(config),
            now=lambda: at("19:59") + timedelta(seconds=loop.time() - begun_s),
        )
        one.start()
        assert admission.resting
        await asyncio.sleep(90)
        assert not admission.resting
        await one.close()

    with capture_logs() as logs:
        jumping.run(day())
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["bug in a task"]


def test_before_its_hours_it_takes_up_its_roles_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knew it yesterday asks as soon as it is there."""
    now = datetime.now().astimezone()
    later = (60 * now.hour + now.minute + 60) % 1440
    resting: list[str] = []

    async def start_shard(node: Node) -> None:
        resting.append(node.status().resting)

    monkeypatch.setattr(Node, "_start_shard", start_shard)

    async def tell(swarm: FakeSwarm) -> None:
        await swarm.add("sam", layers=(0, 4), hours=(later, (later + 60) % 1440))

    story(tmp_path, tell)
    assert resting[0].startswith("paused for others until")
