"""Nodes that believe whoever speaks: each guard against a liar taken out, and worlds with one must turn red.

`python -m tests.sim.worlds --mutate anybodys-verdict --seeds 100`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dsdnode.client.asking import Inbox
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.host import DrafterHost
from dsdnode.node.drafter.reply import Reply
from dsdnode.node.shard import sessions
from dsdnode.node.shard.host import StageHost
from dsdnode.node.shard.sessions import StageSession
from dsdnode.speculation import seal
from tests.speculation.mutation import Mutation, always


def _as_if_from(true_sender: Callable[[Any, Any], bytes | None]) -> Callable[[Any], Any]:
    """`true_sender` says who should have sent a message; None: nobody, and the sender stays who it is."""

    def change(original: Any) -> Any:
        def heard(self: Any, peer: bytes, message: Any, *rest: Any) -> Any:
            return original(self, true_sender(self, message) or peer, message, *rest)

        return heard

    return change


def _judge(self: Reply, message: Any) -> bytes | None:
    return self._route.peers[-1] if self._route else None


def _stage(self: Reply, message: Any) -> bytes | None:
    return self._route.peers[message.index] if self._route and message.index < len(self._route.peers) else None


def _of_session(choose: Callable[[StageSession], bytes]) -> Callable[[StageHost, Any], bytes | None]:
    def sender(self: StageHost, message: Any) -> bytes | None:
        session = self._sessions.get(message if isinstance(message, bytes) else message.session)
        return None if session is None else choose(session)

    return sender


def _before(session: StageSession) -> bytes:
    index = session.opened.index
    return session.peers[index - 1] if index else session.owner


def _next(session: StageSession) -> bytes:
    return session.peers[min(session.opened.index + 1, len(session.peers) - 1)]


def _client(self: DrafterHost, request: Any) -> bytes | None:
    return next((client for client, name in self._deliveries if name == request), None)


def _asked(self: Rpc, envelope: Any) -> bytes | None:
    return next((peer for peer, waiting in self._pending.items() if envelope.request_id in waiting), None)


def _mutation(says: str, target: Any, name: str, true_sender: Callable[[Any, Any], bytes | None]) -> Mutation:
    return Mutation(says, ((target, name, _as_if_from(true_sender)),))


_owner = _of_session(lambda session: session.owner)
BELIEVING = {
    "anybodys-verdict": _mutation("anybody's verdicts count", Reply, "on_verdict", _judge),
    "any-stages-verdict": Mutation("a verdict counts without its seal", ((seal, "fits", always(True)),)),
    "anybodys-nack": _mutation("anybody's Nacks count", Reply, "on_nack", _stage),
    "anybodys-loss": _mutation("anybody may say that a session is lost", Reply, "on_session_lost", _stage),
    "anybodys-loss-told": _mutation("and a stage passes it on", StageHost, "_next_lost", _of_session(_next)),
    "anybodys-block": _mutation("a stage takes anybody's blocks", StageHost, "_block", _of_session(_before)),
    "anybodys-closing": _mutation(
        "anybody may close an epoch", StageHost, "_closed", _of_session(lambda session: session.peers[-1])
    ),
    "anybodys-close": _mutation("anybody may close a session", StageHost, "_end", _owner),
    "anybodys-park": _mutation("anybody may park a session", StageHost, "_keep", _owner),
    "anybodys-session": Mutation(
        "a session's id says nothing of its owner", ((sessions, "is_session_of", always(True)),)
    ),
    "anybodys-cancel": _mutation("anybody may cancel a reply", DrafterHost, "_cancel_now", _client),
    "anybodys-answer": _mutation("anybody may answer a request", Rpc, "_replied", _asked),
    "anybodys-piece": _mutation("a client hears anybody", Inbox, "put", lambda inbox, _: inbox.drafter),
}
