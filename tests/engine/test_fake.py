"""The fake must be as strict as the contract, or protocol tests prove nothing."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dsdnode.engine.fake import FakeEngine, FakeModel, fake_text
from dsdnode.engine.port import Chunk
from dsdnode.errors import EngineLost, Overloaded
from dsdnode.speculation.sampling import Sampling, draw

PROMPT = [3, 14, 15, 9, 2, 6]
SAMPLING = Sampling(0.8, seed=7)


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


async def ring(engines: list[FakeEngine], chunk: Chunk, wire: type = np.float32) -> list[int]:
    rows: Any = chunk.inputs
    for engine in engines:
        last = engine.shard.last
        part = Chunk(chunk.sequence, chunk.position, rows, chunk.num_draws if last else 0, chunk.sampling, chunk.extend)
        [output] = await engine.forward([part])
        rows = output.states.astype(wire).astype(np.float32) if output.states is not None else output.tokens
    return list(rows)


@pytest.mark.parametrize("cuts", [[0, 4], [0, 1, 4], [0, 2, 3, 4], [0, 1, 2, 3, 4]])
async def test_text_is_the_same_however_the_layers_are_cut(cuts: list[int]) -> None:
    model = FakeModel()
    engines = [FakeEngine(model, start, end) for start, end in pairwise(cuts)]
    text = await ring(engines, Chunk(5, 0, tokens(*PROMPT), 1, SAMPLING), np.float16)
    while len(text) < 20:
        text += await ring(engines, Chunk(5, len(PROMPT) + len(text) - 1, tokens(text[-1]), 1, SAMPLING), np.float16)
    assert text == fake_text(model, PROMPT, 20, SAMPLING)


async def test_block_rollback_copy_and_extension_agree_with_one_by_one() -> None:
    model, engine = FakeModel(), FakeEngine(FakeModel())
    want = fake_text(model, PROMPT, 9, SAMPLING)
    [first] = await engine.forward([Chunk(0, 0, tokens(*PROMPT), 1, SAMPLING, extend=4)])
    assert first.tokens.tolist() == want[:5]
    await engine.truncate(0, len(PROMPT))
    [wrong] = await engine.forward([Chunk(0, len(PROMPT), tokens(1, 2, 3), 3, SAMPLING)])
    assert wrong.tokens.tolist() != want[1:4]
    await engine.copy(0, 9, len(PROMPT))
    await engine.release(0)
    [right] = await engine.forward([Chunk(9, len(PROMPT), tokens(*want[:8]), 8, SAMPLING)])
    assert right.tokens.tolist() == want[1:9]


async def test_second_choices_and_distributions_are_of_the_very_draws() -> None:
    """Plain numpy on the model's own logits; of an extended chunk all draws have them."""
    model, engine = FakeModel(), FakeEngine(FakeModel())
    [plain] = await engine.forward([Chunk(0, 0, tokens(*PROMPT), 2, SAMPLING, extend=3)])
    [full] = await engine.forward([Chunk(1, 0, tokens(*PROMPT), 2, SAMPLING, extend=3, runners_up=True, num_top=5)])
    assert plain.runners_up is None
    assert plain.top is None
    assert full.tokens.tolist() == plain.tokens.tolist()
    assert full.probabilities.tolist() == plain.probabilities.tolist()
    hashes: tuple[int, ...] = ()
    line = [*PROMPT, *full.tokens[1:].tolist()]
    for position, token in enumerate(line[:-1], 1):
        hashes = model.step(hashes, 0, model.num_layers, token)
        index = position - len(PROMPT) + 1
        if index < 0:
            continue
        logits = model.logits(hashes[-1]).copy()
        chances = np.exp(logits) / np.exp(logits).sum()
        assert full.top.tokens[index].tolist() == np.argsort(-logits, kind="stable")[:5].tolist()
        assert full.top.probabilities[index] == pytest.approx(np.sort(chances)[:-6:-1], rel=1e-5)
        assert full.top.entropies[index] == pytest.approx(-(chances * np.log(chances)).sum() / np.log(97), rel=1e-5)
        second = int(full.runners_up[index])
        assert full.runner_up_probabilities[index] == pytest.approx(chances[second], rel=1e-5)
        logits[full.tokens[index]] = -np.inf
        assert second == draw(logits, position, SAMPLING)
    assert index == 4


async def test_everything_cached_before_decides() -> None:
    model = FakeModel()
    assert fake_text(model, [1, *PROMPT], 8) != fake_text(model, [2, *PROMPT], 8)


async def test_draft_agrees_as_often_as_told() -> None:
    target, draft = FakeModel(), FakeModel(agreement=0.8)
    text = fake_text(target, PROMPT, 400)
    [output] = await FakeEngine(draft).forward([Chunk(0, 0, tokens(*PROMPT, *text), 400, Sampling())])
    agreed = np.mean(output.tokens[:-1] == np.array(text[1:]))
    assert 0.74 < agreed < 0.86


@pytest.mark.parametrize("position", [3, 7])
async def test_gaps_and_overlaps_are_bugs(position: int) -> None:
    engine = FakeEngine(FakeModel())
    await engine.forward([Chunk(0, 0, tokens(*PROMPT))])
    with pytest.raises(AssertionError):
        await engine.forward([Chunk(0, position, tokens(1))])
    with pytest.raises(AssertionError):
        await engine.forward([Chunk(0, 6, tokens(1)), Chunk(0, 7, tokens(1))])


async def test_full_cache_is_an_overload_and_keeps_the_state() -> None:
    engine = FakeEngine(FakeModel(), context_tokens=8)
    await engine.forward([Chunk(0, 0, tokens(*PROMPT))])
    with pytest.raises(Overloaded):
        await engine.forward([Chunk(1, 0, tokens(*PROMPT))])
    await engine.copy(0, 1, 6)  # shared cells count once
    await engine.forward([Chunk(1, 6, tokens(1, 2), 1, Sampling())])
    assert engine.num_cells == 8


async def test_death_is_told_to_everyone_and_forgets_everything() -> None:
    engine = FakeEngine(FakeModel(), cost=lambda num_positions: 3600.0)
    losses: list[int] = []
    engine.on_lost(lambda _: losses.append(1))
    waiting = [asyncio.create_task(engine.forward([Chunk(i, 0, tokens(1))])) for i in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    engine.die()
    for task in waiting:
        with pytest.raises(EngineLost):
            await task
    assert losses == [1]


async def test_a_lost_sequence_must_begin_anew() -> None:
    engine = FakeEngine(FakeModel())
    await engine.forward([Chunk(0, 0, tokens(*PROMPT))])
    engine.die()
    with pytest.raises(EngineLost):
        await engine.forward([Chunk(0, 6, tokens(1))])
    [output] = await engine.forward([Chunk(0, 0, tokens(*PROMPT), 1, Sampling())])
    assert output.tokens.tolist() == fake_text(FakeModel(), PROMPT, 1)
