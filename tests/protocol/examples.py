"""Vectors of bytes on the wire: a header of every message there is, headers to be refused, whole messages with buffers.

Their story: Carol, a client, asks Bob, a drafter, for a reply; Alice and Dave host the layers.
"""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import numpy as np

from dsdnode.dht.ids import MODELS_KEY
from dsdnode.errors import PeerMisbehaved
from dsdnode.wire.codec import Envelope, decode, encode, encode_body
from dsdnode.wire.logprobs import PieceLogprobs, SaidPosition, SaidToken
from dsdnode.wire.manifests import ManifestFile, ManifestTensor, WeightsManifest, pack_held, sign_manifest
from dsdnode.wire.masks import LackMasks, Masks
from dsdnode.wire.messages import (
    PROTOCOL_VERSION,
    Announce,
    Block,
    Close,
    Closed,
    FindMe,
    FindNode,
    FindProviders,
    FindRelay,
    FindText,
    Hello,
    JudgeNote,
    Message,
    Nack,
    Nodes,
    Open,
    Opened,
    OpenStages,
    Park,
    Ping,
    Pong,
    Providers,
    Reached,
    Refused,
    RelayAt,
    SessionLost,
    StagePlace,
    Stored,
    TextPiece,
    Trace,
    Traced,
    Verdict,
    Visit,
    Welcome,
    WireAcceptance,
    WireSampling,
    session_of,
)
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.paths import FindPath, Move, Moved, Path, Punch, PunchAt, PunchNow
from dsdnode.wire.pieces import FindWeights, GetWeights, HasWeights, Weights
from dsdnode.wire.records import pack_contacts, pack_records, sign_record
from dsdnode.wire.replies import (
    Accepted,
    Cancel,
    ChatMessage,
    Finished,
    Generate,
    GenerateBody,
    Piece,
    ReadText,
    Routed,
    TextRead,
    Waiting,
)
from dsdnode.wire.shaping import WireShaping
from dsdnode.wire.tensors import pack_states
from tests.protocol import peers
from tests.protocol.figures import line_digests

SESSION = session_of(peers.identity_of("bob").peer_id, bytes(range(8)))
REQUEST = bytes(range(16, 32))
SAMPLING = WireSampling(0.7, 40, 0.95, 0.05, 1234)
KEY = MODELS_KEY
SEAL = bytes(range(8))


def _open() -> Open:
    return Open(SESSION, 0, 0, peers.MODEL_ID, peers.contact_of("bob"), SAMPLING, 2048, 60.0, "f16")


