"""Dora drafts for sam's model, and reads with its own tokenizer: sam gives it, mallory lies about it."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeTextEngine, fake_text
from dsdnode.engine.pairs import Fit
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import ModelRefused, Overloaded, PeerMisbehaved, PeerUnavailable
from dsdnode.identity import peer_id
from dsdnode.node.drafter import pairing
from dsdnode.node.drafter import texts as module
from dsdnode.node.drafter.texts import MAX_ASKED, MAX_KEPT, MAX_OPEN, Draft, Reading, Texts
from dsdnode.node.shard import texts as given
from dsdnode.node.shard.texts import TextGiver
from dsdnode.swarm.catalogue import Model
from dsdnode.swarm.pings import Pings
from dsdnode.wire.messages import TEXT_PIECE_BYTES, FindText, Refused, TextPiece
from tests.node.swarm import DRAFT, TARGET, FakeSwarm, fake_swarm, tokens_of
from tests.placement.offers import shard

pytestmark = pytest.mark.usefixtures("quiet")
OWN = TARGET.shard(0, 4).tokenizer_hash


def said(tokenizer: str = OWN, turned: bool = True, ends: Sequence[int] = (0,), foreign: Sequence[int] = ()) -> bytes:
    """A text file: a made-up language."""
    told = {"tokenizer": tokenizer, "turned": turned, "ends": list(ends), "foreign": list(foreign), "reason": ""}
    return json.dumps(told).encode()


class Read(FakeTextEngine):
    """Reads backwards where its file says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(DRAFT)
        self.told: dict[str, Any] = json.loads(path.read_bytes())
        self.closed = False

    async def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        return await super().tokenize(text[::-1] if self.told["turned"] else text)

    async def vocabulary(self) -> Vocab:
        return Vocab((await super().vocabulary()).pieces, frozenset(self.told["ends"]), True)

    async def close(self) -> None:
        self.closed = True


async def compare(path: Path) -> tuple[str, Fit]:
    told = Read(path).told
    return told["tokenizer"], Fit(told["reason"], tuple(told["foreign"]))


READS = Draft(compare, Read)
TALK = GenerateRequest(messages=({"role": "user", "content": "hello"},), max_tokens=60, draft_max=4)


def story(folder: Path, tell: Callable[[FakeSwarm], Awaitable[None]]) -> None:
    async def told() -> None:
        async with fake_swarm(folder) as swarm, asyncio.timeout(60):
            await tell(swarm)

    asyncio.run(told())


async def prompt_of(told: bytes, folder: Path) -> list[int]:
    path = folder / "told"
    path.write_bytes(told)
    return await Read(path).render([("user", "hello")])


# --- a whole reply ------------------------------------------------------------------------------------------------


def test_the_target_reads_the_conversation_and_ends_the_reply(tmp_path: Path) -> None:
    """Whatever the drafter's own tokenizer makes of it."""

    async def tell(swarm: FakeSwarm) -> None:
        prompt = await prompt_of(said(), tmp_path)
        expected = fake_text(TARGET, prompt, 60)
        end = expected[20]
        target = replace(TARGET, text=said(ends=[end]))
        await swarm.add("sam", layers=(0, 2), target=target)
        await swarm.add("sue", layers=(2, 4), target=target)
        await swarm.add("dora", drafts=True, texts=READS)
        tokens, finished = await tokens_of(await swarm.client(), TALK)
        own = await FakeTextEngine(DRAFT).render([("user", "hello")])
        assert tokens == expected[: expected.index(end)] != fake_text(TARGET, own, 60)
        assert finished.reason == "stop" and finished.stats.drafted > 0

    story(tmp_path, tell)


