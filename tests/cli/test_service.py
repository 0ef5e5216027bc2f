"""A node that begins by itself: what systemd and launchd are given, and how it goes away again, in a made-up home."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsdnode.cli import service
from dsdnode.cli.main import call
from dsdnode.identity import Identity
from dsdnode.wire.invitations import Invitation, write_code
from dsdnode.wire.joins import parse_join
from tests.cli.conftest import JOIN


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `systemctl` and `launchctl` write down what they are told."""
    for name in ("systemctl", "launchctl"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/told"\ntest ! -e "{tmp_path}/broken" || exit 4\n')
        tool.chmod(0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unit_of(home: Path) -> Path:
    return home / ".config" / "systemd" / "user" / "dsdnode.service"


def told(home: Path) -> list[str]:
    return (home / "told").read_text().splitlines() if (home / "told").exists() else []


def test_alice_installs_it_looks_and_takes_it_away(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["service", "status"]) == 3
    assert call(["service", "install", "--join", JOIN, "--max-upload", "2MB/s", "--hours", "20:00-08:00"]) == 0
    text = unit_of(home).read_text()
    words = f'"-m" "dsdnode.cli" "start" "--join" "{JOIN}" "--max-upload" "2MB/s" "--hours" "20:00-08:00"'
    assert f'ExecStart="{sys.executable}" {words}\n' in text
    assert f"WorkingDirectory={home}\n" in text
    assert unit_of(home).stat().st_mode & 0o777 == 0o600
    assert told(home)[-2:] == ["--user enable dsdnode.service", "--user restart dsdnode.service"]
    assert "dsdnode service uninstall" in capsys.readouterr().out
    assert call(["service", "status"]) == 0
    assert call(["service", "uninstall"]) == 0
    assert not unit_of(home).exists()
    assert told(home)[-2:] == ["--user disable --now dsdnode.service", "--user daemon-reload"]
    assert call(["service", "uninstall"]) == 0


def test_print_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["service", "install", "--print", "--name", 'my "attic" 100 % $HOME']) == 0
    assert not unit_of(home).exists()
    assert not told(home)
    shown = capsys.readouterr().out
    assert '"--name" "my \\"attic\\" 100 %% $$HOME"\n' in shown
    assert shown.startswith(f"# {unit_of(home)}\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_itself_finds_no_fault_in_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "dsdnode.service"
    file.write_bytes(service.unit([sys.executable, "-m", "dsdnode.cli", "start", "--name", 'a "b" 5 % $HOME \\'], home))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd cannot be asked here")
    assert "dsdnode.service" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layerz", "0:4"], "Try 'dsdnode start --help'"),
        (["--hours", "at night"], "are no hours"),
        (["--detach"], "leave --detach out"),
        (["--json"], "leave --json out"),
        (["--dry-run"], "leave --dry-run out"),
        (["--swarm-key", "open sesame"], "--swarm-key @FILE"),
        (["--name", "a\nExecStartPre=evil"], "one line"),
    ],
)
def test_what_start_would_not_take_is_not_installed(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert call(["service", "install", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "sesame" not in error
    assert not unit_of(home).exists()


def test_a_code_that_expires_is_replaced_by_whom_it_names_and_its_key_by_a_file(home: Path) -> None:
    member = parse_join(f"dsd://127.0.0.1:29170/{Identity(b'a' * 32).public_key.hex()}")
    code = write_code(Invitation((member,), 4_000_000_000, ("open sesame",)))
    assert call(["service", "install", "--join", code]) == 0
    text = unit_of(home).read_text()
    assert code not in text
    assert "sesame" not in text
    assert f'"--join" "dsd://127.0.0.1:29170/{member.public_key.hex()}"' in text
    path = Path(text.partition('"--swarm-key" "@')[2].partition('"')[0])
    assert path.read_text() == "open sesame\n"
    assert text.count('"--join"') == 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_member_that_is_named_beside_a_key_is_named_once(home: Path) -> None:
    key = home / "key"
    key.write_text("open sesame and more\n")
    key.chmod(0o600)
    assert call(["service", "install", "--join", JOIN, "--swarm-key", f"@{key}"]) == 0
    assert unit_of(home).read_text().count('"--join"') == 1


def test_a_folder_whose_name_is_a_line_of_systemd_s_is_not_written_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = home / "a\nExecStartPre=evil"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert call(["service", "install"]) == 2
    assert "control characters" in capsys.readouterr().err and not unit_of(home).exists()


def test_a_systemd_that_is_not_there_is_told_and_the_file_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "broken").touch()
    assert call(["service", "install"]) == 1
    assert "It does not begin" in capsys.readouterr().err
    assert unit_of(home).exists()
    assert call(["service", "status"]) == 3


def test_on_a_mac_launchd_gets_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert call(["service", "install", "--max-upload", "2MB/s"]) == 0
    path = home / "Library" / "LaunchAgents" / "dsdnode.plist"
    said = plistlib.loads(path.read_bytes())
    assert said["ProgramArguments"] == [sys.executable, "-m", "dsdnode.cli", "start", "--max-upload", "2MB/s"]
    assert said["RunAtLoad"] is True
    assert call(["service", "uninstall"]) == 0
    assert not path.exists()
    monkeypatch.setattr(sys, "platform", "win32")
    assert call(["service", "install"]) == 2
