"""Relays that die, lie and read, while a reply goes by way of them: each beside an honest one.

Rose is the first member, and relays: all others are behind routers that nobody gets through, and use her. Bill, who is
honest, relays as well. What rose does is in liar.py; `killed`: her daemon is, and says nothing.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.nat import liar
from tests.nat.moves import BEGIN_S, LOOK_S, OVER_S, QUESTION, SOME, Scene, pause_s_of, scene, text_of
from tests.node.processes import COMMAND

KINDS = ("killed", *liar.KINDS)
FROM_THE_START = ("elsewhere", "hides", "port")
USELESS = ("elsewhere", "port")
HOME = "prc"
COLUMNS = (
    "| the relay | all are reached by the other alone after s | goes on after s | text | as it should be |\n"
    "|---|---|---|---|---|"
)


class Told(msgspec.Struct, frozen=True):
    row: str
    wrong: str
    screen: str


def play(kind: str) -> Told:
    with tempfile.TemporaryDirectory() as temporary, scene(Path(temporary)) as there:
        folder, begun_s = Path(temporary), time.monotonic()
        lies = (sys.executable, "-m", "tests.nat.liar", kind, str(folder))
        there.relay("rose", COMMAND if kind == "killed" else lies)
        if kind in FROM_THE_START:
            there.relay("bill")
        there.pipeline(HOME)
        left_s = _until_left(there, begun_s) if kind in USELESS else None
        if kind not in FROM_THE_START:
            there.until_reached_by("rose")
            there.relay("bill")
            there.until_reached_by("rose", "bill")
        with there.user("run") as user:
            code = user.wait(OVER_S)
            undisturbed, wrong = text_of(user.screen()), [f"exit {code}"] if code else []
        if kind in FROM_THE_START:
            return _told(kind, left_s, None, "right" if undisturbed else "none", wrong, user.screen())
        with there.user("run") as user:
            assert user.wait_for(lambda screen: len(text_of(screen)) >= SOME, BEGIN_S), user.screen()
            began_s = time.monotonic()
            if kind == "killed":
                there.people.daemons["rose"].kill()
            (folder / "now").touch()
            code = user.wait(OVER_S)
            text = text_of(user.screen())
        wrong += [f"exit {code}"] if code else []
        wrong += ["another text"] if text != undisturbed else []
        if kind == "reads":
            wrong += read_of(there, folder / "read", text)
        pause_s = pause_s_of(user, began_s) if kind != "reads" else None
        return _told(kind, None, pause_s, "right" if text == undisturbed else "wrong", wrong, user.screen())


def _until_left(there: Scene, begun_s: float) -> float:
    there.until_reached_by("bill")
    return time.monotonic() - begun_s


def read_of(there: Scene, path: Path, text: str) -> list[str]:
    """What rose could read of it that is nobody's business, in words. What is sent in clear she hears, to be sure."""
    read = path.read_bytes()
    keys = [bytes.fromhex(one.daemon.join.rpartition("/")[2]) for one in there.members]
    secrets = [QUESTION.encode(), *(word.encode() for word in text.split() if len(word) > 5), b"demo target", *keys]
    found = [f"she reads {secret!r}" for secret in secrets if secret in read]
    if len(read) < 10_000:
        found.append(f"she has carried {len(read)} bytes")
    reach = str(there.people.daemons["drafter"].status()["reach"])
    rose = there.hosts["rose"].public_ip
    port = int(reach.partition(f"tcp://{rose}:")[2].partition(" ")[0])
    with there.hosts["client"].inside():
        call = socket.create_connection((rose, port), BEGIN_S)
    with call:
        call.sendall(QUESTION.encode())
        end_s = time.monotonic() + BEGIN_S
        while QUESTION.encode() not in path.read_bytes():
            if time.monotonic() > end_s:
                return [*found, "she does not even hear what is said in clear"]
            time.sleep(LOOK_S)
    return found


def _told(kind: str, left_s: float | None, pause_s: float | None, text: str, wrong: Sequence[str], screen: str) -> Told:
    seconds = ["-" if one is None else f"{one:.1f}" for one in (left_s, pause_s)]
    return Told(f"| {' | '.join((kind, *seconds, text, '; '.join(wrong) or 'yes'))} |", "; ".join(wrong), screen)


def main(kinds: Sequence[str], screens: bool) -> int:
    """Exit code 1: something is not as it should be."""
    print(COLUMNS, flush=True)
    status = 0
    for kind in kinds:
        told = play(kind)
        print(told.row + (f"\n{told.screen}\n" if screens else ""), flush=True)
        status |= bool(told.wrong)
    return status
