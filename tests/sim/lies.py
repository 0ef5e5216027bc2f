"""What a liar says (liar.py: who it is, and when): one sort of lie a function, which yields what goes to whom.

Alice's stages and her drafter must believe none of it: it has the right names and numbers, but never the right sender,
or the right seal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from dsdnode.net.port import Priority
from dsdnode.node.drafter.delivery import Delivery
from dsdnode.node.drafter.reply import Reply
from dsdnode.speculation.owner.epochs import OwnEpoch
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.codec import MAX_FRAME_BYTES, MAX_HEADER_BYTES, MAX_REQUEST_ID, encode, encode_body
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.tensors import pack_states

from .scene import ANNOUNCE, FIND_NODE, FIND_PROVIDERS, GENERATE, OPEN, Scene, Tale, request_of

NOT_LONG_S = 1.0
"""A reply of its own, asked for in another's words, the liar gives up soon: the places are for others."""
MAX_ANSWERS = 5
LATELY = 5
"""Messages."""
HUGE = bytes(MAX_FRAME_BYTES + 1)


def notice(receiver: bytes, message: wire.Message, buffers: Sequence[bytes] = ()) -> Tale:
    return Tale(receiver, encode(message, buffers))


# --- forged, of the protocol between owners and stages


def verdict(scene: Scene) -> Iterator[Tale]:
    """To the owner, or to a stage: accepting what was drafted, rejecting it, ending the reply."""
    for owner, reply, epoch in scene.some(scene.epochs()):
        said = _verdict(scene, reply, epoch)
        yield notice(owner if scene.rng.random() < 0.8 else scene.rng.choice(scene.anyone()), said)


def verdict_of_a_stage(scene: Scene) -> Iterator[Tale]:
    """The same by a stage of the route that is not the judge, perhaps with a seal that is another closing's."""
    rng = scene.rng
    for owner, reply, epoch in scene.some(scene.epochs()):
        peers = reply._route.peers[:-1] if reply._route is not None else ()
        for stage in scene.some([one for one in scene.stages() if one.transport.id in peers]):
            seal = rng.choice((b"", rng.randbytes(8), *scene.heard.seals()[-LATELY:]))
            said = msgspec.structs.replace(_verdict(scene, reply, epoch), seal=seal)
            yield Tale(owner, encode(said), speaker=stage.transport)


def _verdict(scene: Scene, reply: Reply, epoch: OwnEpoch) -> wire.Verdict:
    rng, machine = scene.rng, reply._machine
    decided = rng.choice((len(machine._line), epoch.sent, rng.randint(0, epoch.sent)))
    token = rng.choice((0, rng.randrange(scene.village.model.vocab_size)))
    return wire.Verdict(reply.conversation.session, machine.route, epoch.number, decided, token)


def block(scene: Scene) -> Iterator[Tale]:
    """To any stage: as the owner sent it, but with other tokens, or what would come next."""
    rng, width = scene.rng, scene.village.model.shard(0, 1).width
    for _, reply, epoch in scene.some(scene.epochs()):
        route = reply._route
        for flight in scene.some(epoch.flights) if route is not None else ():
            true, digests, tokens = flight.action.block, flight.action.digests, flight.action.tokens
            num_positions = true.num_given + true.num_draft
            if rng.random() < 0.7:
                tokens = tuple(rng.randrange(scene.village.model.vocab_size) for _ in tokens)
            if rng.random() < 0.3:
                digests = rng.randbytes(len(digests))
            further = rng.choice((0, 0, num_positions))
            said = msgspec.structs.replace(true, position=true.position + further, floor=rng.choice((0, true.epoch)))
            index = rng.randrange(len(route.peers))
            buffers = [digests, pack_tokens(list(tokens))]
            if index > 0:
                states = np.ones((num_positions, width), np.float32)
                buffers = [
                    digests,
                    pack_tokens(list(tokens[true.num_given :])),
                    pack_states(states, reply._options.wire),
                ]
            yield notice(route.peers[index], said, buffers)


def closed(scene: Scene) -> Iterator[Tale]:
    """To all stages: nothing stands any more."""
    rng = scene.rng
    for _, reply, epoch in scene.some(scene.epochs()):
        position, token = rng.randint(0, epoch.sent), rng.randrange(scene.village.model.vocab_size)
        said = wire.Closed(reply.conversation.session, reply._machine.route, epoch.number, position, token)
        for peer in reply._route.peers if reply._route is not None else ():
            yield notice(peer, said)


def nack(scene: Scene) -> Iterator[Tale]:
    for owner, reply, epoch in scene.some(scene.epochs()):
        index = scene.rng.randrange(len(reply._route.peers)) if reply._route is not None else 0
        length = scene.rng.randint(0, epoch.sent)
        yield notice(owner, wire.Nack(reply.conversation.session, reply._machine.route, epoch.number, index, length))


