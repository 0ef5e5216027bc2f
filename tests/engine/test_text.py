"""Templates and texts that end their process, or stall it: whoever asked is told, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.gguf_header import ARRAY, STRING, Value, read_header
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.engine.ipc import TEXT_CPU_S, EngineOptions
from dsdnode.engine.link import WorkerLink
from dsdnode.engine.port import Chunk
from dsdnode.engine.text import TextProcess
from dsdnode.errors import BadInput, DsdError, EngineLost, ModelRefused
from dsdnode.speculation.sampling import Sampling

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "dsdnode" / "models" / "demo-draft.gguf"
OPTIONS = EngineOptions(threads=1, context_tokens=256, max_sequences=2)
HELLO = [("user", "hi")]
LOOP = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
CHUNK = Chunk(0, 0, np.arange(10, 20, dtype=np.int32), 1, Sampling(), 4)


def demo_with(path: Path, *, renamed: str = "", **changes: str) -> Path:
    """The demo draft with another `chat_template`, or `pre`; or another name for its token `renamed`."""
    keys = {"chat_template": "tokenizer.chat_template", "pre": "tokenizer.ggml.pre"}
    header = read_header(DEMO)
    with DEMO.open("rb") as file:
        tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
        metadata = header.metadata | {keys[key]: Value(STRING, text) for key, text in changes.items()}
        tokens = metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens.data, tuple)
        names = tuple(b"<|other|>" if name == renamed.encode() else name for name in tokens.data)
        metadata["tokenizer.ggml.tokens"] = Value(ARRAY, names, STRING)
        write_gguf(path, metadata, tensors, file)
    return path


@asynccontextmanager
async def text_of(folder: Path, **changes: str) -> AsyncIterator[TextProcess]:
    text = TextProcess(demo_with(folder / "model.gguf", **changes), 60)
    try:
        yield text
    finally:
        await text.close()


async def words(asked: Awaitable[Any], error: type[DsdError]) -> str:
    with pytest.raises(error) as raised:
        await asked
    return str(raised.value)


@pytest.fixture
def short_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if TEXT_CPU_S were a quarter of a second."""
    program = f"import dsdnode.engine.ipc as ipc; ipc.TEXT_CPU_S = {0.1 * TEXT_CPU_S}\n"
    program += "import sys; sys.argv = sys.argv[1:]; from dsdnode.engine import worker; worker.main()\n"
    spawn = asyncio.create_subprocess_exec

    async def quick(python: str, how: str, module: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        return await spawn(python, "-Pc", program, module, *arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", quick)


async def test_a_template_that_never_ends_is_not_run_again(tmp_path: Path, short_of_time: None) -> None:
    """Mallory's model file loops; Bob's drafter drafts on meanwhile, and raw text is tokenized afterwards."""
    engine = await WorkerEngine.start(demo_with(tmp_path / "model.gguf", chat_template=LOOP), OPTIONS)
    try:
        [before] = await engine.forward([CHUNK])
        asked = asyncio.create_task(engine.render(HELLO))
        num_forwards = 0
        while not asked.done():
            await engine.release(0)
            [output] = await engine.forward([CHUNK])
            assert output.tokens.tolist() == before.tokens.tolist()
            num_forwards += 1
        assert num_forwards > 20
        assert "at this conversation: it took more than" in await words(asked, BadInput)
        assert "not run any more: it took more than" in await words(engine.render(HELLO), ModelRefused)
        begun = asyncio.get_running_loop().time()
        assert "not run any more" in await words(engine.render([("user", "again")]), ModelRefused)
        assert asyncio.get_running_loop().time() - begun < 0.05
        assert await engine.tokenize("raw text")
        assert engine.num_deaths == 0
        assert not engine.quarantined
    finally:
        await engine.close()


async def test_a_conversation_that_never_ends_is_only_its_own_trouble(tmp_path: Path, short_of_time: None) -> None:
    source = "{% if 'mallory' in messages[0].content %}" + LOOP + "{% endif %}{{ messages[0].content }}"
    async with text_of(tmp_path, chat_template=source) as text:
        hello = await text.render(HELLO)
        for _ in range(2):
            asked = [text.render([("user", "mallory")]), text.render(HELLO)]
            failed, answered = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(failed, BadInput)
            assert "at this conversation: it took more than" in str(failed)
            assert answered == hello


async def test_nobody_waits_behind_what_was_given_up(tmp_path: Path) -> None:
    """Mallory leaves while her conversation goes round: Alice's text does not wait for its end."""
    async with text_of(tmp_path, chat_template=LOOP) as text:
        ids = await text.tokenize("raw text", False)
        process = psutil.Process().children()[0]
        asked = asyncio.create_task(text.render(HELLO))
        before = process.cpu_times().user
        while process.cpu_times().user < before + 0.1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asked.cancel()
        assert await text.tokenize("raw text", False) == ids
        assert not process.is_running()


BOMBS = {
    "memory": "{% set x = 'a' * 10**9 %}{{ x * 10 }}",
    "memory of a list": "{% set x = [0] * 10**9 %}",
    "memory by doubling": "{% set n = namespace(t='a') %}{% for i in range(64) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "range": "{{ range(10**9) | list }}",
    "recursion": "{% macro f(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}",
    "format": "{{ '%0999999999d' % messages | length }}{{ '{:>9999999999}'.format(messages | length) }}",
    "center": "{{ messages[0].content | center(10**10) }}",
    "indent": "{{ (messages[0].content + '\n') * 10000 | indent(10**6) }}",
    "output": "{% for i in range(99999) %}{{ 'x' * (9999 * messages | length) }}{% endfor %}",
    "json": "{% set n = namespace(t=1) %}{% for i in range(9999) %}{% set n.t = [n.t] %}{% endfor %}{{ n.t | tojson }}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
}


async def test_a_bomb_is_an_error_in_words(tmp_path: Path) -> None:
    source = "".join("{% if messages[0].content == '" + name + "' %}" + BOMBS[name] + "{% endif %}" for name in BOMBS)
    async with text_of(tmp_path, chat_template=source) as text:
        await text.tokenize("raw text", False)
        for name in BOMBS:
            async with asyncio.timeout(20):
                assert await words(text.render([("user", name)]), BadInput), name
        assert await text.tokenize("raw text", False)


async def test_a_template_that_cannot_be_compiled_is_refused_once(tmp_path: Path) -> None:
    async with text_of(tmp_path, chat_template="{% if true %}{% break %}{% endif %}") as text:
        why = await words(text.render(HELLO), ModelRefused)
        assert "chat template is broken" in why
        assert await words(text.render(HELLO), ModelRefused) == why
        assert await text.tokenize("raw text", False)


async def test_what_is_constant_is_a_bomb_while_it_is_compiled(tmp_path: Path) -> None:
    async with text_of(tmp_path, chat_template="{{ 'a' * 10**10 }}") as text:
        assert "too much memory" in await words(text.render(HELLO), BadInput)
        assert await text.tokenize("raw text", False)


async def test_a_power_that_takes_for_ever(tmp_path: Path, short_of_time: None) -> None:
    """In C, where no signal handler of Python's would run."""
    async with text_of(tmp_path, chat_template="{{ (3 ** (3 * 10 ** 8)) % 7 }}") as text:
        assert "s of a processor" in await words(text.render(HELLO), BadInput)
        assert "s of a processor" in await words(text.render(HELLO), ModelRefused)


async def killed(text: TextProcess) -> None:
    """By somebody else, while it had nothing to do."""
    children = psutil.Process().children()
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, children, 10)
    while text._link is not None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_another_process_takes_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    async with text_of(tmp_path) as text:
        ids = await text.tokenize("hello", False)
        await killed(text)
        assert await text.tokenize("hello", False) == ids
        await killed(text)
        demo_with(tmp_path / "model.gguf", renamed="<|user|>")
        assert "another tokenizer" in await words(text.tokenize("hello", False), ModelRefused)
    assert "closed" in await words(text.tokenize("hello", False), EngineLost)


async def test_none_comes_up_behind_a_node_that_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice stops hers while its texts are being made ready, before there is a process and after that."""
    spawn, spawned, loading = WorkerLink.spawn, list[WorkerLink](), asyncio.Event()

    async def slow(*arguments: Any) -> WorkerLink:
        spawned.append(await spawn(*arguments))
        loading.set()
        return spawned[-1]

    monkeypatch.setattr(WorkerLink, "spawn", slow)
    for wait in (loading.wait, lambda: asyncio.sleep(0)):
        text = TextProcess(DEMO, 60)
        asked = asyncio.create_task(text.tokenize("hi", False))
        await wait()
        await text.close()
        await words(asked, EngineLost)
    assert len(spawned) == 2 and not any(psutil.pid_exists(link.pid) for link in spawned)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_is_ended_or_stopped_from_outside_is_no_fault_of_alice_s_text(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with text_of(tmp_path) as text:
        ids = await text.render(HELLO)
        monkeypatch.setattr("dsdnode.engine.text.TIMEOUT_S", 1.0)
        for _ in range(2):
            [process] = psutil.Process().children()
            process.send_signal(signal.SIGSTOP)  # or it has answered by then
            asked = asyncio.create_task(text.render(HELLO))
            await asyncio.sleep(0)
            process.send_signal(number)
            assert await asked == ids


async def test_a_machine_too_busy_for_any_text_is_no_fault_of_alice_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with text_of(tmp_path) as text:
        monkeypatch.setattr("dsdnode.engine.text.TIMEOUT_S", 0.0)
        for _ in range(2):
            assert "too busy" in await words(text.render(HELLO), EngineLost)
        monkeypatch.undo()
        assert await text.render(HELLO)


PASTED: dict[str, Callable[[int], str]] = {
    "letters": lambda size: "a" * size,
    "digits": lambda size: "7" * size,
    "dashes": lambda size: "-" * size,
    "blanks": lambda size: " " * size,
    "lines": lambda size: "\n" * size,
    "windows lines": lambda size: "\r\n" * (size // 2),
    "tabs": lambda size: "\t" * size,
    "single letters": lambda size: " a" * (size // 2),
    "single letters in lines": lambda size: "a\n" * (size // 2),
    "capitals": lambda size: "aB" * (size // 2),
    "base64": lambda size: "aB3+/x9Z" * (size // 8),
    "quotes": lambda size: "'s'" * (size // 3),
    "Han": lambda size: "中" * size,
    "Kana, mixed": lambda size: "アa中1" * (size // 4),
    "Arabic": lambda size: "ا" * size,
    "combining marks": lambda size: "e\u0301" * (size // 2),
    "only marks": lambda size: "\u0301" * size,
    "emoji": lambda size: "👩\u200d👩\u200d👧" * (size // 5),
    "every character": lambda size: "".join(map(chr, range(33, 0x3000))) * (size // 0x3000 + 1),
    "no-break spaces": lambda size: "\u00a0" * size,
    "words": lambda size: "The quick brown fox, 12 times. " * (size // 31),
    "words without commas": lambda size: "the quick brown fox " * (size // 20),
}
PRES = ["default", "llama-bpe", "deepseek-v3", "gpt-4o", "tekken", "bloom", "jais-2", "superbpe", "exaone-moe"]


@pytest.mark.parametrize("pre", PRES)
async def test_whatever_is_pasted(pre: str, tmp_path: Path) -> None:
    """Every way of splitting text that is special somehow: no text ends the process, or is lost."""
    async with text_of(tmp_path, pre=pre) as text:
        pieces = (await text.vocabulary()).pieces
        for name, paste in PASTED.items():
            pasted = paste(30_000)
            ids = await text.tokenize(pasted, False)
            assert b"".join(pieces[token] for token in ids).decode() == pasted, name


async def test_a_model_without_a_template_says_what_can_be_done_with_it(tmp_path: Path) -> None:
    header, path = read_header(DEMO), tmp_path / "base.gguf"
    with DEMO.open("rb") as file:
        tensors = [NewTensor(one.name, one.shape, one.type, source=one) for one in header.tensors.values()]
        metadata = {key: value for key, value in header.metadata.items() if key != "tokenizer.chat_template"}
        write_gguf(path, metadata, tensors, file)
    text = TextProcess(path, 60)
    assert "run --raw" in await words(text.render(HELLO), ModelRefused)
    assert await text.tokenize("raw text", False)
    assert {"<|user|>", "<|end|>"} < (await text.vocabulary()).names.keys()
    await text.close()
