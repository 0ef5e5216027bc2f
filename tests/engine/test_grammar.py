"""Grammars in their process: one that stalls or dies hurts nobody but who asked for it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dsdnode.engine import grammar as module
from dsdnode.engine.grammar import GrammarProcess, ProcessGrammar
from dsdnode.engine.ipc import Done, MasksFound, OpenGrammar
from dsdnode.engine.link import WorkerLink
from dsdnode.engine.llama_vocab import load_vocab
from dsdnode.errors import BadInput, EngineLost, ModelRefused, WorkerDied
from dsdnode.models import demo_draft
from dsdnode.speculation.masks import allows
from dsdnode.wire.replies import Constraint

VOCAB = 2048
AB = Constraint("regex", "[ab]{2,3}")


@contextlib.asynccontextmanager
async def process() -> AsyncIterator[GrammarProcess]:
    one = GrammarProcess(demo_draft(), 60)
    try:
        yield one
    finally:
        await one.close()


async def test_a_grammar_in_the_demo_models_tokens_also_after_its_process_was_killed() -> None:
    vocab = load_vocab(demo_draft())
    (a,) = [token for token, piece in enumerate(vocab.pieces()) if piece == b"a"][:1]
    async with process() as one:
        alice, bob = await asyncio.gather(one.open(AB, VOCAB), one.open(AB, VOCAB))
        first, again = await alice.masks([a, a], 0), await bob.masks([a, a], 2)
        assert first.names[2:] == again.names and len(first.names) == 3
        ends = vocab.end_tokens()
        for name, complete in zip(first.names, (False, False, True), strict=True):
            mask = dict(first.fresh)[name]
            assert [allows(mask, end) for end in ends] == [complete] * len(ends) and allows(mask, a)
        os.kill((await one.up()).pid, signal.SIGKILL)
        found = await asyncio.gather(alice.masks([a, a], 0), bob.masks([a, a, a], 3))
        assert [len(one.names) for one in found] == [3, 1] and found[0].names == first.names
        with pytest.raises(BadInput, match="regular expression cannot be used"):
            await one.open(Constraint("regex", "(a"), VOCAB)


async def test_who_asks_for_what_ends_the_process_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mallory's schema sends it into an endless loop: that ends as it does here."""
    async with process() as one:
        bob, mallory = await one.open(AB, VOCAB), await one.open(AB, VOCAB)

        async def spend(link: WorkerLink) -> bool:
            os.kill(link.pid, signal.SIGSTOP)
            os.kill(link.pid, signal.SIGPROF)
            asyncio.get_running_loop().call_soon(os.kill, link.pid, signal.SIGCONT)
            return await ask(link)

        ask = mallory._opened_on
        monkeypatch.setattr(mallory, "_opened", None)
        with pytest.raises(BadInput, match="more than 2 s of a processor"):
            await mallory._try(spend)
        assert len((await bob.masks([], 0)).names) == 1


class Lives:
    """Of processes, one after the other, as a link and as what starts them: what comes of each question after masks."""

    def __init__(self, *answers: MasksFound | WorkerDied) -> None:
        self.turn, self.answers = asyncio.Lock(), list(answers)

    async def up(self) -> Any:
        return self

    async def request(self, packet: Any, *_: object, timeout_s: float) -> tuple[Done | MasksFound, bytes]:
        if isinstance(packet, OpenGrammar):
            return Done(), b""
        answer = self.answers.pop(0)
        if isinstance(answer, WorkerDied):
            raise answer
        return answer, b""


FOUND, KILLED = MasksFound([], []), WorkerDied("the engine's process was ended by SIGKILL")
SPENT = WorkerDied("the engine's process was ended by SIGPROF")


async def test_a_reply_goes_on_however_often_the_process_dies_in_it() -> None:
    """Of memory that others have taken, say; of what mallory asked for twice, or what took too long, she is told."""
    lives: Any = Lives(KILLED, FOUND, KILLED, FOUND, KILLED, FOUND)
    alice = ProcessGrammar(lives, AB, VOCAB)
    for _ in range(3):
        assert (await alice.masks([], 0)).names == []
    for words, *deaths in (("died of it", KILLED, KILLED), ("more than 2 s of a processor", SPENT)):
        lives.answers = [*deaths, FOUND]
        with pytest.raises(BadInput, match=words):
            await ProcessGrammar(lives, AB, VOCAB).masks([], 0)
        assert lives.answers == [FOUND]


async def test_that_the_machine_is_busy_is_no_fault_of_alice_s_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    """She is told so, and may ask elsewhere; asked again, when there is time, she gets her masks."""
    async with process() as one:
        alice, starts = await one.open(AB, VOCAB), 0
        true = one.up

        async def busy() -> WorkerLink:
            nonlocal starts
            starts += 1
            link = await true()
            os.kill(link.pid, signal.SIGSTOP)
            return link

        with monkeypatch.context() as patch:
            patch.setattr(module, "ANSWER_S", 0.1)
            patch.setattr(one, "up", busy)
            with pytest.raises(EngineLost, match="too busy"):
                await alice.masks([], 0)
        assert starts == module.MAX_SILENCES
        assert len((await alice.masks([], 0)).names) == 1


async def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not read again each time that somebody asks."""
    (tmp_path / "model.gguf").write_bytes(b"no model")
    one, true, starts = GrammarProcess(tmp_path / "model.gguf", 60), WorkerLink.spawn, 0

    async def counted(*arguments: Any) -> WorkerLink:
        nonlocal starts
        starts += 1
        return await true(*arguments)

    monkeypatch.setattr(WorkerLink, "spawn", counted)
    for _ in range(2):
        with pytest.raises(ModelRefused):
            await one.open(AB, VOCAB)
    assert starts == 1
    await one.close()
