"""`dsdnode service`: a node that begins when its user logs in, by systemd's or launchd's hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from dsdnode.cli import swarm_keys
from dsdnode.cli.settings import SETTINGS, Settings, resolve
from dsdnode.cli.start import start
from dsdnode.errors import BadInput
from dsdnode.files import at_home, check_own, replacing, shown
from dsdnode.files import words as in_words

NOT_INSTALLED = 3
"""The exit code of `status`, as of commands that find no node running."""
COMMAND_TIMEOUT_S = 60.0
MARK = "written by `dsdnode service install`"
NOT_IN_A_SERVICE = {name: f"--{name}" for name in ("detach", "detached", "leash")}
NOT_IN_A_SERVICE |= {"dry_run": "--dry-run", "as_json": "--json"}


@dataclass(frozen=True, slots=True)
class System:
    """What this system calls a service: its file, and what is to be typed to have it begin, end, and be looked at."""

    path: Path
    begin: tuple[tuple[str, ...], ...]
    end: tuple[tuple[str, ...], ...]
    after: tuple[tuple[str, ...], ...]
    """Its file is gone."""
    look: tuple[str, ...]
    hint: str


def system() -> System:
    """Raises BadInput where there is neither."""
    if sys.platform == "darwin":
        path = at_home("~") / "Library" / "LaunchAgents" / "dsdnode.plist"
        domain = f"gui/{os.getuid()}"
        begin = (("launchctl", "bootstrap", domain, shown(path)),)
        end = (("launchctl", "bootout", f"{domain}/dsdnode"),)
        look = ("launchctl", "print", f"{domain}/dsdnode")
        return System(path, begin, end, (), look, "It runs while you are logged in.")
    if sys.platform != "linux":
        raise BadInput("services are for systemd (Linux) and launchd (macOS); here, start it by a task of the system")
    configs = os.environ.get("XDG_CONFIG_HOME") or at_home("~/.config")
    path, control = Path(configs) / "systemd" / "user" / "dsdnode.service", ("systemctl", "--user")
    reload = (*control, "daemon-reload")
    return System(
        path,
        (reload, (*control, "enable", "dsdnode.service"), (*control, "restart", "dsdnode.service")),
        ((*control, "disable", "--now", "dsdnode.service"),),
        (reload,),
        (*control, "is-active", "dsdnode.service"),
        "It runs while you are logged in; `loginctl enable-linger` has it run without that.",
    )


def unit(command: Sequence[str], folder: Path) -> bytes:
    """For systemd."""
    said = " ".join(map(_quoted, command))
    return f"""\
# {MARK}; `dsdnode service uninstall` takes it away.
[Unit]
Description=dsdnode: a peer of a swarm that runs large language models together
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={said}
WorkingDirectory={_plain(shown(folder)).replace("%", "%%")}
Restart=on-failure
RestartSec=5
# 2, 5: a mistake in the settings or the model; starting again does not mend it.
RestartPreventExitStatus=2 5
TimeoutStopSec=45
KillMode=mixed
NoNewPrivileges=yes

[Install]
WantedBy=default.target
""".encode()


def _quoted(word: str) -> str:
    """As systemd reads a command line: no shell, but its own specifiers and variables."""
    word = _plain(word)
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(character, escaped)
    return f'"{word}"'


def _plain(text: str) -> str:
    """It, which is to be part of one line. Raises BadInput."""
    if any(ord(character) < 32 for character in text):
        raise BadInput(f"{text!r} cannot stand in a service's file: it has control characters in it")
    return text


def agent(command: Sequence[str], folder: Path, log: Path) -> bytes:
    """For launchd."""
    import plistlib

    return plistlib.dumps(
        {
            "Label": "dsdnode",
            "ProgramArguments": list(command),
            "WorkingDirectory": shown(folder),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 60,
            "ExitTimeOut": 45,
            "StandardErrorPath": shown(log),
        }
    )


def command_of(words: Sequence[str]) -> tuple[list[str], Settings]:
    """What the service runs, and what its words say. A code is replaced by whom it names, for it expires.

    Raises BadInput; and click's errors, as `start` itself would.
    """
    flags = start.make_context("dsdnode start", list(words)).params
    said = [flag for name, flag in NOT_IN_A_SERVICE.items() if flags[name]]
    if said:
        raise BadInput(f"a service runs in the foreground and answers nobody: leave {said[0]} out")
    keys = {setting.key for setting in SETTINGS}
    settings = resolve({key: value for key, value in flags.items() if key in keys}, {}, flags["config"])
    rest = swarm_keys.without_keys(words)
    if rest != list(words):
        joins = [join for join in settings["join"] if not any(join in word for word in rest)]
        rest += [word for join in joins for word in ("--join", join)]
    for key, flag in (("swarm_key", "--swarm-key"), ("api_key", "--api-key")):
        rest += [word for path in _key_files(settings, key, flag) for word in (flag, f"@{path}")]
    return [sys.executable, "-m", "dsdnode.cli", "start", *rest], settings


def _key_files(settings: Settings, key: str, flag: str) -> list[str]:
    """Files of the secret that its flag has said. Raises BadInput: a service's file is no place for the secret."""
    value = settings.values[key]
    if value.source != flag:
        return []
    said = [value.said] if isinstance(value.said, str) else value.said
    if not all(one.startswith("@") for one in said):
        raise BadInput(f"a secret does not belong into a service's file: write it into one of yours, {flag} @FILE")
    return [shown(at_home(one[1:]).absolute()) for one in said]


