"""What the system tells that speaks against serving others now: this machine runs on battery, volume is paid for."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path

import psutil

from dsdnode.config import NodeConfig

ANSWERS_WITHIN_S = 5.0
_METERED = ("busctl", "--system", "get-property", "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager",
            "org.freedesktop.NetworkManager", "Metered")  # fmt: skip
_YES = {b"u 1", b"u 3"}
"""NetworkManager's "yes", and "yes, I guess": a phone's hotspot says so of itself."""
MAX_ANSWER_BYTES = 4096
SUPPLIES = Path("/sys/class/power_supply")


class Surroundings:
    """`look` returns who speaks against it ("battery", "network") and why, in words; "": it does not."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config

    async def look(self) -> dict[str, str]:
        battery = not self._config.on_battery and is_on_battery()
        metered = not self._config.on_metered and await is_metered()
        return {
            "battery": "paused for others while on battery (--on-battery serves all the same)" if battery else "",
            "network": "paused for others in a metered network (--on-metered serves all the same)" if metered else "",
        }


def is_on_battery() -> bool:
    """False, too, where the system does not tell."""
    if sys.platform != "linux":
        look = getattr(psutil, "sensors_battery", None)
        battery = look() if look is not None else None
        return battery is not None and battery.power_plugged is False
    return _is_discharging()


def _is_discharging() -> bool:
    """By the kernel's word. A mouse's or a headset's battery discharges, too: its scope is that device."""
    supplies = list(SUPPLIES.glob("*"))
    if any(_said(one, "type") != "Battery" and _said(one, "online") == "1" for one in supplies):
        return False
    own = (one for one in supplies if _said(one, "type") == "Battery" and _said(one, "scope") != "Device")
    return any(_said(one, "status") == "Discharging" for one in own)


def _said(supply: Path, what: str) -> str:
    """ "": nothing; its driver may fail, too."""
    try:
        return (supply / what).read_text().strip()
    except (OSError, ValueError):
        return ""


async def is_metered() -> bool:
    """By NetworkManager's word; False where there is none."""
    if shutil.which(_METERED[0]) is None:
        return False
    try:
        asked = await asyncio.create_subprocess_exec(
            *_METERED,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return False
    assert asked.stdout is not None
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            answer = await asked.stdout.read(MAX_ANSWER_BYTES)
            await asked.wait()
    except TimeoutError:
        return False
    finally:
        if asked.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                asked.kill()
    return answer.strip() in _YES
