"""What a judge is told of the line, and what it makes of it: carol judges for alice, whose request counts tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from dsdnode.client.part import Part, Way
from dsdnode.engine.fake import FakeModel
from dsdnode.errors import BadInput, PeerMisbehaved
from dsdnode.node.drafter.options import Options
from dsdnode.node.shard import terms
from dsdnode.node.shard.terms import MAX_NOTE_BYTES, Asked, BlockBuffers
from dsdnode.speculation import masks
from dsdnode.speculation.actions import Note, RunChunk
from dsdnode.speculation.shaper import Past, Shaper
from dsdnode.speculation.shaping import Shaping
from dsdnode.speculation.stage.known import KnownLine
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.codec import encode_body
from dsdnode.wire.logprobs import PieceLogprobs, SaidPosition, SaidToken, TokenLogprobs, pack_logprobs, unpack_logprobs
from dsdnode.wire.messages import (
    Block,
    Contact,
    JudgeNote,
    Nack,
    Open,
    OpenStages,
    StagePlace,
    WireAcceptance,
    WireSampling,
)
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.replies import GenerateBody, Piece
from dsdnode.wire.shaping import WireShaping
from dsdnode.wire.tensors import pack_states
from tests.speculation.stages import LINE, SESSION, digests_of, told

SHARD = FakeModel().shard(2, 4)
SOMEBODY = Contact(b"s" * 32, ())
COUNTS = Shaping(presence=1.0)


def carol(shaping: Shaping = COUNTS) -> StageMachine:
    """She judges behind one other stage; alice's prompt has 3 tokens."""
    machine = StageMachine(SESSION, range(4), max_positions=64)
    machine.known = KnownLine(shaping, 3, 3, np.array(LINE[:3] if shaping.looks_back else (), np.int32))
    assert machine.on_open(0.0, 0, 1, 2, 60.0, b"") == 0
    return machine


def receive(
    machine: StageMachine, line: Sequence[int], position: int, num_draft: int, given: Sequence[int], **numbers: int
) -> list[Any]:
    fields: dict[str, Any] = {"route": 0, "epoch": 1, "parent": 0, "base": 0, "floor": 0} | numbers
    num = len(line) - position
    block = Block(SESSION, position=position, num_given=num - num_draft, num_draft=num_draft, **fields)
    digests = b"".join(digests_of(line)[position:])
    states, draft = np.zeros((num, 4), np.float32), tuple(line[len(line) - num_draft :])
    return machine.on_block(0.0, block, digests, draft, states, Note(b"", tuple(given)))


def past_of(actions: list[Any]) -> Past:
    [run] = [action for action in actions if isinstance(action, RunChunk)]
    assert run.past is not None
    return run.past


def test_a_draft_token_counts_behind_itself_and_no_more_once_it_has_fallen() -> None:
    machine = carol()
    past = past_of(receive(machine, LINE[:5], 0, 2, ()))
    assert (past.tokens.tolist(), past.then.tolist()) == ([], [1, 5])
    machine.on_output(0.0, None, (1, 7, 9), 0.1)  # 1 stands, 5 falls: it is 7
    line = (*LINE[:4], 7)
    past = past_of(receive(machine, line, 4, 0, (7,), epoch=2, parent=1, base=4))
    assert (past.tokens.tolist(), past.num_prompt) == ([1, 7], 0)


@pytest.mark.parametrize(
    ("shaping", "tokens", "num_prompt"),
    [
        (Shaping(frequency=1.0), [1, 5], 0),
        (Shaping(repetition=2.0), [3, 1, 4, 1, 5], 3),
        (Shaping(repetition=2.0, last_tokens=3), [4, 1, 5], 1),
        (Shaping(presence=1.0, repetition=2.0, last_tokens=1), [1, 5], 0),
    ],
)
def test_the_prompt_counts_for_repetition_alone(shaping: Shaping, tokens: list[int], num_prompt: int) -> None:
    machine = carol(shaping)
    receive(machine, LINE[:4], 0, 1, ())
    machine.on_output(0.0, None, (1, 5), 0.1)
    past = past_of(receive(machine, LINE[:5], 4, 0, (5,)))
    assert (past.tokens.tolist(), past.num_prompt) == (tokens, num_prompt)


