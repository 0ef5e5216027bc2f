"""How `chat` and `run` reach a swarm: --join, else the node that runs here, else the swarm last known."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import structlog

from dsdnode.cli import control, render
from dsdnode.cli.settings import Settings
from dsdnode.errors import NotRunning, PeerUnavailable
from dsdnode.identity import Identity, PeerChoice, peer_id
from dsdnode.wire.joins import parse_join

if TYPE_CHECKING:
    from dsdnode.client.client import Client

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def client(settings: Settings) -> AsyncIterator[Client]:
    """A peer of our own for as long as the context lasts. Raises NotRunning when no swarm is known or answers."""
    from dsdnode.client.client import Client

    joins, swarm_keys, identity, remembered = await _find(settings)
    try:
        made = await Client.connect(joins, swarm_keys, settings["patience"], render.tell_waiting, identity)
    except PeerUnavailable as error:
        if remembered:
            raise NotRunning(f"no node is running here, and the swarm last known does not answer ({error})") from None
        raise
    choice = PeerChoice(settings["allow"], settings["block"])
    made.restrict(of_own(joins[0], choice.allow, choice.block) if identity is not None else choice)
    try:
        yield made
    finally:
        await made.close()


def of_own(join: str, allow: tuple[str, ...], block: tuple[str, ...]) -> PeerChoice:
    """With this user's own node, which runs here, among them."""
    own = peer_id(parse_join(join).public_key).hex()
    return PeerChoice((*allow, own) if allow else (), block)


async def _find(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...], Identity | None, bool]:
    """Join strings, swarm keys, who we are for the node here, and whether they are only remembered."""
    given: tuple[str, ...] = settings["join"]
    if given:
        return (*given, *_known(settings, given)), settings["swarm_key"], None, False
    try:
        here = await control.ask(settings["data_dir"], "connection", control.Connection)
    except NotRunning:
        remembered = _remembered(settings)
        if not remembered and control.is_held(settings["data_dir"]):
            raise
        if not remembered:
            raise NotRunning(
                "no node is running here and no swarm is known (there is no public one): run `dsdnode start`, or pass "
                "--join with a code or dsd://HOST:PORT/KEY of somebody's swarm"
            ) from None
        return remembered, settings["swarm_key"], None, True
    if here.resting:
        log.warning("the node here takes nothing new, others are asked", why=here.resting)
    identity = Identity(bytes.fromhex(here.identity)) if here.identity else None
    return (here.join,), settings["swarm_key"] or here.swarm_keys, identity, False


def _remembered(settings: Settings) -> tuple[str, ...]:
    from dsdnode.net.handshake import swarm_names
    from dsdnode.swarm.joining import remembered
    from dsdnode.wire.joins import format_join

    known = remembered(settings["data_dir"], swarm_names(settings["swarm_key"]))
    return tuple(map(format_join, known))


def _known(settings: Settings, given: tuple[str, ...]) -> list[str]:
    """Other addresses of those who are to be joined, by key: a name may be asked for in vain."""
    keys = {join.rstrip("/").rpartition("/")[2].lower() for join in given}
    return [join for join in _remembered(settings) if join.rpartition("/")[2] in keys]
