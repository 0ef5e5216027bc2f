"""The models of this user that are here: a folder each, below `models` in the data dir.

A folder gets its name when all in it is whole; until then it begins with a dot, and a pull of the same goes on in it.
Whoever fetches into it, or removes it, holds the lock of its journal; who takes such locks, or asks who has them, holds
that of all for a moment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from dsdnode.errors import BadInput, DsdError
from dsdnode.files import replacing

ENTRY = "model.json"
JOURNAL = "journal"
HEADER = "header-"
SOURCE = "source"
"""Of the headers beside it: of what, and who gave them."""
TENSORS = "tensors.json"
"""Of what was pulled: which tensors are here, with their hashes (holdings.py)."""
PARTIAL = "."
LOCK = ".lock"
RESERVE_BYTES = 256 << 20
"""Of the disk is left to others: a machine whose disk is full does nothing more."""
MAX_ENTRY_BYTES = 1 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a model beside its files. `source`: pinned; `asked`: as it was written."""

    name: str
    source: str
    asked: str
    model: str
    model_id: str
    weights_hash: str
    layers: tuple[int, int]
    num_layers: int
    files: tuple[str, ...]
    """In its folder; of one that was added in place, whole paths."""
    size_bytes: int
    licence: str = ""
    checked: str = ""
    """By what its bytes are known to be right, in words."""


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """Where its header alone was looked at, or all else is lost, nobody knows what was asked for."""

    name: str
    layers: tuple[int, int] | None
    asked: str
    size_bytes: int
    """On the disk by now."""