@pytest.mark.parametrize("given", [(), (7, 7), (7, 7, 7)])
def test_a_note_with_more_or_fewer_tokens_than_were_given_is_no_owners(given: tuple[int, ...]) -> None:
    with pytest.raises(PeerMisbehaved, match="tokens of the line for its judge"):
        receive(carol(), LINE[:4], 0, 0, given)


def test_carol_goes_on_from_no_tokens_that_she_was_not_told_of() -> None:
    """On a new route alice says that the line is shorter than what carol has of it: what is behind counts no more."""
    machine = carol()
    receive(machine, LINE[:5], 0, 2, ())
    machine.on_output(0.0, None, (1, 5, 9), 0.1)
    machine.known = KnownLine(COUNTS, 3, 4, np.array([1], np.int32))
    assert machine.on_open(0.0, 1, 1, 2, 60.0, b"".join(digests_of(LINE[:4]))) == 4
    [nack] = told(receive(machine, (*LINE[:5], 9), 5, 0, (9,), route=1, epoch=2, parent=1, base=5))
    assert isinstance(nack, Nack) and nack.length == 0
    [nack] = told(receive(machine, (*LINE[:5], 9), 5, 0, (9,), route=1))
    assert isinstance(nack, Nack) and nack.length == 0
    past = past_of(receive(machine, LINE[:5], 4, 1, (), route=1, epoch=3, base=4))
    assert past.tokens.tolist() == [1, 5]


# --- what comes by wire -------------------------------------------------------------------------------------------


def asked(told_tokens: Sequence[int] = (), num_line: int = 5, index: int = 1) -> Asked:
    message = Open(SESSION, 0, index, SHARD.model_id, SOMEBODY, WireSampling(), 20, 60.0, "f32")
    places = (StagePlace(SOMEBODY, 0, 2), StagePlace(SOMEBODY, 2, 4))
    body = OpenStages(places, WireShaping(presence=1.0), 3, num_line)
    return Asked.of(message, [encode_body(body), b"", b"", pack_tokens(list(told_tokens))], SHARD)


def test_a_judge_is_told_no_more_tokens_than_the_line_has() -> None:
    known = asked([8, 9]).known
    assert known is not None and (known.length, known.num_prompt, known.told.tolist()) == (5, 3, [8, 9])
    assert asked([8, 9], index=0).known is None, "whoever does not judge is told nothing"
    for tokens, num_line in (([1] * 6, 5), ([1], 21), ([97], 5)):
        with pytest.raises(PeerMisbehaved):
            asked(tokens, num_line)


def test_what_will_be_refused_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory's Open has more positions than carol has; her Masks are of more positions than she keeps any of."""
    many = SHARD.context_tokens + 1
    message = Open(SESSION, 0, 1, SHARD.model_id, SOMEBODY, WireSampling(), many, 60.0, "f32")
    body = OpenStages((StagePlace(SOMEBODY, 0, 2), StagePlace(SOMEBODY, 2, 4)), WireShaping(presence=1.0), 3, many)
    monkeypatch.delattr(terms, "unpack_tokens")
    assert Asked.of(message, [encode_body(body), b"", b"", pack_tokens([1] * many)], SHARD).known is None
    monkeypatch.delattr(terms, "split")
    for sizes in ((masks.MAX_PLACES + 1,) * 2, (1, 2)):
        with pytest.raises(PeerMisbehaved, match="masks of positions"):
            terms.told_by([bytes(8 * num) for num in sizes] + [encode_body([])])


def test_other_penalties_are_another_reply() -> None:
    one, same = asked([8, 9]), asked([8])
    assert one.terms == same.terms
    for body in (
        msgspec.structs.replace(one.body, shaping=WireShaping(presence=0.5)),
        msgspec.structs.replace(one.body, num_logprobs=3),
    ):
        assert replace(one, body=body).terms != one.terms


def test_who_draws_without_masks_takes_nobody_s_shelf() -> None:
    shelves, one = masks.Shelves(97), asked()
    alice = shelves.of(b"alice")
    for number in range(masks.MAX_OWNERS):
        assert one.places(shelves, bytes([number])) is None
    found = replace(one, body=msgspec.structs.replace(one.body, masked=True)).places(shelves, b"alice")
    assert found is not None and found.masks is alice


