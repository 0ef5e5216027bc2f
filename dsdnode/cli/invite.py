"""`dsdnode invite`: a code by which others come in, made by the node that runs here; also as a QR code."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from datetime import UTC, datetime
from typing import Any

import click

from dsdnode.cli import control, render
from dsdnode.cli.codes import date
from dsdnode.cli.options import common_options, json_option, load
from dsdnode.errors import BadInput
from dsdnode.node.status import Inviting
from dsdnode.wire.invitations import Invitation, write_code
from dsdnode.wire.joins import parse_join

MAX_EXPIRES_S = 366 * 86400
_SPAN = re.compile(r"([0-9]{1,6})\s*([mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}
MARGINS = (4, 2, 1)
"""Of a QR code, in modules: as much as the terminal has room for. (Four are the standard; phones do with less.)"""
PAPER, PLAIN = "\x1b[30;107m", "\x1b[0m"
"""Black on white, whatever the terminal's own colours are: a camera cannot know them."""
HALVES = " ▄▀█"
"""Two modules, the upper one counting 2."""


@click.command(epilog="\b\nExample:\n  dsdnode invite --expires 2d --qr")
@click.option("--with-swarm-key", is_flag=True, help="Put the private swarm's key into it: who has the code is in.")
@click.option("--expires", metavar="7d", default="7d", show_default=True, help="So long it may be used: 30m, 12h, 7d.")
@click.option("--qr", is_flag=True, help="Show it as a QR code, too, for the camera of a phone.")
@json_option
@common_options
def invite(with_swarm_key: bool, expires: str, qr: bool, as_json: bool, **flags: Any) -> None:
    """Print a code by which others join.

    It is one word, for `--join` of any command. It names this node and up to two other members, where they have
    been reached. Line breaks, quotes and what else a chat program adds do it no harm.
    """
    expires_s = _now_s() + parse_span(expires)
    if qr and as_json:
        raise BadInput("--qr is for people, --json for programs: choose one")
    told = asyncio.run(control.ask(load(flags)["data_dir"], "inviting", Inviting))
    if with_swarm_key and not told.swarm_keys:
        raise BadInput("this swarm has no swarm key: anybody who knows a member's address joins it")
    keys = told.swarm_keys if with_swarm_key else ()
    try:
        code = write_code(Invitation(tuple(map(parse_join, told.joins)), expires_s, keys))
    except ValueError as error:
        raise BadInput(str(error)) from None
    if as_json:
        render.print_json(
            {"code": code, "expires": date(expires_s), "members": told.joins, "with_swarm_key": bool(keys)}
        )
        return
    click.echo(code)
    if qr:
        click.echo(picture(code, shutil.get_terminal_size().columns), color=True)
    for line in _explained(told, expires_s, bool(keys)):
        click.echo(line, err=True)


def parse_span(text: str) -> int:
    """Seconds of "30m", "12h" or "7d". Raises BadInput."""
    match = _SPAN.fullmatch(text.strip().lower())
    span_s = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 0 < span_s <= MAX_EXPIRES_S:
        raise BadInput(f"--expires: {text!r} is not a time: write 30m, 12h or 7d (366d at most)")
    return span_s


def _explained(told: Inviting, expires_s: float, has_key: bool) -> list[str]:
    """What whoever hands it on should know."""
    num = len(told.joins)
    lines = ["", "On any machine, in quotes if it is broken:  dsdnode start --join CODE  (or chat)"]
    lines.append(f"It names {num} member{'s' * (num > 1)}. Nobody joins by it after {date(expires_s)}.")
    if has_key:
        lines.append("The swarm key is in it: WHOEVER SEES THIS CODE IS IN, and keeps the key when")
        lines.append("the code has expired. Only another swarm key shuts him out again.")
    elif told.swarm_keys:
        lines.append("This swarm is private, and its key is not in the code: give it to them another way")
        lines.append("(--swarm-key @FILE), or make a code --with-swarm-key.")
    if not told.is_reached:
        lines.append(f"Mind: {told.reach}.")
    return lines


def picture(code: str, columns: int) -> str:
    """A QR code in half blocks. Raises BadInput where the terminal cannot show it."""
    import segno

    if not sys.stdout.encoding.lower().startswith("utf"):
        raise BadInput("a QR code needs a terminal that shows Unicode: LANG=C.UTF-8")
    modules = [list(row) for row in segno.make_qr(code.upper(), error="l", mode="alphanumeric").matrix]
    margin = next((one for one in MARGINS if len(modules) + 2 * one <= columns), None)
    if margin is None:
        raise BadInput(f"the QR code is {len(modules) + 2} columns wide, and the terminal has {columns}")
    blank = [0] * (len(modules) + 2 * margin)
    rows = [blank] * margin + [[*blank[:margin], *row, *blank[:margin]] for row in modules] + [blank] * margin
    rows += [blank] * (len(rows) % 2)
    pairs = zip(rows[::2], rows[1::2], strict=True)
    lines = ("".join(HALVES[2 * upper + lower] for upper, lower in zip(*pair, strict=True)) for pair in pairs)
    return "\n".join(f"{PAPER}{line}{PLAIN}" for line in lines)


def _now_s() -> int:
    return int(datetime.now(UTC).timestamp())