def _envelopes() -> list[Envelope]:
    """One of each kind, in the order of their tags."""
    target = peers.identity_of("carol").peer_id
    times: tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]] = ((12.5,), (0.25,), (1,))
    return [
        Envelope(Hello(PROTOCOL_VERSION, peers.contact_of("carol"), ("f32", "f16", "q8"), peers.NONCE, b"", False)),
        Envelope(Welcome(PROTOCOL_VERSION, ("f32", "f16", "q8"), b"")),
        Envelope(Refused("all 8 sessions are taken", True), request_id=7, reply=True),
        Envelope(Ping(), request_id=1, deadline_ms=2000),
        Envelope(Pong(), request_id=1, reply=True),
        Envelope(Move()),
        Envelope(Moved()),
        Envelope(FindPath(("tcp://192.0.2.7:29170",)), request_id=6, deadline_ms=5000),
        Envelope(Path(()), request_id=6, reply=True),
        Envelope(FindNode(target), request_id=2, deadline_ms=3000),
        Envelope(Nodes(), request_id=2, reply=True),
        Envelope(FindProviders(KEY), request_id=3, deadline_ms=3000),
        Envelope(Providers(), request_id=3, reply=True),
        Envelope(Announce(KEY), request_id=(1 << 63) - 1, deadline_ms=3000),
        Envelope(Stored(), request_id=(1 << 63) - 1, reply=True),
        Envelope(FindMe(("tcp://192.0.2.7:29170",)), request_id=4, deadline_ms=8000),
        Envelope(
            Reached("192.0.2.7", ("tcp://192.0.2.7:29170",), ("tcp://192.0.2.7:29170",)), request_id=4, reply=True
        ),
        Envelope(FindRelay(), request_id=5, deadline_ms=5000),
        Envelope(RelayAt(41234, ("203.0.113.7", "2001:db8::7")), request_id=5, reply=True),
        Envelope(FindText("ab" * 32, 2), request_id=9, deadline_ms=20000),
        Envelope(TextPiece(5928681), request_id=9, reply=True),
        Envelope(Visit(peers.identity_of("alice").public_key, "tcp://192.0.2.7:29170")),
        Envelope(_open(), request_id=300, deadline_ms=4000),
        Envelope(Opened(17), request_id=300, reply=True),
        Envelope(Block(SESSION, 0, 3, 2, 20, 20, 1, 4, 2, *times)),
        Envelope(Verdict(SESSION, 0, 3, 23, 4711, (12.5, 14.0), (0.25, 0.5), (1, 0), (22,), SEAL)),
        Envelope(Closed(SESSION, 0, 3, 23, 4711, (22,), SEAL)),
        Envelope(Nack(SESSION, 0, 3, 1, 19)),
        Envelope(SessionLost(SESSION, 1, "its worker died", 0, True)),
        Envelope(Close(SESSION)),
        Envelope(Park(SESSION, 0, 300.0)),
        Envelope(Trace(SESSION, 0, 3, 24), request_id=70001, deadline_ms=2000),
        Envelope(Traced(2, "nobody listens at tcp://192.0.2.7:29170"), request_id=70001, reply=True),
        Envelope(Generate(REQUEST), request_id=70000, deadline_ms=10000),
        Envelope(Accepted(REQUEST, peers.MODEL_ID, WireAcceptance(0.3, True)), request_id=70000, reply=True),
        Envelope(Piece(REQUEST, 2, 2)),
        Envelope(Waiting(REQUEST, "waiting for layers 4:8 (bob does not answer)")),
        Envelope(Routed(REQUEST, (("ab" * 32, 0, 4), ("cd" * 32, 4, 8)))),
        Envelope(Finished(REQUEST, "stop")),
        Envelope(Cancel(REQUEST)),
        Envelope(ReadText(), request_id=70002, deadline_ms=10000),
        Envelope(TextRead(), request_id=70002, reply=True),
        Envelope(Punch("192.0.2.7", (40001, 40002), "tcp://192.0.2.7:29170", False), request_id=8, deadline_ms=6000),
        Envelope(PunchAt("198.51.100.7", (), "", 204.5), request_id=8, reply=True),
        Envelope(PunchNow()),
        Envelope(Masks(SESSION)),
        Envelope(LackMasks(SESSION, (bytes(range(8)),))),
        Envelope(FindWeights("ab" * 32), request_id=9, deadline_ms=10000),
        Envelope(HasWeights(), request_id=9, reply=True),
        Envelope(GetWeights("ab" * 32, "blk.4.ffn_up.weight", 1048576, 65536), request_id=10, deadline_ms=30000),
        Envelope(Weights(), request_id=10, reply=True),
    ]


def _header(envelope: Envelope) -> dict[str, Any]:
    """Raises AssertionError unless the code reads its own bytes back."""
    message = envelope.message
    frames = encode(message, (), envelope.request_id, envelope.reply, envelope.deadline_ms)
    assert decode(frames) == envelope
    tag = int(str(message.__struct_config__.tag))
    return {
        "message": type(message).__name__,
        "fields": list(message.__struct_fields__),
        "array": [envelope.request_id, envelope.reply, envelope.deadline_ms, [tag, *peers.spelled(message)]],
        "header": frames[0].hex(),
    }


def _refused() -> list[tuple[str, Any]]:
    """Whatever else is wrong with a header, these are right but for one thing."""
    close = [27, SESSION]
    return [
        ("a tag that nobody knows", [0, False, 0, [99]]),
        ("one field too many", [0, False, 0, [4, 0]]),
        ("a field too few", [0, False, 0, [27]]),
        ("a session of 15 bytes", [0, False, 0, [27, SESSION[:15]]]),
        ("a float for an integer", [0, False, 0, [28, SESSION, 0.0, 300.0]]),
        ("a boolean for an integer", [0, False, 0, [28, SESSION, True, 300.0]]),
        ("an integer for a boolean", [0, 0, 0, close]),
        ("a negative request id", [-1, False, 0, close]),
        ("a deadline of more than a day", [1, False, 86_400_001, close]),
        ("five in place of four", [0, False, 0, close, 0]),
        ("not a number", [0, False, 0, [28, SESSION, 0, float("nan")]]),
        ("a temperature between 0 and the least", [1, False, 0, [20, SESSION, 0, 0, "0" * 64, [bytes(32), []], [1e-4],
                                                                 9, 60.0, "f32"]]),
        ("a message as a map", [0, False, 0, {"tag": 4}]),
    ]  # fmt: skip


