"""Workers go into the cage before anything else, and mallory, who runs what she likes in a real one, is shut in."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsdnode.engine import deaths, link, worker
from dsdnode.engine.cage import Cage
from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.ipc import Done, EngineOptions, Load, Tokenize
from dsdnode.engine.link import WorkerLink
from dsdnode.engine.port import Chunk
from dsdnode.engine.text import TextProcess
from dsdnode.errors import BadInput, EngineLost, WorkerDied
from dsdnode.speculation.sampling import Sampling

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"
OPTIONS = EngineOptions(threads=2, context_tokens=1024, max_sequences=4)

linux = pytest.mark.skipif(sys.platform != "linux", reason="this system has no cage")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Alice's."""
    (tmp_path / "identity.key").write_text("alice's")
    return tmp_path


def test_a_worker_is_caged_before_it_opens_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Recorder(Cage):
        def shut_files(self, readable: Any, max_memory_bytes: int = 0) -> None:
            done.append(f"files {[str(path) for path in readable]} {max_memory_bytes}")

        def shut_calls(self) -> None:
            done.append("calls")

    def opened(path: Path, *rest: object) -> SimpleNamespace:
        done.append(f"open {path}")
        return SimpleNamespace(shard=None)

    module: Any = ModuleType("dsdnode.engine.hybrid")
    module.open_engine = opened
    monkeypatch.setitem(sys.modules, "dsdnode.engine.hybrid", module)
    monkeypatch.setattr(worker, "Cage", Recorder)
    worker._Worker(Load.of(Path("m.gguf"), EngineOptions(max_memory_bytes=7), Path("cache")))
    assert done == ["files ['m.gguf', 'cache'] 7", "calls", "open m.gguf"]


@linux
async def test_the_link_gives_it_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSDNODE_SWARM_KEY", "opensesame")
    monkeypatch.setenv("HF_TOKEN", "secret")
    child = await WorkerLink.spawn(lambda reason, what: None)
    try:
        given = await asyncio.to_thread(Path(f"/proc/{child.pid}/environ").read_bytes)
        assert b"PYTHONPATH=" in given
        assert b"opensesame" not in given and b"secret" not in given and b"DSDNODE_" not in given
    finally:
        child.kill()
        await child.close()


@pytest.fixture
async def captive(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerEngine]:
    """A real worker on the demo draft, lost to mallory."""
    monkeypatch.setattr(link, "WORKER_MODULE", "tests.engine.captive")
    engine = await WorkerEngine.start(DEMO, OPTIONS)
    yield engine
    await engine.close()


def statuses_of(pid: int | None) -> list[str]:
    """Of each thread."""
    return [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]


async def run(engine: WorkerEngine, code: str) -> str:
    """ "done", or the error that mallory got."""
    try:
        reply, _ = await engine._ask(await engine._up(), Tokenize(code, False))
    except ValueError as error:
        return str(error)
    assert isinstance(reply, Done)
    return "done"


@linux
@pytest.mark.slow
async def test_a_real_worker_is_caged_with_all_its_threads(captive: WorkerEngine, home: Path) -> None:
    [output] = await captive.forward([Chunk(0, 0, np.arange(10, 200, dtype=np.int32), 1, Sampling(0.7, seed=3), 8)])
    assert output.tokens.shape == (9,)
    statuses = statuses_of(captive.pid)
    assert len(statuses) > 1
    assert all("NoNewPrivs:\t1" in status and "Seccomp:\t2" in status for status in statuses)
    assert captive.protection.holds[-1] == "seccomp" and not captive.protection.left_out
    for code in (
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        f"open({str(home / 'identity.key')!r}).read()",
        f"open({str(home / 'new')!r}, 'w')",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; open(f'/proc/{os.getppid()}/environ').read()",
    ):
        assert "PermissionError" in await run(captive, code), code
    assert await run(captive, "import os; assert not [name for name in os.environ if name.startswith('DSD')]") == "done"
    with pytest.raises(EngineLost, match="SIGABRT"):  # an abort still ends it, and it comes back, caged again
        await run(captive, "import os; os.abort()")
    assert "PermissionError" in await run(captive, "import socket; socket.socket()")