class Store:
    def __init__(self, data_dir: Path, max_bytes: int | None = None) -> None:
        self.folder = data_dir / "models"
        self._max_bytes = max_bytes

    def entries(self) -> list[Entry]:
        return [entry for folder in self._folders() if (entry := _read(folder)) is not None]

    def unfinished(self) -> list[Unfinished]:
        """And what has lost what was said of it: it takes room, and can be removed."""
        lost = [one for one in self._folders() if _read(one) is None]
        found = [Unfinished(name=one.name, asked="", layers=None, size_bytes=_used(one)) for one in lost]
        for folder in self._folders(partial=True):
            name, began = folder.name.removeprefix(PARTIAL), _read(folder)
            if began is not None:
                found.append(Unfinished(name=name, asked=began.asked, layers=began.layers, size_bytes=_used(folder)))
            elif (folder / JOURNAL).exists() or any(folder.glob(f"{HEADER}*")):
                found.append(Unfinished(name=name, asked="", layers=None, size_bytes=_used(folder)))
        return found

    def find(self, asked: str, layers: tuple[int, int] | None) -> Entry | None:
        """What was fetched from this source, as it was written or by its name; without layers the whole model, or the
        only part of it. Not what somebody has deleted by hand."""
        meant = [one for one in self.entries() if asked in (one.asked, one.source, one.name) and self._is_here(one)]
        if layers is not None:
            meant = [one for one in meant if one.layers in (layers, (0, one.num_layers))]
            return min(meant, key=lambda one: one.layers != layers, default=None)
        whole = [one for one in meant if one.layers == (0, one.num_layers)]
        return whole[0] if whole else meant[0] if len(meant) == 1 else None

    def named(self, name: str) -> Entry:
        """Raises BadInput."""
        entry = _read(self.folder / name)
        if entry is None:
            raise _none(name)
        return entry

    def check_removable(self, name: str) -> None:
        """Raises BadInput: there is nothing of this name."""
        if name not in {one.name for one in self.entries()} | {one.name for one in self.unfinished()}:
            raise _none(name)

    def path_of(self, entry: Entry) -> Path:
        """Of its first file."""
        return self.folder / entry.name / entry.files[0]

    def _is_here(self, entry: Entry) -> bool:
        """Of one that was added in place its reader says what is wrong."""
        folder = self.folder / entry.name
        return all(os.path.isabs(file) or (folder / file).exists() for file in entry.files)

    def partial(self, name: str) -> Path:
        return self.folder / f"{PARTIAL}{name}"

    @contextmanager
    def held(self, name: str) -> Iterator[Path]:
        """The folder in which it is fetched; nobody else touches it meanwhile. Raises BadInput: another has it."""
        folder = self.partial(name)
        with ExitStack() as opened:
            with _told(folder), self._alone():
                opened.enter_context(_locked(folder))
            yield folder

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """For moments: nobody takes a lock of a model, or looks who has it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def begin(self, entry: Entry) -> Path:
        """The folder in which it is fetched, by who holds it: there is room, and it is his. Of another source nothing
        is believed that the model is read from. Raises BadInput, DsdError (no room)."""
        folder = self.partial(entry.name)
        with _told(folder), self._alone():
            self._check_room(entry)
            before = _read(folder)
            if before is not None and before.source != entry.source:
                forget_headers(folder)
            _write(folder, entry)
        return folder

    def finish(self, entry: Entry) -> Path:
        """All of it is there: it gets its name in one step, while who fetched it holds it; after a loss of power, too,
        nothing of that name lacks anything. Raises DsdError."""
        folder, final = self.partial(entry.name), self.folder / entry.name
        _write(folder, entry)
        try:
            for one in (*folder.iterdir(), folder):
                _sync(one)
            if final.exists():
                shutil.rmtree(final)
            os.rename(folder, final)
            _sync(self.folder)
            (final / JOURNAL).unlink(missing_ok=True)
        except OSError as error:
            raise DsdError(f"{final} cannot be made: {error.strerror or error}") from None
        return self.path_of(entry)

    def add(self, entry: Entry) -> None:
        """One whose files stay where they are."""
        _write(self.folder / entry.name, entry)

    def remove(self, name: str) -> int:
        """Bytes that are free now. A file that was added in place stays, and so does what a link leads to. Raises
        BadInput (it is being fetched, say), DsdError."""
        self.check_removable(name)
        freed, partial = 0, self.partial(name)
        with ExitStack() as opened:
            if partial.is_dir():
                opened.enter_context(self.held(name))
            for folder in (self.folder / name, partial):
                with _told(folder, "removed"):
                    if folder.is_symlink():
                        folder.unlink()
                        continue
                    used = _used(folder)
                    with suppress(FileNotFoundError):
                        shutil.rmtree(folder) if folder != partial else clear(folder)
                    freed += used
        return freed

    def used(self, name: str) -> int:
        """By what is there of its files, in bytes on the disk."""
        return _used(self.partial(name), but=HEADER)

    def free_bytes(self, name: str) -> int:
        """That a pull of this name may take: of the disk, and of what the user allows, but for what others fetch."""
        if self.folder.is_dir():
            with suppress(OSError), self._alone():  # (nothing can be written here: nobody fetches)
                return max(0, self._free_bytes() - self._taken_bytes(name))
        return self._free_bytes()

    def _free_bytes(self) -> int:
        at = self.folder
        while not at.exists():
            at = at.parent
        free = shutil.disk_usage(at).free - RESERVE_BYTES
        if self._max_bytes is not None:
            free = min(free, self._max_bytes - sum(map(_used, self.all_folders())))
        return max(0, free)

    def _taken_bytes(self, but: str) -> int:
        """By what others fetch just now, and is not there yet."""
        taken_bytes = 0
        for folder in self._folders(partial=True):
            other = _read(folder)
            if other is not None and other.name != but and _is_held(folder):
                taken_bytes += max(0, other.size_bytes - _used(folder))
        return taken_bytes

    def _check_room(self, entry: Entry) -> None:
        """Raises DsdError, before anything is fetched in vain."""
        needed_bytes, taken_bytes = entry.size_bytes - self.used(entry.name), self._taken_bytes(entry.name)
        free = max(0, self._free_bytes() - taken_bytes)
        if needed_bytes <= free:
            return
        limit = "" if self._max_bytes is None else f", --max-disk allows {size(self._max_bytes)}"
        limit += f", {size(taken_bytes)} are for what is being fetched" if taken_bytes else ""
        own = [one for one in self.entries() if not any(map(os.path.isabs, one.files))]
        most = max(own, key=lambda one: one.size_bytes, default=None)
        hint = f"; `dsdnode models rm {most.name}` frees {size(most.size_bytes)}" if most else ""
        raise DsdError(f"{size(needed_bytes)} are needed on the disk, and {size(free)} are left{limit}{hint}")

    def all_folders(self) -> list[Path]:
        return [*self._folders(), *self._folders(partial=True)]

    def forget(self, name: str) -> None:
        """What was fetched of it and is not whole; what somebody else fetches just now is his."""
        if self.partial(name).is_dir():
            with suppress(DsdError, OSError), self.held(name) as folder:
                clear(folder)

    def _folders(self, partial: bool = False) -> Iterator[Path]:
        """Raises DsdError."""
        try:
            found = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise DsdError(f"{self.folder} cannot be read: {error.strerror or error}") from None
        for one in found:
            if os.path.isdir(one) and one.name.startswith(PARTIAL) is partial:
                yield one


def clear(folder: Path) -> None:
    """Remove a folder that is held. The lock goes last: who comes meanwhile has to wait for it. Raises OSError."""
    for one in folder.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        elif one.name != JOURNAL:
            one.unlink()
    (folder / JOURNAL).unlink(missing_ok=True)
    with suppress(OSError):  # somebody has just begun anew
        folder.rmdir()


def keep_headers(folder: Path, beginnings: Sequence[bytes | bytearray], source: str) -> None:
    """What was read of the beginnings of a model's files. Raises BadInput, DsdError."""
    with _told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_of(folder, source):
            forget_headers(folder)
        for path, data in ((folder / SOURCE, source.encode()), *_headers(folder, beginnings)):
            if not path.is_file() or path.read_bytes() != data:
                with replacing(path) as file:
                    file.write(data)