def headers() -> dict[str, Any]:
    cases = [_header(envelope) for envelope in _envelopes()]
    refused = []
    for what, array in _refused():
        data = msgpack.packb(array)
        try:
            decode([data])
        except PeerMisbehaved:
            refused.append({"what": what, "header": data.hex()})
    assert len(refused) == len(_refused())
    about = "Sections 5 to 7: headers, first frames, of all messages; and headers that a receiver must refuse."
    return {"about": about, "cases": cases, "refused": refused}


# --- with buffers -------------------------------------------------------------------------------------------------


def _body(tokens: tuple[int, ...] = (), prompt: tuple[int, ...] = ()) -> GenerateBody:
    words = () if prompt else (ChatMessage("user", "How many are 2 and 3?"),)
    rule = WireAcceptance() if prompt else None
    body = GenerateBody(words, "", prompt, tokens, peers.MODEL_ID, SAMPLING, 64, ("\n\n",), -1, acceptance=rule)
    return msgspec.structs.replace(body, patience_s=45.0) if prompt else body


def _with_tools(body: GenerateBody) -> GenerateBody:
    call = '{"tool_calls":[{"id":"a1b2c3d4e","type":"function","function":{"name":"add","arguments":"{\\"a\\": 2}"}}]}'
    result = '{"tool_call_id":"a1b2c3d4e","name":"add"}'
    messages = (*body.messages, ChatMessage("assistant", "", call), ChatMessage("tool", "5", result))
    tools = '[{"type":"function","function":{"name":"add","description":"","parameters":{"type":"object"}}}]'
    return msgspec.structs.replace(body, messages=messages, tools=tools)


def _stages() -> OpenStages:
    return OpenStages((StagePlace(peers.contact_of("alice"), 0, 16), StagePlace(peers.contact_of("bob"), 16, 32)))


def manifest() -> WeightsManifest:
    tensors = ("#0", "token_embd.weight", "blk.0.attn_q.weight")
    return WeightsManifest(
        peers.identity_of("alice").public_key,
        (ManifestFile("demo.gguf", 4096, bytes([171] * 32)),),
        tuple(ManifestTensor(name, 1024, bytes([index] * 32)) for index, name in enumerate(tensors)),
        True,
        "apache-2.0",
    )


