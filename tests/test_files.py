"""Alice names outputs that are no files, and data dirs that are not hers alone."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsdnode import files
from dsdnode.errors import BadInput
from dsdnode.files import check_own, output, reading, replacing, shown, words


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def write(path: Path, data: bytes = b"alice's") -> None:
    with replacing(path) as file:
        file.write(data)


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def door(folder: Path) -> Path:
    """A socket; its name stays though it is closed."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    return folder / "socket"


def inner(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


SPECIAL: list[tuple[str, Callable[[Path], Path]]] = [("a pipe", pipe), ("a socket", door), ("a folder", inner)]


@pytest.mark.parametrize(("kind", "make"), SPECIAL)
@pytest.mark.parametrize("by_link", [False, True])
def test_what_is_no_file_stays_what_it_is(
    kind: str, make: Callable[[Path], Path], by_link: bool, tmp_path: Path
) -> None:
    special = make(tmp_path)
    before = special.lstat()
    named = special
    if by_link:
        named = tmp_path / "link"
        named.symlink_to(special)
    with pytest.raises(BadInput, match=kind):
        write(named)
    assert (special.lstat().st_mode, special.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert named.is_symlink() is by_link and len(list(tmp_path.iterdir())) == 1 + by_link


def test_a_device_stays_what_it_is(tmp_path: Path) -> None:
    """(A terminal of our own: nothing that a broken test could take from the machine.)"""
    ours, theirs = os.openpty()
    try:
        (tmp_path / "link").symlink_to(os.ttyname(theirs))
        for named in (Path(os.ttyname(theirs)), tmp_path / "link"):
            with pytest.raises(BadInput, match="a device"):
                write(named)
        assert stat.S_ISCHR(os.stat(os.ttyname(theirs)).st_mode)
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "old").write_text("bob's")
    for name, target in (("to-old", "old"), ("to-new", "disk/new"), ("to-link", "to-old")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, name.encode())
        assert os.readlink(tmp_path / name) == target
        assert (tmp_path / target).read_bytes() == name.encode()
    assert not (tmp_path / "old").is_symlink() and (tmp_path / "disk" / "new").is_file()


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "lost").symlink_to("none/file")
    with pytest.raises(BadInput, match="cannot be written"):
        write(tmp_path / "round")
    with pytest.raises(BadInput, match="there is no folder"):
        write(tmp_path / "lost")


def test_an_output_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    write(tmp_path / "out", b"before")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "out") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "out").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1
    assert output(tmp_path / "another") == tmp_path / "another"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_the_umask_is_heeded_and_a_file_keeps_its_mode(mask: int, mode: int, tmp_path: Path) -> None:
    with umask(mask):
        write(tmp_path / "new")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
        (tmp_path / "new").chmod(0o640)
        write(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255))
    with pytest.raises(BadInput, match="too long"):
        write(tmp_path / ("x" * 256))


def test_a_full_disk_is_said_in_words() -> None:
    with pytest.raises(BadInput, match="No space left"), words(Path("report.svg")):
        raise OSError(28, "No space left on device")


def test_a_path_is_shown_whatever_its_bytes_are() -> None:
    assert shown(Path(os.fsdecode(b"caf\xe9/\xff.gguf"))) == "caf\\xe9/\\xff.gguf"
    assert shown(Path("café")) == "café"


# --- folders


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o722, 0o720, 0o702])
def test_a_data_dir_where_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(BadInput, match="chmod go-w"):
        check_own(tmp_path)


def test_a_data_dir_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(BadInput, match="another user's"):
        check_own(tmp_path)


def test_one_s_own_data_dir_is_fine_and_so_is_none_yet(tmp_path: Path) -> None:
    for mode in (0o700, 0o755, 0o750):
        tmp_path.chmod(mode)
        check_own(tmp_path)
    check_own(tmp_path / "none")


def test_a_pipe_is_read_to_its_end_however_it_comes_but_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SILENT_S", 0.01)
    path = pipe(tmp_path)
    with reading(path) as alice:
        bob = os.open(path, os.O_WRONLY)
        os.write(bob, b"one line\nhalf a")
        assert alice.readline() == b"one line\n"
        with pytest.raises(TimeoutError, match="nothing comes from it"):
            alice.read()  # bob has gone to sleep
    with reading(path) as alice:
        os.write(bob, b" line")
        os.close(bob)
        assert alice.read() == b" line"
