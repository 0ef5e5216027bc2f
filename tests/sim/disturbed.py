"""Was a reply kept from its work, or an honest peer accused? What a liar could do though every text comes right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.reply import Reply
from dsdnode.speculation.owner.session import SessionMachine

USUAL = ("start", "straggler", "session_lost")
"""Reasons to take a route also in a calm world; of sessions that are lost:"""
EXPECTED = ("its lease ran out", "others have asked for their share of this peer")
"""The second one is no lie: of two drafters at a stage with two places each gets one, whoever asked first."""


@contextlib.contextmanager
def disturbances(found: list[str]) -> Iterator[None]:
    """Adds to `found` why a reply had to recover: where nothing but a liar is at work none may."""

    def on_session_lost(original: Callable[..., None]) -> Callable[..., None]:
        def heard(self: Reply, peer: bytes, lost: Any) -> None:
            before = self._machine.route
            original(self, peer, lost)
            if self._machine.route != before and lost.reason not in EXPECTED:
                found.append(f"disturbed: session lost, {lost.reason}")

        return heard

    def need_route(original: Callable[..., None]) -> Callable[..., None]:
        def needed(self: Reply, action: Any) -> None:
            if action.reason not in USUAL:
                found.append(f"disturbed: another route, {action.reason}")
            original(self, action)

        return needed

    def recover(original: Callable[..., Any]) -> Callable[..., Any]:
        def recovered(self: SessionMachine, now: float, base: int) -> Any:
            found.append("disturbed: another epoch")
            return original(self, now, base)

        return recovered

    with (
        patch.object(Reply, "on_session_lost", on_session_lost(Reply.on_session_lost)),
        patch.object(Reply, "_need_route", need_route(Reply._need_route)),
        patch.object(SessionMachine, "_recover", recover(SessionMachine._recover)),
    ):
        yield


@contextlib.contextmanager
def accusations() -> Iterator[list[bytes]]:
    """Peers of which somebody says that they misbehave, each time."""
    accused: list[bytes] = []
    original = Rpc.misbehaved

    def misbehaved(self: Rpc, peer: bytes, why: object) -> None:
        accused.append(peer)
        original(self, peer, why)

    with patch.object(Rpc, "misbehaved", misbehaved):
        yield accused