def test_a_lax_drafter_is_exact_where_log_probabilities_are_asked_for() -> None:
    lax = WireAcceptance(0.3)
    options = Options(8, "throughput", "f32", lax)
    body = GenerateBody((), "", (1,), (), "", WireSampling(), 9, (), -1)
    told_of = msgspec.structs.replace(body, num_logprobs=0)
    assert (options._rule(body), options._rule(told_of)) == (lax, WireAcceptance())
    with pytest.raises(BadInput, match="logprobs"):
        options._rule(msgspec.structs.replace(told_of, acceptance=lax))


def test_a_block_has_its_note_and_one_of_a_bounded_size() -> None:
    block = Block(SESSION, 0, 1, 0, 0, 5, 1, 0, 1)
    usual = [bytes(16), b"", pack_states(np.ones((1, 16), np.float32), "f32")]
    note = encode_body(JudgeNote((7,)))
    assert BlockBuffers.of(asked(), block, [*usual, note], SHARD).note == Note(note, (7,))
    for buffers in (usual, [*usual, note, b""], [*usual, b"?"]):
        with pytest.raises(PeerMisbehaved):
            BlockBuffers.of(asked(), block, buffers, SHARD)
    first = [bytes(16), pack_tokens([7])]
    assert BlockBuffers.of(asked(index=0), block, [*first, b"?"], SHARD).note == Note(b"?"), "it is not read there"
    with pytest.raises(PeerMisbehaved, match="65537 bytes"):
        BlockBuffers.of(asked(index=0), block, [*first, bytes(MAX_NOTE_BYTES + 1)], SHARD)


def test_log_probabilities_of_a_verdict_are_of_tokens_that_there_are() -> None:
    rows = [TokenLogprobs(3, -0.5, ((3, -0.5), (4, -1.5))), TokenLogprobs(9, -2.0, ((4, -0.25), (9, -2.0)))]
    data = pack_logprobs(rows)
    assert unpack_logprobs(data, 2, 97) == tuple(rows)
    for wrong in (data[:-4], data + bytes(8), pack_logprobs([TokenLogprobs(97, -1.0, rows[0].top)]),
                  *(pack_logprobs([TokenLogprobs(3, value, rows[0].top)])
                    for value in (float("nan"), float("-inf"), -1e31, 3e38))):  # fmt: skip
        with pytest.raises(PeerMisbehaved):
            unpack_logprobs(wrong, 2, 97)


def said(token: int, num_top: int = 1) -> SaidPosition:
    return SaidPosition(SaidToken(token, -0.5, b"x"), (SaidToken(4, -0.25, b"y"),) * num_top)


def test_log_probabilities_of_a_piece_are_of_its_tokens() -> None:
    body = GenerateBody((), "", (1,), (), "", WireSampling(), 9, (), -1, num_logprobs=1)
    piece = Piece(bytes(16), 0, 0)

    def read(*positions: SaidPosition) -> tuple[SaidPosition, ...]:
        part = Part(bytes(16), body, Way.ASKED, (), "", 0)
        news = part.read(piece, [pack_tokens([5, 6]), b"ab", encode_body(PieceLogprobs(positions))])
        told_of: tuple[SaidPosition, ...] = news.logprobs
        return told_of

    assert read(said(5), said(6)) == (said(5), said(6))
    for wrong in ((), (said(5),), (said(5), said(7)), (said(5), said(6, num_top=2))):
        with pytest.raises(PeerMisbehaved):
            read(*wrong)


def test_a_window_forgets_what_leaves_it() -> None:
    """Two tokens back, over drafts of the chunk and beyond: 1 is punished only where it is among them."""
    shaper = Shaper(Shaping(repetition=2.0, last_tokens=2), Past.of([1, 1, 3], 0, [4, 5]), 8)
    logits = np.array([1, -1, 1, 1, 1, -1, 1, 1], np.float32)
    punished = []
    for drawn in (0, 0, 6, 1):
        punished.append(np.flatnonzero(shaper.shaped(logits) != logits).tolist())
        shaper.follow(drawn)
    assert punished == [[1, 3], [3, 4], [4, 5], [5, 6]]
    assert logits.tolist() == [1, -1, 1, 1, 1, -1, 1, 1], "they are the engine's own"
