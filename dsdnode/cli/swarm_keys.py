"""How swarm keys, and the key of the APIs, come in and go on without anybody else on the machine seeing them.

A key on the command line is in `ps` for all to read. It is overwritten there where the kernel shows our own memory
(Linux); a second start with the key elsewhere would show it as long as that takes, and twice. A child that needs keys
gets them through a pipe, never in its words or its environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdnode.cli import codes
from dsdnode.errors import BadInput
from dsdnode.files import at_home, reading, replacing

MAX_KEY_CHARACTERS = 1024
"""So a pipe takes any of them at once."""
SHORT_CHARACTERS = 16
"""Hex digits of 64 random bits. Every peer that we dial could try to guess a key (docs/protocol.md, section 4)."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A kind of key; `guessed_by` whom, if it is short."""

    what: str
    flag: str
    variable: str
    guessed_by: str


SWARM_KEY = Secret("swarm key", "--swarm-key", "DSDNODE_SWARM_KEY", "whoever a member dials")
API_KEY = Secret("API key", "--api-key", "DSDNODE_API_KEY", "whoever reaches the port")
SECRETS = (SWARM_KEY, API_KEY)
_FLAGS = tuple(one.flag for one in SECRETS)


def read_keys(raw: object) -> tuple[str, ...]:
    """One key or several, each itself or as `@FILE`, whose first line it is. Raises BadInput; never shows a key."""
    said = [raw] if isinstance(raw, str) else raw
    if not isinstance(said, list | tuple) or not said:
        raise BadInput("a text is expected")
    return tuple(dict.fromkeys(read_secret(one, SWARM_KEY.what) for one in said))


def read_secret(said: object, what: str) -> str:
    """Itself, or as `@FILE`, whose first line it is; `what` is for the words. Raises BadInput; never shows it."""
    if not isinstance(said, str):
        raise BadInput("a text is expected")
    key = _first_line(at_home(said[1:]), what) if said.startswith("@") else said.strip()
    if not key:
        raise BadInput(f"the {what} is empty")
    if len(key) > MAX_KEY_CHARACTERS:
        raise BadInput(f"the {what} has at most {MAX_KEY_CHARACTERS} characters")
    return key


def _first_line(path: Path, what: str) -> str:
    try:
        with reading(path) as file:
            if open_to(file.fileno(), stat.S_IRWXO | stat.S_IWGRP):
                raise BadInput(f"the {what} in {path} can be read or changed by others: chmod 600 {path}")
            return file.read(4 * MAX_KEY_CHARACTERS + 1).partition(b"\n")[0].decode("utf-8-sig").strip()
    except OSError as error:
        raise BadInput(f"cannot read the {what} from {path}: {error.strerror or error}") from None
    except ValueError:
        raise BadInput(f"cannot read the {what} from {path}: it is not UTF-8 text") from None


def open_to(file: int | Path, whom: int) -> bool:
    """May those whom these bits of a mode name use the file? A pipe or a device is nobody else's."""
    mode = os.stat(file).st_mode
    return os.name == "posix" and stat.S_ISREG(mode) and bool(mode & whom)


def warnings_about(said: object, keys: Iterable[str], on_command_line: bool, secret: Secret = SWARM_KEY) -> list[str]:
    """What is not wrong, but unwise, about keys that were `said` so; never a key itself."""
    found = []
    words = [said] if isinstance(said, str) else list(said) if isinstance(said, list | tuple) else []
    if on_command_line and not all(word.startswith("@") for word in words):
        found.append(
            f"the {secret.what} on the command line is seen by others on this machine, and kept by the shell: write it "
            f"into a file (chmod 600) and say {secret.flag} @FILE, or set {secret.variable}"
        )
    for path in [at_home(word[1:]) for word in words if word.startswith("@")]:
        with contextlib.suppress(OSError):
            if open_to(path, stat.S_IRGRP):
                found.append(f"the {secret.what} in {path} can be read by its group: chmod 600 {path}")
    if any(len(key) < SHORT_CHARACTERS for key in keys):
        found.append(
            f"a key ({secret.flag}) of less than {SHORT_CHARACTERS} characters can be guessed by {secret.guessed_by}: "
            "`openssl rand -hex 16` makes a good one"
        )
    return found


def forget(environ: MutableMapping[str, str]) -> None:
    """What this process starts from now on has no key in its environment."""
    for secret in SECRETS:
        environ.pop(secret.variable, None)
    if codes.bears_code(environ.get(codes.VARIABLE, "")):
        del environ[codes.VARIABLE]


@contextlib.contextmanager
def handed_over(keys: Sequence[str], api_key: str = "") -> Iterator[tuple[list[str], list[int]]]:
    """Words by which a child reads these keys, and the descriptors that it must be given for that."""
    pipes: list[int] = []
    flags = [*(SWARM_KEY.flag for _ in keys), *[API_KEY.flag] * bool(api_key)]
    try:
        for key in (*keys, api_key)[: len(flags)]:
            reading, writing = os.pipe()
            pipes.append(reading)
            with os.fdopen(writing, "wb") as file:
                file.write(key.encode("utf-8", "surrogateescape"))
        yield [word for flag, pipe in zip(flags, pipes, strict=True) for word in (flag, f"@/dev/fd/{pipe}")], pipes
    finally:
        for pipe in pipes:
            os.close(pipe)


def keep(data_dir: Path, keys: Sequence[str]) -> list[Path]:
    """Write keys that came with an invitation where their user can name them: it expires, and he has them nowhere else.
    Raises BadInput, OSError."""
    from dsdnode.net.handshake import swarm_names

    paths = [data_dir / f"swarm-{name}.key" for name in swarm_names(keys)] if keys else []
    for path, key in zip(paths, keys, strict=True):
        with replacing(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(key.encode() + b"\n")
    return paths


def without_keys(argv: Sequence[str]) -> list[str]:
    """A command line without its keys, and without codes, which may bear some."""
    spans = [(index, attached) for index, _, attached in _places(argv)]
    gone = {index for index, _ in spans} | {index - 1 for index, attached in spans if not attached}
    return [word for index, word in enumerate(argv) if index not in gone]


def _places(argv: Sequence[str]) -> Iterator[tuple[int, str, bool]]:
    """Index of each word with a key or a code, either, and whether its flag is in the same word."""
    for index, word in enumerate(argv):
        flag, is_attached, value = word.partition("=")
        if not is_attached or flag not in (*_FLAGS, *codes.FLAGS):
            flag, is_attached, value = argv[index - 1] if index else "", "", word
        if flag in _FLAGS or (flag in codes.FLAGS and codes.bears_code(value)):
            yield index, value, bool(is_attached)


def hide_from_ps() -> None:
    """Overwrite the keys on this process's own command line, as others see it. No system call does that: it is where
    the kernel says that the words lie. Where it does not say, nothing happens."""
    if sys.platform != "linux":
        return
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        shown = Path("/proc/self/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return
    if not start or end - start != len(shown) or ctypes.string_at(start, len(shown)) != shown:
        return
    words = shown.split(b"\0")
    for index, key, _ in _places([os.fsdecode(word) for word in words]):
        raw = os.fsencode(key)
        if raw and not raw.startswith(b"@"):
            after = start + sum(len(word) + 1 for word in words[: index + 1]) - 1
            ctypes.memset(after - len(raw), ord("x"), len(raw))
