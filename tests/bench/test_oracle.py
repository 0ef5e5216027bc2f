"""Both demo models whole: ties, and what the draft model would have said."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing

import msgspec
import pytest

from dsdnode.bench.daemons import cpu_s
from dsdnode.bench.oracle import Oracle
from dsdnode.models import demo_target
from dsdnode.sim.traces import _parse
from dsdnode.speculation.sampling import Sampling

pytestmark = pytest.mark.slow

PROMPT = "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?"


async def test_ids_gaps_and_traces() -> None:
    async with Oracle(None, None, Sampling(), 1024) as oracle:
        prompt = await oracle.render(PROMPT)
        text: list[int] = []
        for _ in range(20):
            (output,) = await oracle._run("target", [*prompt, *text], 1)
            assert output.tokens is not None
            text.append(int(output.tokens[0]))
        assert await oracle.gap(prompt) > 1.0
        trace = await oracle.trace(prompt, text)
        assert trace.prompt_tokens == len(prompt)
        assert sum(trace.accepted) >= 18  # its training's own kind of problem
        assert all(0 < sure <= 1 for sure in trace.confidence)
        assert all(0 <= entropy <= 1 for entropy in trace.entropy)
        assert not any(a and b for a, b in zip(trace.accepted, trace.second, strict=True))
        wrong = await oracle.trace(prompt, [*text[:5], *reversed(text[5:])])
        assert sum(wrong.accepted) < 15


async def test_a_model_that_drafts_for_itself_is_always_right_also_over_long_texts() -> None:
    """Both sides at the same positions, pieces of the text included."""
    async with Oracle(None, demo_target(), Sampling(0.8, seed=5), 1024) as oracle:
        prompt = await oracle.render(PROMPT * 12)
        assert len(prompt) > 256
        text: list[int] = []
        for _ in range(6):
            output = (await oracle._run("target", [*prompt, *text], 1))[-1]
            assert output.tokens is not None
            text.append(int(output.tokens[0]))
        assert (await oracle.trace(prompt, text)).accepted == [1] * 6


async def test_a_trace_is_what_the_simulator_reads() -> None:

    async with Oracle(None, None, Sampling(), 1024) as oracle:
        trace = await oracle.trace(await oracle.render(PROMPT), [1617, 353, 306])
        assert len(_parse(msgspec.json.encode(trace), "here")) == 3


async def test_the_target_is_asked_again_when_somebody_has_heard_enough() -> None:
    """A reply of its own that ended early, say."""
    async with Oracle(None, None, Sampling(), 1024) as oracle:
        prompt = await oracle.render(PROMPT)
        heard: list[list[int]] = []
        for _ in range(2):
            heard.append([])
            async with aclosing(oracle.tokens(prompt, 20)) as said:
                async for token in said:
                    heard[-1].append(token)
                    if len(heard[-1]) == 5:
                        break
        assert heard[0] == heard[1] and len(heard[0]) == 5
        assert (await oracle.cpu_s())[0] > 0


def test_a_process_that_has_ended_has_spent_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert cpu_s(ended.pid) == (0.0, 0.0)
