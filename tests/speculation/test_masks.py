"""Masks travel small, are what they are called, and whoever lacks one knows that."""

import zlib
from random import Random

import numpy as np
import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.speculation import masks
from dsdnode.speculation.actions import RunChunk, StageAction
from dsdnode.speculation.digest import after, first
from dsdnode.speculation.stage.arrivals import Arrival
from dsdnode.speculation.stage.judge import Judge
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.wire.masks import PackedMask
from dsdnode.wire.messages import Block

VOCAB = 262_144


def mask_of(tokens: list[int], vocab_size: int = VOCAB) -> bytes:
    bits = np.zeros(vocab_size, np.uint8)
    bits[tokens] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def all_but(tokens: list[int]) -> bytes:
    return bytes(255 - byte for byte in mask_of(tokens))


def test_a_mask_comes_back_whatever_it_is_packed_against() -> None:
    rng = Random(3)
    few = [mask_of(sorted(rng.sample(range(VOCAB), size))) for size in (1, 30, 5000, 120_000)]
    for mask in [*few, all_but([7, 9]), b"\xff" * (VOCAB // 8)]:
        bases = [(masks.hash_of(other), other) for other in few if other != mask]
        for packed in (masks.pack(mask), masks.pack(mask, bases)):
            base = dict(bases).get(masks.base_of(packed) or b"")
            assert masks.unpack(packed, VOCAB // 8, base) == mask


def test_few_tokens_all_but_a_few_and_nearly_the_one_before_are_small() -> None:
    rng = Random(5)
    half = sorted(rng.sample(range(VOCAB), VOCAB // 2))
    inside = mask_of(half)
    shorter = mask_of(half[1:])
    assert len(masks.pack(mask_of([3, 70_000, 262_143]))) < 100
    assert len(masks.pack(all_but([3, 70_000, 262_143]))) < 100
    assert len(masks.pack(shorter)) > 30_000 > 100 > len(masks.pack(shorter, [(masks.hash_of(inside), inside)]))


def test_bits_are_counted_from_the_lowest_and_nothing_is_allowed_behind_them() -> None:
    mask = mask_of([0, 9], 16)
    assert mask == b"\x01\x02"
    assert [token for token in range(40) if masks.allows(mask, token)] == [0, 9]
    assert np.flatnonzero(masks.allowed(mask, 40)).tolist() == [0, 9]


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x00",
        b"\x07" + zlib.compress(bytes(2)),
        b"\x00" + zlib.compress(bytes(3)),
        b"\x00" + zlib.compress(bytes(1)),
        b"\x00" + zlib.compress(bytes(1 << 20)),
        b"\x00" + zlib.compress(bytes(2)) + b"more",
        b"\x00" + zlib.compress(bytes(2))[:-1],
        b"\x02" + bytes(8) + zlib.compress(bytes(2)),
    ],
)
def test_what_nobody_packed_is_refused(packed: bytes) -> None:
    with pytest.raises(PeerMisbehaved):
        masks.unpack(packed, 2)


def test_a_megabyte_of_nothing_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self._true = true()
            self.eof, self.unused_data = True, b""

        def decompress(self, data: bytes, most: int = 0) -> bytes:
            sizes.append(len(done := self._true.decompress(data, most)))
            return done

    true = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(PeerMisbehaved):
        masks.unpack(b"\x00" + zlib.compress(bytes(1 << 20)), 2)
    assert sizes == [3]


def test_a_mask_under_a_false_name_or_that_allows_nothing_is_refused() -> None:
    known = masks.Masks(16)
    nothing, one = bytes(2), mask_of([3], 16)
    with pytest.raises(PeerMisbehaved, match="allows nothing"):
        known.keep(masks.hash_of(nothing), masks.pack(nothing))
    with pytest.raises(PeerMisbehaved, match="another one"):
        known.keep(masks.hash_of(nothing), masks.pack(one))
    padding_alone = mask_of([13], 16)  # of a vocabulary of 12
    with pytest.raises(PeerMisbehaved, match="allows nothing"):
        masks.Masks(12).keep(masks.hash_of(padding_alone), masks.pack(padding_alone))


def test_who_lacks_a_mask_or_the_one_it_differs_from_knows_it() -> None:
    places = masks.Places(masks.Masks(16))
    one, other = mask_of([1, 2, 3, 8], 16), mask_of([1, 2, 3, 9], 16)
    names = masks.hash_of(one), masks.hash_of(other)
    packed = b"\x02" + names[0] + zlib.compress(bytes(a ^ b for a, b in zip(one, other, strict=True)))
    places.learn({b"digest 1": names[0], b"digest 2": names[1], b"digest 3": masks.ANY})
    assert places.of([b"digest 1", b"digest 2"]) is None
    assert places.lacking([b"digest 1", b"digest 2", b"digest 3"]) == list(names)
    assert not places.masks.keep(names[1], packed)
    assert places.masks.keep(names[0], masks.pack(one))
    assert places.masks.keep(names[1], packed)
    assert places.of([b"digest 2", b"digest 1", b"digest 3"]) == [other, one, b"\xff\xff"]
    assert places.of([b"digest 2", b"unheard"]) is None
    assert places.lacking([b"unheard"]) == []


def test_a_new_route_knows_nothing_of_the_masks_before() -> None:
    """Alice asks the same, to be written by another schema; that her first reply is over carol never heard."""
    session, secret = b"s" * 16, b"k" * 32
    carol = StageMachine(session, (0, 1), max_positions=64, places=masks.Places(masks.Masks(16)))
    empty, behind = first(secret), after(secret, first(secret), 7)

    def asked(route: int, schema: bytes) -> list[StageAction]:
        """What she does when the block is here, and when its masks are."""
        block = Block(session, route, 1 + route, 0, 0, 0, 1, 0, 1 + route)
        assert carol.on_open(0.0, route, 0, 1, 60.0, empty) == 0
        waits = carol.on_block(0.0, block, empty + behind, (7,), None)
        return [*waits, *carol.on_masks(0.0, {behind: masks.hash_of(schema)}, [told_of(schema)])]

    def told_of(schema: bytes) -> PackedMask:
        return PackedMask(masks.hash_of(schema), masks.pack(schema))

    for route, schema in enumerate((mask_of([1], 16), mask_of([2], 16))):
        (run,) = [one for one in asked(route, schema) if isinstance(one, RunChunk)]
        assert run.masks == (schema,)
        carol.on_output(0.0, None, (1,), 0.001)
        carol._cache.forget()


def test_a_mask_that_is_here_is_not_unpacked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mallory says the same over and over, which costs her a few bytes each time."""
    known, one = masks.Masks(VOCAB), mask_of([3])
    assert known.keep(masks.hash_of(one), masks.pack(one))
    monkeypatch.delattr(masks, "unpack")
    assert known.keep(masks.hash_of(one), masks.pack(one)) and known.get(masks.hash_of(one)) == one
    assert known.get(masks.ANY) is known.get(masks.ANY), "a block of a thousand positions has it once"


class Name(bytes):
    """Counts how often one is compared."""

    num_compared = 0
    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        Name.num_compared += 1
        return bytes.__eq__(self, other)


def test_what_a_judge_lacks_is_looked_through_once_a_block() -> None:
    """Mallory, an owner, has named masks of a thousand positions, and tells none of them."""
    line = [bytes([*divmod(number, 256), 1, 2, 3, 4, 5, 6]) for number in range(1001)]
    places = masks.Places(masks.Masks(16))
    places.learn({digest: Name(b"m" * 6 + digest[:2]) for digest in line})
    judge = Judge(places=places)
    block = Block(b"s" * 16, 0, 1, 0, 0, 0, 1, 999, 0)
    arrivals = [Arrival(block, tuple(line), (7,) * 1000, None, 0.0)] * 2
    asked = [judge.to_ask(arrivals) for _ in range(5)]
    assert [len(names) for names in asked] == [256, 256, 256, 232, 0] and len(set(sum(asked, ()))) == 1000
    assert Name.num_compared < 20 * 1000


def test_what_is_kept_of_one_reply_is_bounded_and_the_last_used_stays() -> None:
    known = masks.Masks(VOCAB)
    every = [mask_of([token]) for token in range(200)]
    for mask in every:
        assert known.keep(masks.hash_of(mask), masks.pack(mask))
        assert known.get(masks.hash_of(every[0])) == every[0]
    kept = [mask for mask in every if masks.hash_of(mask) in known]
    assert len(kept) * VOCAB // 8 <= masks.MAX_KEPT_BYTES
    assert kept[0] == every[0] and kept[-1] == every[-1]
    places = masks.Places(masks.Masks(VOCAB))
    places.learn({number.to_bytes(8, "big"): masks.ANY for number in range(10_000)})
    assert len(places.of([(9_999).to_bytes(8, "big")]) or []) == 1 and places.of([bytes(8)]) is None
