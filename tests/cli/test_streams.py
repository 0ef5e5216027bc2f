"""Standard streams that nobody reads, that are closed, full, or of another encoding."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsdnode.cli import streams
from dsdnode.cli.lines import PipeLines
from dsdnode.errors import BadInput, DsdError
from dsdnode.files import shown
from tests.cli.conftest import JOIN, ROOT
from tests.cli.fake_chat import numbers

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "tests.cli.fake_chat"]
PIPE_BYTES = 4096
PATIENCE_S = 30.0
UNREAD_BEATS = 20
CLOSED = b"error: cannot write to standard output: it is closed\n"


def begin(*words: str, closed: Sequence[int] = (), env: dict[str, str] | None = None, **more: Any) -> Any:
    """A command with `closed` of its three streams closed, as a supervisor may leave them."""
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=ROOT,
        env=os.environ | (env or {}),
        preexec_fn=lambda: list(map(os.close, closed)) and None,
        **({"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more),
    )


def ended(process: Any, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Its exit code, and what it said."""
    out, err = process.communicate(stdin, timeout=PATIENCE_S)
    assert b"bug" not in (err or b"") and b"Traceback" not in (err or b""), err
    return process.returncode, out, err


class Pager:
    """A pipe that is not read until it is scrolled."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        fcntl.fcntl(self.theirs, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def scroll(self) -> bytes:
        """To the end of what is written into it."""
        with os.fdopen(self._ours, "rb") as pipe:
            return pipe.read()

    def begin(self, *words: str, **more: Any) -> tuple[Any, Any]:
        """A command whose output it shows; and its pulse, a line each: how many pieces it has got."""
        pulse, theirs = os.pipe()
        env = {"FAKE_PULSE": str(theirs)}
        process = begin(*words, stdout=self.theirs, pass_fds=[theirs], env=env, **more)
        os.close(theirs)
        os.close(self.theirs)
        return process, os.fdopen(pulse)


# --- nobody reads


@pytest.mark.parametrize("command", ["run", "chat"])
@pytest.mark.parametrize(("num", "width"), [(4000, 6), (3, 60_000)])
def test_a_reply_that_nobody_reads_goes_on_and_arrives_whole(command: str, num: int, width: int) -> None:
    asked, pager = f"say {num} {width}", Pager()
    words = (command, "--join", JOIN, *((asked,) if command == "run" else ()))
    process, pulse = pager.begin(*words, stdin=subprocess.PIPE)
    if command == "chat":
        process.stdin.write(asked.encode() + b"\n")
    process.stdin.close()
    assert any(int(line) == num for line in pulse), "it has all of it while its reader sleeps"
    text = pager.scroll().decode()
    assert text == "".join(numbers(num, width)) + "\n"
    assert process.wait(PATIENCE_S) == 0
    process.stderr.close()


def test_what_goes_to_the_same_pager_stays_in_order_to_the_last_word() -> None:
    pager = Pager()
    process, pulse = pager.begin("chat", "--join", JOIN, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdin.write(b"say 3 60000\nhello\nsay 300 100\n/set top-p hot\n")
    process.stdin.close()
    assert any(int(line) == 303 for line in pulse)
    first, one, hello, two, last, three, error = pager.scroll().decode().splitlines()
    assert (first, hello, last) == ("".join(numbers(3, 60_000)), "You said hello!", "".join(numbers(300, 100)))
    assert all("3 tok" in line for line in (one, two, three))
    assert error.startswith("error: top_p is a number")
    assert process.wait(PATIENCE_S) == 0


def test_a_reply_of_megabytes_is_held_back_by_its_reader_and_no_ping_is(tmp_path: Path) -> None:
    num, width = 3000, 1024
    pager = Pager()
    process, pulse = pager.begin("run", "--join", JOIN, f"say {num} {width}")
    still, last = 0, -1
    for line in pulse:
        still, last = (still + 1, last) if int(line) == last else (0, int(line))
        if still == UNREAD_BEATS and last > 0:
            break
    assert streams.MAX_WAITING_BYTES <= last * width < 2 * streams.MAX_WAITING_BYTES
    assert pager.scroll().decode() == "".join(numbers(num, width)) + "\n"
    assert process.wait(PATIENCE_S) == 0
    process.stderr.close()


@pytest.mark.parametrize("limit", [0, 100, 10_000])
def test_a_reader_who_leaves_in_the_middle_is_no_bug(limit: int) -> None:
    process = begin("run", "--join", JOIN, "say 3000 1024")
    process.stdout.read(limit)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(PATIENCE_S) == 1
    process.stderr.close()


def below(pipe: int, *, lossy: bool) -> streams.Stream:
    plain = os.fdopen(pipe, "w")
    stream = streams.Stream(plain, streams.Writer(), lossy=lossy)
    stream.plain = plain  # type: ignore[attr-defined]
    return stream


def test_a_log_that_nobody_reads_loses_lines_and_never_waits() -> None:
    pager = Pager()
    log = below(pager.theirs, lossy=True)
    line = b"x" * 1023 + b"\n"
    num = 4 * streams.MAX_WAITING_BYTES // len(line)
    for _ in range(num):
        log.write(line)
    assert 0 < log.num_waiting_bytes <= streams.MAX_WAITING_BYTES
    log.finish(0.05)  # this one waits, but not long
    lost = log.num_lost
    assert num // 2 < lost < num
    reader = os.fdopen(pager._ours, "rb")
    for _ in range(num - lost):
        assert reader.readline() == line
    log.finish(PATIENCE_S)
    log.write(b"again\n")
    assert reader.readline() == b"again\n"
    reader.close()
    log.write(line)
    log.finish(PATIENCE_S)
    assert log.num_lost == lost + 1, "a pager that was left is no error of whoever logs"


def test_a_command_ends_whoever_reads_its_errors() -> None:
    pager = Pager()
    os.write(pager.theirs, bytes(PIPE_BYTES))
    assert ended(begin("run", "--join", JOIN, "hello", stderr=pager.theirs))[:2] == (0, b"You said hello!\n")
    assert ended(begin("run", stderr=pager.theirs))[0] == 2
    os.close(pager.theirs)
    assert pager.scroll() == bytes(PIPE_BYTES)


def test_a_non_blocking_pipe_takes_everything_too() -> None:
    pager = Pager()
    os.set_blocking(pager.theirs, False)
    process, pulse = pager.begin("run", "--join", JOIN, "say 400 100")
    assert any(int(line) == 400 for line in pulse)
    assert pager.scroll().decode() == "".join(numbers(400, 100)) + "\n"
    assert ended(process)[0] == 0


# --- closed or full


@pytest.mark.parametrize(
    ("words", "closed", "code", "says"),
    [
        (("chat", "--join", JOIN), [0], 2, b"error: cannot read standard input: it is closed\n"),
        (("run", "--join", JOIN, "-"), [0], 2, b"error: cannot read standard input: it is closed\n"),
        (("run", "--join", JOIN, "hello"), [0], 0, b""),
        (("run", "--join", JOIN, "hello"), [1], 1, CLOSED),
        (("run", "--join", JOIN, "--json", "hello"), [0, 1], 1, CLOSED),
        (("run", "--join", JOIN, "hello"), [0, 1, 2], 1, b""),
        (("chat", "--join", JOIN), [0, 1, 2], 2, b""),
        (("config", "show"), [1], 1, CLOSED),
        (("peers",), [0, 2], 3, b""),
        ((), [1, 2], 2, b""),
    ],
)  # fmt: skip
def test_closed_streams(words: tuple[str, ...], closed: list[int], code: int, says: bytes) -> None:
    done = ended(begin(*words, closed=closed))
    assert (done[0], done[2]) == (code, says)
    assert done[1] == (b"You said hello!\n" if "hello" in words and 1 not in closed else b"")


@pytest.mark.parametrize("words", [("run", "--join", JOIN, "hello"), ("version", "--json"), ("--help",)])
def test_a_full_disk_is_told(words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = ended(begin(*words, stdout=full))
        assert (code, err) == (1, b"error: cannot write to standard output: No space left on device\n")
        assert ended(begin(*words, stderr=full))[0] == 0


def test_of_a_mistake_the_exit_code_tells_where_no_word_can() -> None:
    with open("/dev/full", "wb") as full:
        assert ended(begin("run", stderr=full))[0] == 2


def test_standard_input_that_cannot_be_read(home: Path) -> None:
    with open(os.devnull, "wb") as only_written:
        code, _, err = ended(begin("chat", "--join", JOIN, stdin=only_written))
    assert (code, err) == (2, b"error: cannot read standard input: it is closed\n")


# --- stdin of other bytes


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "utf-8:surrogateescape"])
def test_a_chat_ends_in_words_where_its_input_is_no_text(encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding}
    code, out, err = ended(begin("chat", "--join", JOIN, stdin=subprocess.PIPE, env=env), b"hello\nna\xefve\n")
    assert (code, out) == (2, b"You said hello!\n")
    assert err.endswith(b"error: line 2 of standard input is not UTF-8 text: the byte 0xef after 2 others\n")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError(), ValueError("closed file")])
def test_whatever_reading_raises_reaches_the_chat(error: Exception) -> None:
    class Broken(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            raise error

    async def read() -> str | None:
        async with asyncio.timeout(PATIENCE_S):
            return await PipeLines(io.TextIOWrapper(Broken())).read()

    with pytest.raises(BadInput if isinstance(error, OSError) else type(error)):
        asyncio.run(read())


def test_standard_input_has_the_encoding_of_its_terminal() -> None:
    latin = {"PYTHONIOENCODING": "latin-1"}
    for words in (("run", "--join", JOIN, "-"), ("chat", "--join", JOIN)):
        code, out, _ = ended(begin(*words, stdin=subprocess.PIPE, env=latin), b"caf\xe9")
        assert (code, out) == (0, b"You said caf\xe9!\n")


# --- terminals of other encodings


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("latin-1", "wörld ? ?"),
        ("cp1252", "wörld € ?"),
        ("cp1251", "w?rld € ?"),
        ("koi8-r", "w?rld ? ?"),
        ("utf-8:strict", "wörld € 😀"),
        ("ascii", "wörld € 😀"),
    ],
)
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, shown: str) -> None:
    name = encoding.partition(":")[0].replace("ascii", "utf-8")
    env, text = {"PYTHONIOENCODING": encoding}, "wörld € 😀"
    said = ended(begin("run", "--join", JOIN, text, env=env))
    assert (said[0], said[1].decode(name)) == (0, f"You said {shown}!\n")
    if encoding in ("latin-1", "utf-8:strict"):
        told = ended(begin("run", "--join", JOIN, "--json", text, env=env))
        assert json.loads(told[1].decode(name))["text"] == f"You said {text}!", "JSON can say everything everywhere"


def test_a_path_of_any_bytes_is_printed_for_people(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    told = os.fsencode(shown(Path(os.fsdecode(folder))))
    done = ended(begin("config", "path", env={"XDG_CONFIG_HOME": os.fsdecode(folder)}))
    assert done[:2] == (0, told + b"/dsdnode/config.toml\n")
    code, out, _ = ended(begin("config", "show", "--json", "--data-dir", os.fsdecode(folder)))
    assert code == 0
    assert os.fsencode(json.loads(out)["data_dir"]["value"]) == told


# --- a terminal that obeys


@pytest.fixture
def screen() -> Iterator[Callable[..., bytes]]:
    def show(*words: str) -> bytes:
        """What a command sends to its terminal."""
        ours, theirs = pty.openpty()
        process = begin(*words, stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # Linux's way to say that nobody has it open
            pass
        os.close(ours)
        process.wait(PATIENCE_S)
        return seen.replace(b"\r\n", b"\n")

    yield show


OBEYED = "\x1b]0;title\x07 \x9b31m \x7f \u202e \u2066 \u200f \u061c"


def test_nothing_steers_a_terminal(screen: Callable[..., bytes]) -> None:
    shown = screen("run", "--join", JOIN, OBEYED).decode()
    assert not set(OBEYED) & set(shown) - set(" 0;titlem31]"), shown
    told = screen("run", "--join", JOIN, "--json", OBEYED).decode()
    assert not set(OBEYED) & set(told) - set(" 0;titlem31]")
    assert json.loads(told)["text"] == f"You said {OBEYED}!"
    error = screen("run", "--join", JOIN, "--config", OBEYED.replace("\x07", "")).decode()
    assert "cannot read the configuration" in error
    assert not set(OBEYED) & set(error) - set(" 0;titlem31]"), error


# --- the writer


def test_output_that_fails_is_kept_no_more_and_everybody_who_waits_hears_of_it() -> None:
    stream = below(os.open("/dev/full", os.O_WRONLY), lossy=False)
    stream.write(b"hello")
    for _ in range(2):
        with pytest.raises(DsdError, match="cannot write to standard output: No space left"):
            stream.finish()
        stream.write(b"more")
        with pytest.raises(DsdError, match="cannot write to standard output: No space left"):
            asyncio.run(stream.room())


def test_who_waits_for_room_is_woken_by_the_reader() -> None:
    pager = Pager()
    stream = below(pager.theirs, lossy=False)

    async def story() -> None:
        stream.write(bytes(50_000))
        stream.write(bytes(50_000))
        waiting = asyncio.create_task(stream.room(60_000))
        await asyncio.sleep(0)
        for _ in range(13):
            assert not waiting.done()
            assert os.read(pager._ours, PIPE_BYTES)
        async with asyncio.timeout(PATIENCE_S):
            await waiting
        assert stream.num_waiting_bytes == 50_000

    asyncio.run(story())
