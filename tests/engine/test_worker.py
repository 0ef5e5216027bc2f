"""Real worker processes on the demo draft, through the port: what a daemon sees while they live, and when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio

from dsdnode.engine import client, deaths
from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.llama import LlamaEngine
from dsdnode.engine.port import Chunk, Output
from dsdnode.errors import EngineLost, ModelRefused, Overloaded, PeerMisbehaved, WorkerDied
from dsdnode.speculation.sampling import Sampling

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"
OPTIONS = EngineOptions(threads=1, context_tokens=1024, max_sequences=4)
PROMPT = np.arange(10, 30, dtype=np.int32)
SAMPLING = Sampling(0.7, seed=3)


@pytest.fixture
async def engine() -> AsyncIterator[WorkerEngine]:
    engine = await WorkerEngine.start(DEMO, OPTIONS)
    yield engine
    await engine.close()


together = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[WorkerEngine]:
    engine = await WorkerEngine.start(DEMO, OPTIONS)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def unharmed(shared: WorkerEngine) -> AsyncIterator[WorkerEngine]:
    """For tests that do it no harm: one for all of them, as good as new."""
    yield shared
    for sequence in range(OPTIONS.max_sequences):
        await shared.release(sequence)
    assert shared.num_deaths == 0


def start_of(sequence: int, extend: int = 8) -> Chunk:
    return Chunk(sequence, 0, PROMPT, 1, SAMPLING, extend)


def pid_of(engine: WorkerEngine) -> int:
    assert engine.pid is not None
    return engine.pid


def flat(output: Output) -> list[object]:
    """All of it but the time."""
    arrays = [getattr(output, field.name) for field in fields(output) if field.name not in ("compute_s", "top")]
    arrays += [] if output.top is None else [getattr(output.top, field.name) for field in fields(output.top)]
    return [None if array is None else (array.dtype, array.tolist()) for array in arrays]


@together
async def test_a_worker_is_the_adapter_from_afar(unharmed: WorkerEngine) -> None:
    local = LlamaEngine(DEMO, OPTIONS)
    assert unharmed.shard == local.shard
    asked = [
        start_of(0),
        replace(start_of(2, 3), runners_up=True, num_top=8),
        Chunk(3, 0, PROMPT[:5]),
        replace(start_of(1, 0), num_top=2),
    ]
    for near, far in zip(local.forward(asked), await unharmed.forward(asked), strict=True):
        assert flat(far) == flat(near)
        assert far.compute_s > 0
    for sequence in (1, 3):
        await unharmed.release(sequence)
    await unharmed.copy(0, 1, 20)
    await unharmed.truncate(2, 20)
    block = np.array([7, 8, 9], np.int32)
    [one, two] = await unharmed.forward([Chunk(1, 20, block, 3, SAMPLING), Chunk(2, 20, block, 3, SAMPLING)])
    assert one.tokens.tolist() == two.tokens.tolist()


@together
async def test_what_ends_a_daemon_is_the_daemon_s_to_hear(unharmed: WorkerEngine) -> None:
    """Ctrl-C, and a window that is closed, go to all that a terminal has started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid_of(unharmed), number)
        await unharmed.release(0)
        await unharmed.forward([start_of(0)])


async def test_a_middle_shard_takes_and_gives_states(tmp_path: Path) -> None:
    cut(DEMO, 1, read_manifest(DEMO).num_layers, tmp_path / "last.gguf")
    cut(DEMO, 0, 1, tmp_path / "first.gguf")
    first = await WorkerEngine.start(tmp_path / "first.gguf", OPTIONS)
    last = await WorkerEngine.start(tmp_path / "last.gguf", OPTIONS)
    [states] = await first.forward([Chunk(0, 0, PROMPT)])
    assert states.states is not None and states.states.shape == (20, first.shard.width)
    [drawn] = await last.forward([Chunk(0, 0, states.states, 2, SAMPLING)])
    assert (
        drawn.tokens.tolist()
        == LlamaEngine(DEMO, OPTIONS).forward([Chunk(0, 0, PROMPT, 2, SAMPLING)])[0].tokens.tolist()
    )
    with pytest.raises(ModelRefused, match="no tokenizer"):
        await first.tokenize("hi")
    await asyncio.gather(first.close(), last.close())


@together
async def test_requests_are_pipelined_in_order(unharmed: WorkerEngine) -> None:
    """A chunk may follow its predecessor before that has been answered."""
    steps = [unharmed.forward([Chunk(0, i, PROMPT[i : i + 1], 1, SAMPLING)]) for i in range(20)]
    outputs = await asyncio.gather(*steps)
    [again] = await unharmed.forward([Chunk(1, 0, PROMPT, 20, SAMPLING)])
    assert [int(output[0].tokens[0]) for output in outputs] == again.tokens.tolist()


