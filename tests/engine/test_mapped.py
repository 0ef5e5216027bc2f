"""Alice's model file while it is served: what is done to its content is noticed, what is done to its name is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsdnode.engine.mapped import MappedFile
from dsdnode.errors import ModelRefused

CONTENT = b"weights!" * 512


def later(path: Path) -> None:
    """Return when the file system's clock, which goes in steps of some ms, says another time than this file bears."""
    clock = path.with_name("clock")
    clock.touch()
    while clock.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        clock.chmod(0o600)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1_000_000_000))
    later(path)
    return path


@pytest.fixture
def mapped(model: Path) -> Iterator[MappedFile]:
    file = MappedFile(model)
    yield file
    file.close()


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(CONTENT[::-1])


def one_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"x")


def quietly(path: Path) -> None:
    """As `rsync --inplace --times` of a file with the same time."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def elsewhere(path: Path) -> None:
    """By another name of the same file."""
    os.link(path, path.with_name("other"))
    overwrite(path.with_name("other"))


def moved_first(path: Path) -> None:
    path.rename(path.with_name("moved"))
    overwrite(path.with_name("moved"))


def anew(path: Path) -> None:
    """As a shell's `>`: cut to nothing, then written."""
    path.write_bytes(CONTENT[::-1])


WRITES: list[Callable[[Path], None]] = [
    overwrite,
    one_byte,
    quietly,
    elsewhere,
    moved_first,
    anew,
    lambda path: os.truncate(path, 100),
    lambda path: os.truncate(path, 1 << 20),
]


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_into_it_is_noticed(write: Callable[[Path], None], model: Path, mapped: MappedFile) -> None:
    assert not mapped.written()
    write(model)
    assert mapped.written()
    assert mapped.written()


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(CONTENT[::-1])
    path.with_name("new").replace(path)


NAMES: list[Callable[[Path], object]] = [
    replace,
    os.unlink,
    lambda path: path.rename(path.with_name("moved")),
    lambda path: os.link(path, path.with_name("other")),
    lambda path: path.chmod(0o400),
]


@pytest.mark.parametrize("change", NAMES)
def test_what_happens_to_its_name_is_nothing_but_a_write_after_it_is(
    change: Callable[[Path], object], model: Path, mapped: MappedFile, tmp_path: Path
) -> None:
    inode = model.stat().st_ino
    kept = tmp_path / "kept"
    os.link(model, kept)
    assert not mapped.written()
    change(model)
    assert not mapped.written() and not mapped.written()
    assert mapped.replaced() is not (model.exists() and model.stat().st_ino == inode)
    kept.chmod(0o600)
    assert not mapped.written()
    later(kept)
    quietly(kept)
    assert mapped.written()


def test_a_file_that_is_not_there_is_refused_and_one_that_is_closed_is_not_trusted(
    model: Path, mapped: MappedFile
) -> None:
    with pytest.raises(ModelRefused, match="No such file"):
        MappedFile(model.with_name("none"))
    mapped.close()
    assert mapped.written()