def whole_messages() -> dict[str, Any]:
    record = sign_record(peers.identity_of("alice"), peers.record_of("alice"))
    contacts, digests = [peers.contact_of("alice"), peers.contact_of("bob")], line_digests()
    states = np.array([[0.5, -0.25, 3.0, 0.0], [1.0, 2.0, -4.0, 0.125]], np.float32)
    asked, resumed, stages = _body(), _body((5, 6), (1, 2, 3)), _stages()
    judging = msgspec.structs.replace(_open(), index=1, seal_key=bytes(range(16)))
    shaping = WireShaping(0.5, 0.25, 1.25, 64, ((7, -100.0), (9, 1.5)))
    shaped = msgspec.structs.replace(asked, shaping=shaping, num_logprobs=1)
    counting = msgspec.structs.replace(stages, shaping=shaping, num_prompt=2, num_line=3, num_logprobs=1)
    tokens = SaidToken(5, -0.5, "fü".encode()), SaidToken(6, -0.25, b"nf")
    said = PieceLogprobs(tuple(SaidPosition(one, (one,)) for one in tokens))
    calling, calls = _with_tools(asked), {"open": "[TOOL_CALLS]", "close": ""}
    told = manifest()
    signed = sign_manifest(peers.identity_of("alice"), told)
    packed = encode_body
    cases = [
        _whole("a question for providers", Envelope(FindProviders(KEY), (), 3, False, 3000), ()),
        _whole("its answer", Envelope(Providers(), (pack_contacts(contacts), pack_records([record])), 3, True),
               (contacts, [record])),
        _whole("an announcement", Envelope(Announce(KEY), (record,), 4, False, 3000), ("a signed record",)),
        _whole("a reply is asked for", Envelope(Generate(REQUEST), (packed(asked),), 5, False, 10000), (asked,)),
        _whole("it is resumed", Envelope(Generate(REQUEST), (packed(resumed),), 6, False, 10000), (resumed,)),
        _whole("does it go on?", Envelope(Generate(REQUEST), (), 7, False, 2000), ()),
        _whole("accepted", Envelope(Accepted(REQUEST, peers.MODEL_ID), (pack_tokens([1, 2, 3]),), 5, True),
               ([1, 2, 3],)),
        _whole("a shaped reply is asked for", Envelope(Generate(REQUEST), (packed(shaped),), 5, False, 10000),
               (shaped,)),
        _whole("a piece with log-probabilities",
               Envelope(Piece(REQUEST, 0, 1), (pack_tokens([5, 6]), "fünf".encode(), packed(said))),
               ([5, 6], "fünf", said)),
        _whole("a reply is asked for, in which a tool may be called",
               Envelope(Generate(REQUEST), (packed(calling),), 10, False, 10000), (calling,)),
        _whole("accepted, and how its model calls tools",
               Envelope(Accepted(REQUEST, peers.MODEL_ID), (pack_tokens([1, 2, 3]), packed(calls)), 10, True),
               ([1, 2, 3], calls)),
        _whole("a piece", Envelope(Piece(REQUEST, 0, 1), (pack_tokens([5, 6]), "fünf".encode())), ([5, 6], "fünf")),
        _whole("the end", Envelope(Finished(REQUEST, "stop"), (packed({"completion_tokens": 2}),)),
               ({"completion_tokens": 2},)),
        _whole("to the first of two stages", Envelope(_open(), (packed(stages), b"".join(digests)), 8, False, 4000),
               (stages, "digests after 0, 1, 2 ... tokens of the line")),
        _whole("to the second, which judges", Envelope(judging, (packed(stages), b"".join(digests)), 9, False, 4000),
               (stages, "digests after 0, 1, 2 ... tokens of the line")),
        _whole("a shaped one, to the judge", Envelope(judging,
               (packed(counting), b"".join(digests), b"", pack_tokens([12, 13])), 9, False, 4000),
               (counting, "digests after 0, 1, 2 ... tokens of the line", "no key tokens", [12, 13])),
        _whole("its block, to the judge", Envelope(Block(SESSION, 0, 1, 0, 0, 3, 1, 1, 1, (2.5,), (0.5,), (0,)),
               (b"".join(digests[3:6]), pack_tokens([15]), pack_states(states, "f16"), packed(JudgeNote((14,))))),
               ("3 digests", [15], states.tolist(), JudgeNote((14,)))),
        _whole("a block to the first stage", Envelope(Block(SESSION, 0, 1, 0, 0, 3, 1, 1, 1),
               (b"".join(digests[3:6]), pack_tokens([14, 15]))), ("3 digests", [14, 15])),
        _whole("the same block to the second", Envelope(Block(SESSION, 0, 1, 0, 0, 3, 1, 1, 1, (2.5,), (0.5,), (0,)),
               (b"".join(digests[3:6]), pack_tokens([15]), pack_states(states, "f16"))),
               ("3 digests", [15], states.tolist())),
        _whole("alice tells carol what she has of a model",
               Envelope(HasWeights(), (signed, pack_held([True, False, True])), 9, True),
               (told, "the first and the third tensor")),
    ]  # fmt: skip
    return {"about": "Sections 5 to 10: whole messages, frame by frame, and what their buffers say.", "cases": cases}


def _whole(what: str, envelope: Envelope, meaning: tuple[Any, ...]) -> dict[str, Any]:
    frames = encode(envelope.message, envelope.buffers, envelope.request_id, envelope.reply, envelope.deadline_ms)
    return {
        "what": what,
        "message": type(envelope.message).__name__,
        "frames": [frame.hex() for frame in frames],
        "buffers": [peers.spelled(one) for one in meaning],
    }


def kinds() -> list[type[Message]]:
    return [type(envelope.message) for envelope in _envelopes()]