@together
async def test_errors_keep_their_names(unharmed: WorkerEngine) -> None:
    with pytest.raises(ValueError, match="no chunk begins at 5"):
        await unharmed.forward([Chunk(0, 5, PROMPT)])
    with pytest.raises(Overloaded):
        await unharmed.forward([Chunk(0, 0, np.zeros(1025, np.int32))])
    with pytest.raises(PeerMisbehaved):
        await unharmed.forward([Chunk(0, 0, np.array([1 << 20], np.int32))])
    assert unharmed.num_deaths == 0


@together
async def test_text_goes_through_the_worker(unharmed: WorkerEngine) -> None:
    vocab = await unharmed.vocabulary()
    ids = await unharmed.tokenize("naïve <|end|> \U0001f389\ud800")
    detokenizer = vocab.detokenizer()
    assert detokenizer.feed(ids) + detokenizer.finish() == "naïve <|end|> \U0001f389?"
    conversation = await unharmed.render([("user", "Hi <|end|>")])
    assert len([token for token in conversation if token in vocab.end_tokens]) == 1
    assert vocab.has_template


async def test_kill_in_mid_forward_is_told_at_once_and_it_comes_back(engine: WorkerEngine) -> None:
    losses: list[frozenset[int]] = []
    engine.on_lost(losses.append)
    [before] = await engine.forward([start_of(0)])
    await engine.forward([start_of(1)])
    waiting = [asyncio.create_task(engine.forward([start_of(2, 900)])), asyncio.create_task(engine.truncate(1, 3))]
    await asyncio.sleep(0)
    first_pid = pid_of(engine)
    os.kill(first_pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await waiting[0]
    with pytest.raises(EngineLost, match="SIGKILL") as other:
        await waiting[1]
    assert not isinstance(other.value, WorkerDied)  # it had not begun
    assert losses == [frozenset({2})]
    assert engine.pid is None
    with pytest.raises(EngineLost):  # a sequence of the dead process
        await engine.forward([Chunk(1, 28, PROMPT)])
    with pytest.raises(EngineLost):
        await engine.truncate(1, 3)
    await engine.release(1)
    [after] = await engine.forward([start_of(0)])  # waits for the new one
    assert after.tokens.tolist() == before.tokens.tolist()
    assert engine.pid not in (None, first_pid)


async def state_of(engine: WorkerEngine, wanted: Callable[[WorkerEngine], object]) -> None:
    """Wait until it is as wanted."""
    changed = asyncio.Event()
    engine.on_change(changed.set)
    async with asyncio.timeout(20):
        while not wanted(engine):
            changed.clear()
            await changed.wait()


async def killed(engine: WorkerEngine, owner: bytes | None) -> None:
    """SIGKILL, while it works for `owner`, or idles."""
    work = None
    if owner is not None:
        work = asyncio.create_task(engine.forward([replace(start_of(0, 900), owner=owner)]))
        await asyncio.sleep(0)
    lost = asyncio.Event()
    engine.on_lost(lambda _: lost.set())
    os.kill(pid_of(engine), signal.SIGKILL)
    await lost.wait()
    if work is not None:
        with pytest.raises(WorkerDied):
            await work


async def test_deaths_that_nobody_explains_are_a_quarantine_that_ends(
    engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At work for two that have nothing in common, and idle; which other deaths are one, test_deaths.py says."""
    monkeypatch.setattr(deaths, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(deaths, "QUARANTINE_S", 0.2)
    for owner in (b"alice", None, b"bob"):
        await state_of(engine, lambda engine: engine.available)
        await killed(engine, owner)
    await state_of(engine, lambda engine: engine.quarantined)
    assert "quarantined for" in engine.quarantined and "died 3 times" in engine.quarantined
    assert str(DEMO) not in engine.quarantined  # strangers read it, too
    with pytest.raises(EngineLost, match="quarantined"):
        await engine.forward([Chunk(0, 0, PROMPT)])
    await state_of(engine, lambda engine: engine.available)
    assert not engine.quarantined
    await engine.forward([Chunk(0, 0, PROMPT)])


async def test_what_one_owner_kills_again_and_again_is_not_quarantined(
    engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deaths, "FIRST_PAUSE_S", 0.0001)
    for _ in range(deaths.MAX_DEATHS + 1):
        await state_of(engine, lambda engine: engine.available)
        await killed(engine, b"mallory")
    assert not engine.quarantined
    await engine.forward([Chunk(0, 0, PROMPT)])


async def test_a_worker_that_cannot_be_started_is_tried_again(
    engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptors, no memory, no threads, and what nobody thought of: bad days of the machine, not the end."""
    monkeypatch.setattr(deaths, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(client, "NO_PROCESS_PAUSE_S", 0.001)
    spawn = asyncio.create_subprocess_exec
    troubles: list[Exception] = [
        KeyError("a bug"),
        *(OSError(24, "Too many open files"), MemoryError(), RuntimeError("can't start new thread")),
        *(OSError(12, "Cannot allocate memory"), OSError(11, "Resource temporarily unavailable")),
    ]

    async def bad_day(*arguments: Any, **options: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return await spawn(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", bad_day)
    await killed(engine, None)
    await state_of(engine, lambda engine: engine.available)
    assert not troubles and not engine.quarantined
    assert engine.num_deaths == 2  # the bug counts as one: what it is nobody knows
    await engine.forward([Chunk(0, 0, PROMPT)])


async def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    path = folder / os.fsdecode(b"mod\xe8le.gguf")
    folder.mkdir()
    with pytest.raises(ModelRefused, match="No such file"):
        await WorkerEngine.start(path, OPTIONS, cache_folder=folder / "cache")
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelRefused, match="truncated"):
        await WorkerEngine.start(path, OPTIONS, cache_folder=folder / "cache")
    path.write_bytes(DEMO.read_bytes())
    read_manifest(path, folder / "cache")  # as the node does: a worker itself may write nothing
    engine = await WorkerEngine.start(path, OPTIONS, cache_folder=folder / "cache")
    try:
        assert engine.shard.model_id == read_manifest(DEMO).model_id
        assert len(list((folder / "cache").iterdir())) == 1
    finally:
        await engine.close()


async def test_a_silent_worker_is_ended() -> None:
    engine = await WorkerEngine.start(DEMO, OPTIONS, request_timeout_s=0.3)
    await engine.forward([Chunk(0, 0, PROMPT)])
    os.kill(pid_of(engine), signal.SIGSTOP)
    with pytest.raises(WorkerDied, match="did not answer"):
        await engine.forward([Chunk(2, 0, PROMPT)])
    await state_of(engine, lambda engine: engine.available)
    await engine.close()


async def test_closing_ends_even_a_stopped_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsdnode.engine.link.EXIT_S", 0.1)
    engine = await WorkerEngine.start(DEMO, OPTIONS)
    process = psutil.Process(pid_of(engine))
    os.kill(pid_of(engine), signal.SIGSTOP)
    async with asyncio.timeout(5):
        await engine.close()
    assert not process.is_running()
    with pytest.raises(EngineLost, match="closed"):
        await engine.forward([Chunk(0, 0, PROMPT)])


async def test_a_refused_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    for name in ("none.gguf", "text.gguf"):
        with pytest.raises(ModelRefused, match=name):
            await WorkerEngine.start(tmp_path / name, OPTIONS)


async def test_a_crash_while_loading_is_a_refusal_not_a_loop() -> None:
    """Too little memory: the process dies wherever it asks for more."""
    options = EngineOptions(threads=1, context_tokens=1 << 20, max_memory_bytes=300 << 20)
    with pytest.raises(ModelRefused, match=r"crashed while loading|cannot run"):
        await WorkerEngine.start(DEMO, options)


@together
async def test_the_loop_is_never_blocked(unharmed: WorkerEngine) -> None:
    task = asyncio.create_task(unharmed.forward([start_of(0, 900)]))
    loop, gaps = asyncio.get_running_loop(), []
    while not task.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        gaps.append(loop.time() - before)
    [output] = await task
    assert len(gaps) > 10
    assert float(np.median(gaps)) < output.compute_s / 5


def test_a_worker_dies_with_its_daemon() -> None:
    """kill -9 of the daemon: no handler of its own runs."""
    program = (
        "import asyncio, sys; from pathlib import Path; from dsdnode.engine.client import WorkerEngine\n"
        "from dsdnode.engine.ipc import EngineOptions\n"
        "async def main():\n"
        "    engine = await WorkerEngine.start(Path(sys.argv[1]), EngineOptions(threads=1))\n"
        "    print(engine.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(DEMO)], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        worker = psutil.Process(int(daemon.stdout.readline()))
        daemon.kill()
        worker.wait(timeout=10)
