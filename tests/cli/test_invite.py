"""`dsdnode invite`, and what comes of its code wherever a join string is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import segno

from dsdnode.cli import control, swarm_keys
from dsdnode.cli.invite import HALVES, PAPER, PLAIN, parse_span, picture
from dsdnode.cli.settings import resolve, user_file
from dsdnode.errors import BadInput
from dsdnode.identity import Identity
from dsdnode.node.status import Inviting
from dsdnode.wire.invitations import Invitation, read_code, write_code
from dsdnode.wire.messages import Contact
from tests.cli.conftest import JOIN, ROOT, Daemon, Result, Swarm

Call = Callable[..., Result]
Start = Callable[..., Daemon]
SWARM_KEY, OLD_KEY = "correct horse battery staple", "an old key of our swarm"
ALICE = Contact(Identity(b"alice".ljust(32)).public_key, ("tcp://192.0.2.7:29170",))
HERS = f"dsd://192.0.2.7:29170/{ALICE.public_key.hex()}"
NOW_S = int(datetime.now(UTC).timestamp())
OPEN = write_code(Invitation((ALICE,), NOW_S + 3600))
CODE = write_code(Invitation((ALICE,), NOW_S + 3600, (SWARM_KEY,)))
EXPIRED = write_code(Invitation((ALICE,), 1_700_000_000, (SWARM_KEY,)))
BROKEN = f'> "{CODE[:50]}\n> {CODE[50:]}"'


# --- where it is taken


@pytest.mark.parametrize("text", [CODE, CODE.upper(), BROKEN])
@pytest.mark.parametrize("where", ["flag", "variable", "file", "list in a file"])
def test_a_code_is_taken_wherever_a_join_string_is(tmp_path: Path, where: str, text: str) -> None:
    said = json.dumps([JOIN, text] if where == "list in a file" else text)
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(f"join = {said}\n" if "file" in where else "")
    user_file().chmod(0o600)
    settings = resolve(
        {"join": (text,)} if where == "flag" else {}, {"DSDNODE_JOIN": text} if where == "variable" else {}
    )
    assert settings["join"] == ((JOIN, HERS) if where == "list in a file" else (HERS,))
    assert settings["swarm_key"] == (SWARM_KEY,) == settings.values["swarm_key"].lent
    assert settings.values["swarm_key"].source == settings.values["join"].source
    assert settings.node_config().swarm_keys == (SWARM_KEY,)


def test_a_variable_may_hold_several_of_both_kinds() -> None:
    for text in (f"{JOIN} {BROKEN}", f"{JOIN}\n{OPEN},{CODE}", f"{CODE} {JOIN}"):
        settings = resolve({}, {"DSDNODE_JOIN": text})
        assert sorted(settings["join"]) == sorted((JOIN, HERS)) and settings["swarm_key"] == (SWARM_KEY,)


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        ({"join": (CODE,), "swarm_key": (OLD_KEY,)}, (OLD_KEY, SWARM_KEY)),
        ({"join": (CODE,), "swarm_key": (SWARM_KEY,)}, (SWARM_KEY,)),
        ({"join": (OPEN,), "swarm_key": (OLD_KEY,)}, (OLD_KEY,)),
        ({"join": (OPEN,)}, ("of the variable",)),
        ({"join": (CODE,)}, (SWARM_KEY,)),
        ({"swarm_key": (OLD_KEY,)}, (OLD_KEY,)),
    ],
)
def test_its_key_counts_as_one_that_is_said_in_the_same_place(flags: dict[str, object], keys: tuple[str, ...]) -> None:
    assert resolve(flags, {"DSDNODE_SWARM_KEY": "of the variable"})["swarm_key"] == keys


def test_three_keys_are_too_many() -> None:
    with pytest.raises(BadInput, match="two swarm keys at most"):
        resolve({"join": (CODE,), "swarm_key": (OLD_KEY, "a third one, of nobody")}, {})


def test_a_file_that_others_can_read_must_not_hold_a_code_with_a_key() -> None:
    user_file().parent.mkdir(parents=True)
    user_file().write_text(f'join = "{CODE}"\n')
    user_file().chmod(0o644)
    with pytest.raises(BadInput, match=r"join has a swarm key in it.*chmod 600"):
        resolve({}, {})
    user_file().write_text(f'join = "{OPEN}"\n')
    assert resolve({}, {})["join"] == (HERS,)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (EXPIRED, "the code expired on 2023-11-14 22:13 UTC (this machine's clock says 20"),
        (CODE[:-4], "4 characters are missing"),
        (CODE[:60], "characters are missing"),
        (CODE[1:], "neither a join address"),
        (f"{CODE} thanks!", "6 characters too many"),
        (f"see {CODE}", "not a join address"),
    ],
    ids=["expired", "short", "half", "beheaded", "and more", "more before"],  # codes have the time in them
)
@pytest.mark.parametrize("command", ["start", "run hello", "chat", "models", "peers", "config show"])
def test_what_is_wrong_with_it_is_said_and_not_what_is_in_it(call: Call, command: str, text: str, word: str) -> None:
    result = call(*command.split(), "--join", text)
    assert result.code == 2 and result.err.startswith("error: --join: ") and word in result.err
    assert not any(text[place : place + 12] in result.err + result.out for place in range(10, len(text) - 12))


def test_nothing_shows_the_key_that_it_brings(call: Call) -> None:
    result = call("config", "show", "--json", "--join", CODE)
    assert json.loads(result.out)["swarm_key"] == {"value": "(hidden)", "source": "--join"}
    assert json.loads(result.out)["join"]["value"] == [HERS]
    assert SWARM_KEY not in repr(resolve({"join": (CODE,)}, {}))


@pytest.mark.parametrize("command", ["run hello", "chat", "models", "peers"])
def test_who_asks_comes_in_by_it(call: Call, swarm: Swarm, command: str) -> None:
    call(*command.split(), "--join", BROKEN)
    assert (tuple(swarm.joins), swarm.swarm_keys, swarm.closed) == ((HERS,), (SWARM_KEY,), 1)


# --- who else sees it


@pytest.mark.parametrize("flag", ["--join", "--bootstrap", "--initial-peers"])
def test_a_child_is_given_no_code(flag: str) -> None:
    rest = ["start", "--join", JOIN, "--name", "x"]
    for words in ([flag, BROKEN], [f"{flag}={CODE}"], ["--swarm-key", "abc", flag, OPEN]):
        assert swarm_keys.without_keys([*rest[:1], *words, *rest[1:]]) == rest
    environ = {"DSDNODE_JOIN": CODE, "DSDNODE_SWARM_KEY": SWARM_KEY, "HOME": "/"}
    swarm_keys.forget(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.skipif(sys.platform != "linux", reason="read in /proc")
def test_others_do_not_see_it_in_ps() -> None:
    """A program that hides what it was told, and shows what others see of it then."""
    script = (
        "from dsdnode.cli import swarm_keys; swarm_keys.hide_from_ps(); "
        "print(open('/proc/self/cmdline').read().replace(chr(0), ' '))"
    )
    words = [sys.executable, "-c", script, "--join", BROKEN, f"--join={CODE}", "--join", JOIN]
    seen = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert JOIN in seen and "x" * len(CODE) in seen and CODE[:20] not in seen


def test_its_key_is_kept_for_the_next_start(tmp_path: Path) -> None:
    new, old = swarm_keys.keep(tmp_path, (SWARM_KEY, OLD_KEY))
    assert [path.stat().st_mode & 0o777 for path in (new, old)] == [0o600, 0o600] and new.parent == tmp_path
    assert resolve({"swarm_key": (f"@{new}", f"@{old}")}, {})["swarm_key"] == (SWARM_KEY, OLD_KEY)
    assert swarm_keys.keep(tmp_path, (SWARM_KEY,)) == [new]


# --- the command


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Inviting]:
    """What the daemon says; the last one counts."""
    said = [Inviting((HERS, JOIN), (), True, "others reach this node: tcp://192.0.2.7:29170")]

    async def ask(data_dir: Path, command: str, kind: type[Inviting]) -> Inviting:
        assert command == "inviting"
        return said[-1]

    monkeypatch.setattr(control, "ask", ask)
    return said


def test_only_the_code_goes_to_standard_output(call: Call, told: list[Inviting]) -> None:
    result = call("invite")
    [code] = result.out.splitlines()
    invitation = read_code(code)
    assert [one.addresses for one in invitation.members] == [ALICE.addresses, ("tcp://127.0.0.1:29170",)]
    assert 7 * 86400 - 60 < invitation.expires_s - datetime.now(UTC).timestamp() <= 7 * 86400
    assert "2 members" in result.err and "Mind" not in result.err
    assert all(len(line) <= 80 for line in result.err.splitlines())


def test_a_private_swarm_s_key_is_put_in_only_if_that_is_said(call: Call, told: list[Inviting]) -> None:
    told.append(Inviting((HERS,), (SWARM_KEY, OLD_KEY), True, ""))
    result = call("invite")
    assert read_code(result.out).swarm_keys == () and "its key is not in the code" in result.err
    result = call("invite", "--with-swarm-key", "--expires", "2h")
    assert read_code(result.out).swarm_keys == (SWARM_KEY, OLD_KEY) and "WHOEVER SEES THIS CODE IS IN" in result.err
    assert SWARM_KEY not in result.err and OLD_KEY not in result.err
    shown = json.loads(call("invite", "--json", "--with-swarm-key").out)
    assert shown["with_swarm_key"] and shown["members"] == [HERS] and read_code(shown["code"]).swarm_keys


def test_who_is_not_reached_is_told_so(call: Call, told: list[Inviting]) -> None:
    told.append(Inviting((HERS,), (), False, "others do not reach this node: nobody answered them"))
    assert "Mind: others do not reach this node: nobody answered them." in call("invite").err


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("--expires", "soon"), "30m, 12h or 7d"),
        (("--expires", "0d"), "30m"),
        (("--expires", "9999d"), "366d at most"),
        (("--with-swarm-key",), "has no swarm key"),
        (("--qr", "--json"), "choose one"),
    ],
)
def test_what_cannot_be_is_said(call: Call, told: list[Inviting], words: tuple[str, ...], word: str) -> None:
    result = call("invite", *words)
    assert (result.code, result.out) == (2, "") and word in result.err


def test_a_key_that_fits_into_no_code_is_said(call: Call, told: list[Inviting]) -> None:
    told.append(Inviting((HERS,), ("x" * 256,), True, ""))
    result = call("invite", "--with-swarm-key")
    assert result.code == 2 and "does not fit into a code" in result.err and "xxx" not in result.err


def test_spans() -> None:
    assert [parse_span(text) for text in ("30m", "12h", "7d", " 1 D ")] == [1800, 43200, 604800, 86400]


def test_the_picture_is_the_code_in_half_blocks(call: Call, told: list[Inviting]) -> None:
    code, *lines = call("invite", "--qr").out.splitlines()
    assert "\n".join(lines) == picture(code, 80)
    rows = []
    for line in lines:
        places = [HALVES.index(half) for half in line.removeprefix(PAPER).removesuffix(PLAIN)]
        rows += [[place >> 1 for place in places], [place & 1 for place in places]]
    assert len(rows[0]) <= 80 and not any(map(any, rows[:4])), "a margin, by which a camera finds it"
    size = len(rows[0]) - 8
    matrix = [row[4 : size + 4] for row in rows[4 : size + 4]]
    meant = segno.make_qr(code.upper(), error="l", mode="alphanumeric")
    assert matrix == [list(row) for row in meant.matrix] and meant.mode == "alphanumeric"


def test_a_terminal_that_is_too_narrow_is_said() -> None:
    for columns in (53, 49, 47):
        assert len(picture(OPEN.ljust(200, "0"), columns).splitlines()[0]) <= columns + len(PAPER + PLAIN)
    with pytest.raises(BadInput, match="columns wide"):
        picture(OPEN, 30)


# --- with daemons


@pytest.mark.slow
def test_bob_comes_in_by_alice_s_code(call: Call, daemon: Start, home: Path) -> None:
    (home / "key").write_text(SWARM_KEY)
    (home / "key").chmod(0o600)
    alice = daemon("--swarm-key", f"@{home / 'key'}")
    alice.ready()
    code = call("invite", "--with-swarm-key", "--data-dir", alice.data_dir).out
    bob = daemon("--join", f"> {code[:40]}\n> {code[40:]}", name="bob")
    bob.ready()
    assert len(json.loads(call("peers", "--json", "--data-dir", bob.data_dir).out)) == 1
    [kept] = bob.data_dir.glob("swarm-*.key")
    assert resolve({"swarm_key": (f"@{kept}",)}, {})["swarm_key"] == (SWARM_KEY,)
    bob.process.terminate()
    _, log = bob.process.communicate(timeout=30)
    assert "stopped" in log and SWARM_KEY not in log and code[:20] not in log