def session_lost(scene: Scene) -> Iterator[Tale]:
    """To the owner, and to the stages, which pass it on where it is true."""
    for owner, reply in scene.some(scene.replies()):
        peers = reply._route.peers if reply._route is not None else ()
        index = scene.rng.randrange(max(1, len(peers)))
        said = wire.SessionLost(reply.conversation.session, index, "its worker died", reply._machine.route)
        for receiver in (owner, *peers):
            yield notice(receiver, said)


def close(scene: Scene) -> Iterator[Tale]:
    """To all stages: of a reply, or of what rests between two."""
    for session, _ in scene.some(scene.sessions()):
        for stage in scene.stages():
            yield notice(stage.transport.id, wire.Close(session))


def park(scene: Scene) -> Iterator[Tale]:
    for session, route in scene.some(scene.sessions()):
        for stage in scene.stages():
            yield notice(stage.transport.id, wire.Park(session, route, scene.rng.choice((0.001, 300.0))))


def squat(scene: Scene) -> Iterator[Tale]:
    """Open another's session, before its owner or after it, in the own name or in the owner's."""
    rng = scene.rng
    owners = {peer: one.transport.contact for one in scene.drafters() for peer in (one.transport.id,)}
    for session, route in scene.some(scene.sessions()):
        for stage in scene.stages():
            shard = stage.engine.shard
            spans = ((0, shard.start), (shard.start, shard.end), (shard.end, shard.num_layers))
            places = tuple(wire.StagePlace(scene.contact, start, end) for start, end in spans if start < end)
            owner = rng.choice((scene.contact, *owners.values()))
            number, length = route + rng.choice((0, 1, 5)), rng.choice((1, 100))
            asked = wire.WireSampling(seed=rng.getrandbits(32))
            said = wire.Open(session, number, int(shard.start > 0), shard.model_id, owner, asked, length, 3600.0, "f32")
            yield scene.ask(stage.transport.id, said, [encode_body(wire.OpenStages(places)), bytes(8)])


# --- forged, of what clients and drafters say to each other


def cancel(scene: Scene) -> Iterator[Tale]:
    for drafter, delivery in scene.some(scene.deliveries()):
        yield notice(drafter, replies.Cancel(delivery.request))


def piece(scene: Scene) -> Iterator[Tale]:
    """Text that another drafter is to tell."""
    for _, delivery in scene.some(scene.deliveries()):
        token = scene.rng.randrange(scene.village.model.vocab_size)
        said = replies.Piece(delivery.request, _num_told(delivery), scene.rng.randrange(2))
        yield notice(delivery.client, said, [pack_tokens([token]), b"lies"])


def finished(scene: Scene) -> Iterator[Tale]:
    """The reply is over, well or not."""
    for _, delivery in scene.some(scene.deliveries()):
        error = scene.rng.choice(("", "", "NoPipeline", "BadInput", "Overloaded"))
        said = replies.Finished(delivery.request, "stop" if not error else "", error)
        yield notice(delivery.client, said, [encode_body(replies.Statistics(completion_tokens=_num_told(delivery)))])


def _num_told(delivery: Delivery) -> int:
    """Tokens of a reply that its client should have by now."""
    reply = delivery.reply
    if reply is None:
        return 0
    machine = reply._machine
    return machine._config.num_resumed + len(machine._line) - len(reply.conversation.tokens)


def front_run(scene: Scene) -> Iterator[Tale]:
    """Ask for a reply under the name that another is just asking under."""
    for tale in list(scene.heard.others)[-LATELY:]:
        if request := request_of(tale.frames[0]):
            yield Tale(tale.receiver, tale.frames)
            yield _later(notice(tale.receiver, replies.Cancel(request)))


def resume(scene: Scene) -> Iterator[Tale]:
    """Ask for another's reply by its name; and for one of the own in another's words, as if it were the next turn."""
    rng = scene.rng
    for drafter, delivery in scene.some(scene.deliveries()):
        yield scene.ask(drafter, replies.Generate(delivery.request))
        if delivery.reply is None:
            continue
        line = tuple(delivery.reply._machine.tokens)
        model_id = delivery.reply.conversation.model_id
        body = replies.GenerateBody((), "", line, (), model_id, wire.WireSampling(), 1, (), 4, keep=True)
        own = rng.randbytes(16)
        for request in (delivery.request, own):
            yield scene.ask(drafter, replies.Generate(request), [encode_body(body)])
        yield _later(notice(drafter, replies.Cancel(own)))


def answer(scene: Scene) -> Iterator[Tale]:
    """To whatever somebody else is being asked now, by its number."""
    waiting = scene.pending()
    for peer, other, number in scene.rng.sample(waiting, min(len(waiting), MAX_ANSWERS)):
        if other != scene.own_id:
            message, buffers = scene.rng.choice(_answers(scene, scene.heard.kind_of(other, number)))
            yield Tale(peer, encode(message, buffers, number, reply=True))