def text_of(words: Sequence[str], keeps: bool) -> bytes:
    """Of the service's file. `keeps`: a key that came with a code is written where the service finds it."""
    command, settings = command_of(words)
    data_dir: Path = settings["data_dir"]
    lent = settings.values["swarm_key"].lent
    if lent and keeps:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(data_dir)
        command += [word for path in swarm_keys.keep(data_dir, lent) for word in ("--swarm-key", f"@{shown(path)}")]
    if sys.platform == "darwin":
        return agent(command, Path.cwd(), data_dir / "node.log")
    return unit(command, Path.cwd())


@click.group(epilog="\b\nExample:\n  dsdnode service install --join CODE --max-upload 2MB/s --hours 20:00-08:00")
def service() -> None:
    """Have a node begin when you log in.

    As a unit of your own of systemd (Linux), or an agent of launchd (macOS)."""


@service.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExample:\n  dsdnode service install --join CODE --max-upload 2MB/s --hours 20:00-08:00",
)
@click.option("--print", "only_print", is_flag=True, help="Show the file, and write nothing.")
@click.argument("start_words", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF START]...")
def install(only_print: bool, start_words: tuple[str, ...]) -> int:
    """Write the service's file, and have it begin: now, and whenever you log in. What follows is what `start` takes.

    It asks nothing: what it is to fetch takes --yes.
    """
    here = system()
    text = text_of(start_words, keeps=not only_print)
    if only_print:
        click.echo(f"# {shown(here.path)}")
        click.echo(text.decode(), nl=False)
        return 0
    with in_words(here.path):
        here.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with replacing(here.path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
    click.echo(f"written: {shown(here.path)}")
    failed = _run_all(here.begin)
    if failed:
        click.echo(f"It does not begin ({failed}); the file stays. To try again:", err=True)
        click.echo("\n".join(f"  {' '.join(one)}" for one in here.begin), err=True)
        return 1
    click.echo(f"It has begun. {here.hint}\n`dsdnode service uninstall` ends it and takes the file away.")
    return 0


@service.command(epilog="\b\nExample:\n  dsdnode service uninstall")
def uninstall() -> int:
    """End the service, and take its file away. Models, identity and settings stay in the data dir."""
    here = system()
    if not os.path.lexists(here.path):
        click.echo(f"no service is installed ({shown(here.path)} is not there)")
        return 0
    failed = _run_all(here.end)
    with in_words(here.path):
        here.path.unlink()
    _run_all(here.after)
    click.echo(f"gone: {shown(here.path)}")
    if failed:
        click.echo(f"It may still run ({failed}): `dsdnode stop` ends it.", err=True)
    return 0


@service.command(epilog="\b\nExample:\n  dsdnode service status")
def status() -> int:
    """Say whether the service is installed and runs; exit code 3 where it does not."""
    here = system()
    if not os.path.lexists(here.path):
        click.echo("no service is installed: `dsdnode service install` does it")
        return NOT_INSTALLED
    failed = _run_all((here.look,))
    click.echo(f"installed: {shown(here.path)}\n" + (f"it does not run ({failed})" if failed else "it runs"))
    return NOT_INSTALLED if failed else 0


def _run_all(commands: Sequence[Sequence[str]]) -> str:
    """What one of them says that fails: those behind it are not run. "": all is well."""
    for command in commands:
        if shutil.which(command[0]) is None:
            return f"there is no {command[0]} here"
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(command)} takes too long"
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            return said[-1] if said else f"{' '.join(command)}: exit code {done.returncode}"
    return ""
