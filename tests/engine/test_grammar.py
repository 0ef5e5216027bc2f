"""Grammars in their process: one that stalls or dies hurts nobody but who asked for it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dsdnode.engine import grammar as module
from dsdnode.engine.grammar import GrammarProcess
from dsdnode.engine.link import WorkerLink
from dsdnode.engine.llama_vocab import load_vocab
from dsdnode.errors import BadInput, ModelRefused
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
    """Mallory's schema sends it into an endless loop: here it is stopped."""
    async with process() as one:
        bob, mallory = await one.open(AB, VOCAB), await one.open(AB, VOCAB)

        async def stop(link: WorkerLink) -> bool:
            os.kill(link.pid, signal.SIGSTOP)
            with monkeypatch.context() as patch:
                patch.setattr(module, "ANSWER_S", 0.1)
                return await ask(link)

        ask = mallory._opened_on
        monkeypatch.setattr(mallory, "_opened", None)
        with pytest.raises(BadInput, match="cannot be used"):
            await mallory._try(stop)
        assert len((await bob.masks([], 0)).names) == 1


async def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no model")
    one = GrammarProcess(tmp_path / "model.gguf", 60)
    with pytest.raises(ModelRefused):
        await one.open(AB, VOCAB)
    await one.close()