def _headers(folder: Path, beginnings: Sequence[bytes | bytearray]) -> Iterator[tuple[Path, bytes | bytearray]]:
    for index, beginning in enumerate(beginnings):
        yield folder / f"{HEADER}{index}", beginning


def _is_of(folder: Path, source: str) -> bool:
    try:
        return (folder / SOURCE).read_bytes() == source.encode()
    except OSError:
        return False


def known_headers(folder: Path, num_files: int, source: str) -> list[bytearray]:
    """Empty where nothing is known. What another source gave (members, or a mirror, say) is not this one's word."""
    known = [bytearray() for _ in range(num_files)]
    for path, beginning in _headers(folder, known) if _is_of(folder, source) else ():
        beginning += path.read_bytes() if path.is_file() else b""
    return known


def forget_headers(folder: Path) -> None:
    """They were wrong. Raises DsdError."""
    with _told(folder):
        for path in folder.glob(f"{HEADER}*"):
            path.unlink(missing_ok=True)


def size(num_bytes: int) -> str:
    """For people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.{1 if num_bytes < 100 * factor else 0}f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def _used(folder: Path, but: str = "/") -> int:
    """On the disk, files that begin so left out: what is not written yet of a file takes nothing."""
    used = 0
    with suppress(OSError):
        for one in folder.iterdir():
            used += one.stat().st_blocks * 512 * (not one.name.startswith(but))
    return used


def _sync(path: Path) -> None:
    """A file, or a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> BinaryIO:
    """Its journal, locked. Raises BadInput (somebody else has it), OSError."""
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as opened:  # somebody has just removed it, or is done
            file = opened.enter_context((folder / JOURNAL).open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(f"another process is fetching {folder.name.removeprefix(PARTIAL)} already") from None
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / JOURNAL)):
                opened.pop_all()
                return file


def _is_held(folder: Path) -> bool:
    try:
        with (folder / JOURNAL).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _none(name: str) -> BadInput:
    return BadInput(f"there is no model {name!r} here; `dsdnode models list` names them")


def _read(folder: Path) -> Entry | None:
    """Under the name that the folder has now."""
    try:
        with (folder / ENTRY).open("rb") as file:
            entry = msgspec.json.decode(file.read(MAX_ENTRY_BYTES), type=Entry)
    except (OSError, msgspec.DecodeError):
        return None
    return msgspec.structs.replace(entry, name=folder.name.removeprefix(PARTIAL))


def _write(folder: Path, entry: Entry) -> None:
    with _told(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(folder / ENTRY) as file:
            file.write(msgspec.json.format(msgspec.json.encode(entry)))


@contextmanager
def _told(folder: Path, done: str = "written") -> Iterator[None]:
    """What the disk says is the user's."""
    try:
        yield
    except OSError as error:
        raise DsdError(f"{folder} cannot be {done}: {error.strerror or error}") from None