def test_ids_that_differ_are_neither_shown_to_the_draft_model_nor_proposed(tmp_path: Path) -> None:
    """A fourth of all ids, and the tokenizer has another name: the text is the target's."""

    async def tell(swarm: FakeSwarm) -> None:
        foreign = list(range(40, 64))
        target = replace(TARGET, padding=1, text=said("ee" * 32, foreign=foreign))
        target = replace(target, text=said(target.shard(0, 4).tokenizer_hash, foreign=foreign))
        expected = fake_text(target, await prompt_of(target.text, tmp_path), 60)
        assert set(expected) & set(foreign)
        await swarm.add("sam", layers=(0, 4), target=target)
        dora = await swarm.add("dora", drafts=True, texts=READS)
        seen: set[int] = set()
        assert dora.draft is not None
        forward = dora.draft.forward

        async def watched(chunks: Any) -> Any:
            seen.update(token for chunk in chunks for token in chunk.inputs.tolist())
            return await forward(chunks)

        dora.draft.forward = watched  # type: ignore[method-assign]
        tokens, finished = await tokens_of(await swarm.client(), replace(TALK, ignore_eos=True))
        assert tokens == expected
        assert not seen & set(foreign)
        assert finished.stats.drafted > 0

    story(tmp_path, tell)


def test_a_draft_model_all_of_whose_proposals_are_foreign_changes_nothing(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        target = replace(TARGET, text=said(foreign=range(97)))
        await swarm.add("sam", layers=(0, 4), target=target)
        await swarm.add("dora", drafts=True, texts=READS)
        tokens, finished = await tokens_of(await swarm.client(), replace(TALK, ignore_eos=True))
        assert tokens == fake_text(target, await prompt_of(target.text, tmp_path), 60)
        assert finished.stats.drafted == 0

    story(tmp_path, tell)


def test_a_draft_model_that_fits_nothing_is_told_why(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        told = json.loads(said()) | {"reason": "tokens at 1 ('b' and 'c')"}
        other = replace(TARGET, padding=1)
        told["tokenizer"] = other.shard(0, 4).tokenizer_hash
        await swarm.add("sam", layers=(0, 4), target=replace(other, text=json.dumps(told).encode()))
        with pytest.raises(ModelRefused, match=r"tokens at 1 \('b' and 'c'\).*name a draft model of the target's"):
            await swarm.add("dora", drafts=True, texts=READS)

    story(tmp_path, tell)


# --- who gives the file -------------------------------------------------------------------------------------------

Giver = Callable[[FindText], tuple[Any, list[bytes]]]
LONG = said() + b" " * (2 * TEXT_PIECE_BYTES)


def honest(text: bytes) -> Giver:
    def give(asked: FindText) -> tuple[Any, list[bytes]]:
        piece = text[asked.piece * TEXT_PIECE_BYTES :][:TEXT_PIECE_BYTES]
        return TextPiece(len(text)), [zlib.compress(piece)]

    return give


def model_of(text: bytes, *hosts: Any, name: str = "sam's") -> Model:
    keys = [one.transport.contact.public_key for one in hosts]
    shards = tuple(msgspec.structs.replace(shard(1, 0, 4), public_key=key) for key in keys)
    text_hash = sha256(text).hexdigest()
    model_id = sha256(f"{name} {text_hash}".encode()).hexdigest()
    return Model(model_id, name, 4, 16, 97, OWN, 4096, ((0, 4, 1),), 1, "", shards, text_hash)


class Hosts:
    """Peers that answer FindText as they like, and dora who asks them."""

    def __init__(self, swarm: FakeSwarm, folder: Path, *givers: Giver) -> None:
        self.asked: list[int] = []
        self.rpcs = []
        for number, give in enumerate(givers):
            rpc = swarm.stranger(f"giver {number}")
            rpc.on_request(FindText, self._of(number, give))
            self.rpcs.append(rpc)
        self.dora = swarm.stranger("dora herself")
        self.struck: list[str] = []
        self.dora.misbehaved = lambda peer, why: self.struck.append(str(why))  # type: ignore[method-assign]
        own = FakeTextEngine(DRAFT)
        self.texts = Texts(self.dora, Reading(own, Vocab([], frozenset(), True)), OWN, READS, folder / "texts")

    def _of(self, number: int, give: Giver) -> Any:
        async def answer(peer: bytes, message: FindText, buffers: list[bytes]) -> tuple[Any, list[bytes]]:
            self.asked.append(number)
            return give(message)

        return answer


LIES: dict[str, tuple[Giver, bool]] = {
    "another file": (honest(said(turned=False)), True),
    "an answer too short": (lambda _: (TextPiece(100), [zlib.compress(b"x" * 99)]), True),
    "an answer too long": (lambda _: (TextPiece(100), [zlib.compress(bytes(1 << 24))]), True),
    "no zlib": (lambda _: (TextPiece(100), [b"x" * 100]), True),
    "a file that shrinks": (
        lambda asked: (TextPiece(3 * TEXT_PIECE_BYTES if not asked.piece else 7), [zlib.compress(bytes(1 << 20))]), True
    ),
    "nothing": (lambda _: (TextPiece(100), []), False),
    "a refusal": (lambda _: (Refused("no"), []), False),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_who_gives_another_file_is_found_out_and_the_next_one_asked(lie: str, tmp_path: Path) -> None:
    give, is_strike = LIES[lie]

    async def tell(swarm: FakeSwarm) -> None:
        hosts = Hosts(swarm, tmp_path, give, give, give, honest(LONG))
        reading = await hosts.texts.of(model_of(LONG, *hosts.rpcs))
        assert isinstance(reading.text, Read) and reading.text.told["turned"]
        assert 3 in hosts.asked and bool(hosts.struck) == (is_strike and len(set(hosts.asked)) > 1)
        assert await hosts.texts.of(model_of(LONG, *hosts.rpcs)) is reading
        assert hosts.asked.count(3) == 3, "three pieces, once"
        await hosts.texts.close()
        again = Texts(hosts.dora, hosts.texts.own, OWN, READS, tmp_path / "texts")
        await again.of(model_of(LONG))
        await again.close()

    story(tmp_path, tell)


def test_a_piece_that_unpacks_to_far_too_much_takes_no_memory() -> None:
    bomb = zlib.compress(bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(PeerMisbehaved):
        module._unpacked(bomb, 1 << 10)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 18


def test_where_nobody_gives_it_so_many_are_asked_and_it_is_said(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        hosts = Hosts(swarm, tmp_path, *[LIES["a refusal"][0]] * 20)
        model = model_of(LONG, *hosts.rpcs)
        for _ in range(2):  # the second time nobody is asked
            with pytest.raises(PeerUnavailable, match=r"none of its shards gives the tokenizer of sam's .*: no"):
                await hosts.texts.of(model)
            assert len(hosts.asked) == MAX_ASKED

    story(tmp_path, tell)


def test_a_model_that_says_it_has_another_tokenizer_than_it_has_is_not_drafted_for(tmp_path: Path) -> None:
    """Mallory's records claim sam's tokenizer, so that dora is asked to read with hers."""

    async def tell(swarm: FakeSwarm) -> None:
        text = said(tokenizer="ff" * 32)
        hosts = Hosts(swarm, tmp_path, honest(text))
        with pytest.raises(ModelRefused, match="is not what its shards say"):
            await hosts.texts.of(model_of(text, *hosts.rpcs))

    story(tmp_path, tell)


def test_a_file_that_was_changed_on_the_disk_is_got_anew(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        hosts = Hosts(swarm, tmp_path, honest(said()))
        model = model_of(said(), *hosts.rpcs)
        path = tmp_path / "texts" / f"{model.text_hash}.gguf"
        path.parent.mkdir()
        path.write_bytes(said(turned=False))
        assert (await hosts.texts.of(model)).text.told["turned"]  # type: ignore[attr-defined]
        assert path.read_bytes() == said()

    story(tmp_path, tell)


def test_a_client_is_told_that_it_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        monkeypatch.setattr(module, "WAIT_S", 0.0)
        go, asked_twice = asyncio.Event(), asyncio.Event()
        hosts = Hosts(swarm, tmp_path, honest(LONG))
        give = honest(LONG)

        async def slow(peer: bytes, message: FindText, buffers: list[bytes]) -> tuple[Any, list[bytes]]:
            if message.piece == 1:
                asked_twice.set()
                await go.wait()
            return give(message)

        hosts.rpcs[0].on_request(FindText, slow)
        model = model_of(LONG, *hosts.rpcs)
        with pytest.raises(Overloaded, match="ask again"):
            await hosts.texts.of(model)
        await asked_twice.wait()
        with pytest.raises(Overloaded, match="1 of 3 MiB"):
            await hosts.texts.of(model)
        go.set()
        await hosts.texts._opening[model.model_id]
        await hosts.texts.of(model)

    story(tmp_path, tell)


def test_whoever_invents_models_pushes_out_her_own_alone(tmp_path: Path) -> None:
    """So many processes, so many files; and what is used most stays."""

    async def tell(swarm: FakeSwarm) -> None:
        files = [said(ends=[number]) for number in range(30)]
        by_hash = {sha256(one).hexdigest(): honest(one) for one in files}
        hosts = Hosts(swarm, tmp_path, lambda asked: by_hash[asked.text_hash](asked))
        models = [model_of(one, *hosts.rpcs) for one in files]
        for _ in range(3):
            sams = await hosts.texts.of(models[0])
        for model in models[1:]:
            reading = await hosts.texts.of(model)
        assert not sams.text.closed and not reading.text.closed  # type: ignore[attr-defined]
        assert await hosts.texts.of(models[0]) is sams
        assert len(hosts.texts._open) == MAX_OPEN
        assert len(list((tmp_path / "texts").iterdir())) == MAX_KEPT
        await hosts.texts.close()
        assert sams.text.closed  # type: ignore[attr-defined]

    story(tmp_path, tell)


def test_a_shard_gives_its_own_file_so_often_to_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "MAX_FILES_AN_HOUR", 4)

    async def tell(swarm: FakeSwarm) -> None:
        num_reads = 0

        async def read() -> bytes:
            nonlocal num_reads
            num_reads += 1
            return LONG

        sam, dora, carol, eve = (swarm.stranger(name) for name in ("sam", "dora", "carol", "eve"))
        own = sha256(LONG).hexdigest()
        TextGiver(sam, own, read, lambda peer: peer != peer_id(eve.transport.contact.public_key))
        sources = {dora: "198.51.100.7", carol: "203.0.113.9"}
        for rpc, source in sources.items():
            rpc.transport.source = source  # type: ignore[attr-defined]

        async def asks(rpc: Any, *question: Any) -> Any:
            answer, buffers = await rpc.request(sam_id, FindText(*question), timeout_s=5)
            return answer if isinstance(answer, Refused) else (answer.num_bytes, zlib.decompress(buffers[0]))

        sam_id = next(peer for peer, one in swarm.hub.transports.items() if one is sam.transport)
        assert "does not serve you" in (await asks(eve, own, 0)).reason
        assert "another text file" in (await asks(dora, "ab" * 32, 0)).reason
        assert "has 3 pieces" in (await asks(dora, own, 3)).reason
        pieces = [await asks(dora, own, number) for number in range(3)]
        assert b"".join(data for _, data in pieces) == LONG and {size for size, _ in pieces} == {len(LONG)}
        for _ in range(3 * 4 - 3):
            assert not isinstance(await asks(dora, own, 0), Refused)
        refused = await asks(dora, own, 0)
        assert "often enough" in refused.reason and refused.retry
        assert not isinstance(await asks(carol, own, 0), Refused)
        assert num_reads == 1

    story(tmp_path, tell)


def test_a_draft_model_waits_for_a_target_that_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dora is there first; then comes one that she does not fit, then sam's, under another tokenizer's name."""
    monkeypatch.setattr(pairing, "LOOK_S", 0.01)

    async def tell(swarm: FakeSwarm) -> None:
        other = replace(TARGET, padding=1).shard(0, 4).tokenizer_hash
        unfit = json.dumps(json.loads(said(other)) | {"reason": "tokens at 1"}).encode()
        by_hash = {sha256(one).hexdigest(): honest(one) for one in (unfit, said(other))}
        hosts = Hosts(swarm, tmp_path, lambda asked: by_hash[asked.text_hash](asked))
        models = [replace(model_of(one, *hosts.rpcs), tokenizer_hash=other) for one in (unfit, said(other))]
        looks = [[], models[:1], models[:1], models[1:]]

        async def look() -> list[Model]:
            return looks.pop(0)

        assert await pairing.wait_for_target(hosts.texts, Pings(hosts.dora), DRAFT.shard(0, 4), look)
        assert hosts.texts.tokenizer_hash == other and not looks

    story(tmp_path, tell)