@linux
@pytest.mark.slow
async def test_two_engines_of_one_daemon_see_nothing_of_each_other(captive: WorkerEngine, home: Path) -> None:
    other = await WorkerEngine.start(DEMO, OPTIONS)
    try:
        assert "PermissionError" in await run(captive, f"import os; os.kill({other.pid}, 9)")
        assert "PermissionError" in await run(captive, f"open('/proc/{other.pid}/maps').read()")
        assert "PermissionError" in await run(captive, f"open('/proc/{other.pid}/mem', 'rb').read(1)")
        assert (other.available, captive.available, captive.num_deaths) == (True, True, 0)
        await asyncio.gather(other.release(0), captive.release(0))
    finally:
        await other.close()


@linux
@pytest.mark.slow
async def test_with_a_gpu_the_rest_of_the_cage_holds(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """There need not be one: llama.cpp then computes as ever."""
    monkeypatch.setattr(link, "WORKER_MODULE", "tests.engine.captive")
    engine = await WorkerEngine.start(DEMO, replace(OPTIONS, gpu_layers=1))
    try:
        assert "seccomp" in engine.protection.holds and "GPU" in engine.protection.left_out[-1]
        for code in (
            "import socket; socket.socket()",
            "import os; os.fork()",
            f"open({str(home / 'identity.key')!r}).read()",
            f"open({str(home / 'new')!r}, 'w')",
        ):
            assert "PermissionError" in await run(engine, code), code
    finally:
        await engine.close()


LIE = """
from dataclasses import replace
import numpy as np
from dsdnode.engine import ipc, worker
told = worker.pack_outputs
def lie(outputs):
    one = outputs[0]
    return told({lie})
worker.pack_outputs = lie
"""
LIES = (
    "outputs[1:]",
    "[*outputs, one]",
    "[replace(one, tokens=one.tokens[:-1], probabilities=one.probabilities[:-1]), *outputs[1:]]",
    "[replace(one, tokens=one.tokens + (1 << 20)), *outputs[1:]]",
    "[replace(one, tokens=-1 - one.tokens), *outputs[1:]]",
    "[replace(one, probabilities=one.probabilities * np.float32('nan')), *outputs[1:]]",
    "[replace(one, compute_s=float('nan')), *outputs[1:]]",
    "[replace(one, runners_up=None, runner_up_probabilities=None), *outputs[1:]]",
    "[replace(one, runners_up=one.runners_up + (1 << 20)), *outputs[1:]]",
    "[replace(one, top=replace(one.top, tokens=one.top.tokens - (1 << 20))), *outputs[1:]]",
    "[replace(one, top=None), *outputs[1:]]",
    "[replace(one, states=np.zeros((9, 64), np.float32)), *outputs[1:]]",
    "outputs) and (ipc.Done(), []",
)


@pytest.mark.slow
async def test_outputs_that_do_not_fit_what_alice_asked_are_a_death(
    captive: WorkerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lie after the other: each is told by a worker that nobody has lied to, or had killed, before."""
    monkeypatch.setattr(deaths, "MAX_PAUSE_S", 0.001)
    asked = [
        Chunk(0, 0, np.arange(10, 30, dtype=np.int32), 2, Sampling(0.7), 3, runners_up=True, num_top=4, owner=b"alice"),
        Chunk(1, 0, np.arange(10, 20, dtype=np.int32), 1, Sampling(), owner=b"bob"),
    ]
    for num_deaths, lie in enumerate(LIES, 1):
        await captive.forward(asked)  # waits for the next one, which nobody has lied to
        await asyncio.gather(captive.release(0), captive.release(1))
        assert await run(captive, LIE.format(lie=lie)) == "done"
        with pytest.raises(WorkerDied, match=r"not asked|SIGKILL"):  # at the latest when it is looked at
            await captive.forward(asked)
        assert captive.num_deaths == num_deaths, lie
    await captive.forward(asked)


@pytest.mark.slow
async def test_an_answer_of_another_kind_is_a_death_too(captive: WorkerEngine) -> None:
    await captive.forward([Chunk(0, 0, np.arange(10, 20, dtype=np.int32), 1, Sampling())])
    code = "from dsdnode.engine import ipc, worker; worker.Done = lambda: ipc.Ids()"
    assert await run(captive, code) == "done"
    with pytest.raises(WorkerDied, match="not asked"):
        await captive.truncate(0, 5)
    assert captive.num_deaths == 1


@linux
@pytest.mark.slow
async def test_a_text_process_that_is_lost_fails_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "WORKER_MODULE", "tests.engine.captive")
    text = TextProcess(DEMO, 60)
    try:
        with pytest.raises(BadInput, match="did not say which ids"):
            await text.tokenize("pass", False)
        assert await text.render([("user", "hi")])
    finally:
        await text.close()