def _answers(scene: Scene, kind: int) -> list[tuple[wire.Message, list[bytes]]]:
    """To a request of this tag."""
    rng, empty = scene.rng, encode_body([])
    refused = wire.Refused("a lie", retry=rng.random() < 0.5)
    said: dict[int, list[tuple[wire.Message, list[bytes]]]] = {
        FIND_NODE: [(wire.Nodes(), [empty])],
        FIND_PROVIDERS: [(wire.Providers(), [empty, empty])],
        ANNOUNCE: [(wire.Stored(), [])],
        OPEN: [(wire.Opened(rng.randrange(100)), [])],
        GENERATE: [
            (replies.Accepted(bytes(16), "0" * 64), [pack_tokens([1])]),
            (replies.Finished(bytes(16), "", "BadInput", "a lie"), []),
        ],
    }
    return [(refused, []), *said.get(kind, [(wire.Pong(), [])])]


# --- others' words, and no words at all


def replay(scene: Scene) -> Iterator[Tale]:
    """What others said, verbatim, to whom they said it or to somebody else."""
    rng, heard = scene.rng, scene.heard
    for tale in scene.some(heard.notices if rng.random() < 0.7 else heard.others):
        receiver = tale.receiver if rng.random() < 0.7 else rng.choice(scene.anyone())
        yield Tale(receiver, tale.frames, tale.priority)
        if request := request_of(tale.frames[0]):  # a Generate: it may be served, and is the liar's own then
            yield _later(notice(receiver, replies.Cancel(request)))


def _later(tale: Tale) -> Tale:
    return Tale(tale.receiver, tale.frames, tale.priority, NOT_LONG_S)


def malformed(scene: Scene) -> Iterator[Tale]:
    """No message at all, or one that says too little, too much, or nonsense."""
    rng = scene.rng
    packed = msgspec.msgpack.encode
    session = rng.choice([session for session, _ in scene.sessions()] or [bytes(16)])
    body = encode_body([rng.randrange(100)] * 10)
    whole = packed([rng.randint(0, 3), False, 1000, [22, session, 0, 1, 0, 0, 0, 1, 0, 1]])
    header: Any = rng.choice(
        (
            rng.randbytes(rng.randint(0, 60)),
            whole[: rng.randrange(len(whole))],
            whole + b"\xc0",
            b"\x91" * 3000,
            b"\xdd\xff\xff\xff\xff",
            packed([0, False, 0, [rng.randrange(200), *range(rng.randrange(6))]]),
            packed([0, False, 0, [23, session, -1, 1, 1, 1]]),
            packed([0, False, 0, [27, session, session]]),
            packed([0, False, 0, {"tag": 27}]),
            packed([MAX_REQUEST_ID + 1, True, 0, [5]]),
            packed([rng.randint(0, 1), False, 0, [30, bytes(16)]]),
            packed([rng.randint(0, 1), False, 0, [14, bytes(32)]]),
            packed([1, False, 0, [20, session, 0, 0, "0" * 64, [bytes(32)], [], 1, 1.0, "f32"]]),
        )
    )
    receiver = rng.choice(scene.anyone())
    for _ in range(rng.choice((1, 1, 15))):  # the last of them are too many (net/rpc.py, STRIKES)
        yield Tale(receiver, [header, *rng.choice(([], [body], [b""] * 2, [rng.randbytes(40)]))])


def oversize(scene: Scene) -> Iterator[Tale]:
    rng = scene.rng
    frames: list[bytes] = rng.choice(
        (
            [*encode(wire.Ping()), HUGE],
            [*encode(wire.Ping()), *[HUGE[:-1]] * 3],
            [*encode(wire.Ping()), *[b""] * 9],
            [bytes(MAX_HEADER_BYTES + 1)],
            [HUGE],
            [*encode(wire.Announce(bytes(32)), request_id=1), HUGE[:-1], HUGE[:-1]],
        )
    )
    yield Tale(rng.choice(scene.anyone()), frames, rng.choice((Priority.CONTROL, Priority.BULK)))


PROMPT = ("answer in another's place", "session squatted", "reply begun for another")
"""They come too late unless they are said as soon as something is asked."""
SORTS: dict[str, Callable[[Scene], Iterator[Tale]]] = {
    "forged verdict": verdict,
    "forged block": block,
    "forged closed": closed,
    "forged nack": nack,
    "forged session lost": session_lost,
    "forged close": close,
    "forged park": park,
    "session squatted": squat,
    "forged cancel": cancel,
    "forged piece": piece,
    "forged finished": finished,
    "reply asked for by another": resume,
    "reply begun for another": front_run,
    "answer in another's place": answer,
    "replay": replay,
    "malformed": malformed,
    "oversize": oversize,
    "verdict of a stage that is not the judge": verdict_of_a_stage,
}
