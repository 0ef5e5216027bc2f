"""Mallory runs what she likes in a process that went into the cage (test_captive.py: in a real worker)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsdnode.engine import cage, landlock, seccomp
from dsdnode.engine.cage import Cage, environment

linux = pytest.mark.skipif(sys.platform != "linux", reason="this system has no cage")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Alice's: what a worker must not have, and the model that it may."""
    for name in ("identity.key", "swarm.key", "history", "swarm.json", "notes.txt", "model.gguf"):
        (tmp_path / name).write_text(f"alice's {name}")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def child(act: Callable[[], object]) -> str:
    """What becomes of an act in a process of its own: "done", or the name of the error."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "done"
        try:
            act()
        except BaseException as error:
            said = type(error).__name__
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def caged(home: Path, act: Callable[[], object]) -> str:
    """The same, in the cage."""

    def shut_in() -> None:
        shut = Cage()
        shut.shut_files([home / "model.gguf"])
        shut.shut_calls()
        act()

    return child(shut_in)


def syscall(number: int, *arguments: int) -> None:
    """Raises OSError where the kernel says no."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "refused")


# --- one kind after the other


@linux
def test_what_a_worker_may(home: Path) -> None:
    def compute() -> None:
        assert (home / "model.gguf").read_text()
        import wave  # of Python's own library, not loaded yet

        assert wave.__file__ and os.urandom(4) and os.sysconf("SC_NPROCESSORS_ONLN")
        import threading

        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        os.kill(os.getpid(), 0)

    assert caged(home, compute) == "done"


@linux
@pytest.mark.skipif(not landlock.version(), reason="this kernel has no landlock")
@pytest.mark.parametrize("name", ["identity.key", "swarm.key", "history", "swarm.json", "notes.txt", "."])
def test_it_reads_nothing_of_alice_s(home: Path, name: str) -> None:
    assert caged(home, lambda: os.close(os.open(home / name, os.O_RDONLY))) == "PermissionError"


@linux
@pytest.mark.skipif(not landlock.version(), reason="this kernel has no landlock")
@pytest.mark.parametrize("path", ["/", "/etc/passwd", "/home", "/proc/DAEMON/environ", "/proc/1/cmdline", "/tmp"])
def test_nor_of_the_machine_s(home: Path, path: str) -> None:
    path = path.replace("DAEMON", str(os.getpid()))
    assert caged(home, lambda: os.close(os.open(path, os.O_RDONLY))) == "PermissionError"


@linux
@pytest.mark.parametrize(
    "change",
    [
        lambda home: (home / "new").write_text("mallory"),
        lambda home: os.open(home / "model.gguf", os.O_WRONLY),
        lambda home: os.open(home / "model.gguf", os.O_RDONLY | os.O_TRUNC),
        lambda home: os.truncate(home / "notes.txt", 0),
        lambda home: (home / "notes.txt").unlink(),
        lambda home: (home / "notes.txt").rename(home / "identity.key"),
        lambda home: (home / "identity.key").chmod(0o644),
        lambda home: os.utime(home / "notes.txt", (0, 0)),
        lambda home: os.symlink("/etc/passwd", home / "link"),
        lambda home: (home / "folder").mkdir(),
        lambda home: os.mkfifo(home / "pipe"),
        lambda home: os.setxattr(home / "notes.txt", "user.mallory", b"1"),
    ],
)
def test_it_changes_no_file(home: Path, change: Callable[[Path], object]) -> None:
    before = {path.name: (path.read_text(), path.stat().st_mode) for path in home.iterdir()}
    assert caged(home, lambda: change(home)) == "PermissionError"
    assert {path.name: (path.read_text(), path.stat().st_mode) for path in home.iterdir()} == before


@linux
@pytest.mark.parametrize(
    "call",
    [
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        lambda: socket.socketpair(),
    ],
)
def test_it_opens_no_socket(home: Path, call: Callable[[], object]) -> None:
    assert caged(home, call) == "PermissionError"


@linux
@pytest.mark.parametrize(
    "start",
    [
        os.fork,
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: os.popen("true").read(),
        lambda: __import__("subprocess").run([sys.executable, "-c", ""], check=True),
        lambda: __import__("multiprocessing").get_context("fork").Process(target=print).start(),
    ],
)
def test_it_starts_no_process(home: Path, start: Callable[[], object]) -> None:
    assert caged(home, start) == "PermissionError"


@linux
@pytest.mark.parametrize(
    "harm",
    [
        lambda daemon: os.kill(daemon, 0),
        lambda daemon: os.kill(daemon, signal.SIGSTOP),
        lambda daemon: os.kill(-daemon, 0),
        lambda daemon: signal.pidfd_send_signal(os.pidfd_open(daemon), 0),
        lambda daemon: __import__("resource").prlimit(daemon, 7, (3, 3)),
        lambda daemon: os.setpriority(os.PRIO_PROCESS, daemon, 19),
    ],
)
def test_it_reaches_no_other_process(home: Path, harm: Callable[[int], object]) -> None:
    daemon = os.getpid()
    assert caged(home, lambda: harm(daemon)) == "PermissionError"


@linux
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (101, (16, os.getpid())),  # ptrace(ATTACH)
        (310, (os.getpid(), 0, 0, 0, 0)),  # process_vm_readv
        (425, (1, 0)),  # io_uring_setup
        (321, (0, 0, 0)),  # bpf
        (272, (0x10000000,)),  # unshare(CLONE_NEWUSER)
        (435, (0, 0)),  # clone3
        (437, (0, 0, 0, 0)),  # openat2
        (160, (1, 0)),  # setrlimit
    ],
)
def test_nor_by_the_back_door(home: Path, number: int, arguments: tuple[int, ...]) -> None:
    assert caged(home, lambda: syscall(number, *arguments)) in ("PermissionError", "OSError")


@pytest.mark.parametrize("column", [0, 1])
def test_the_other_numbers_of_a_call_are_denied(column: int) -> None:
    """x86_64 knows each call by a second number, and by those of 32-bit programs."""
    audit_arch = list(seccomp._ARCHITECTURES.values())[column][0]
    denied = seccomp.rules(1, devices=False)
    program = list(seccomp._instructions(denied, column, audit_arch))
    for rule in denied:
        number = rule.numbers[column]
        if number is not None and rule.arg is None:
            assert verdict(program, number, audit_arch) == 0x50000 | rule.error
            assert verdict(program, number | 0x40000000, audit_arch) == 0x50000 | errno.EPERM
            assert verdict(program, number, 0x40000003) == 0x50000 | errno.EPERM
    assert verdict(program, 4095, audit_arch) == 0x7FFF0000


def verdict(program: list[bytes], number: int, audit_arch: int) -> int:
    """What the kernel would make of a call whose arguments are all 0."""
    held, at = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack("<HBBI", program[at])
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            held = {0: number, 4: audit_arch}.get(operand, 0)
        elif code == 0x54:
            held &= operand
        else:
            at += if_true if (held == operand if code == 0x15 else held >= operand) else if_false


@linux
def test_limits_stay(home: Path) -> None:
    import resource

    def check() -> None:
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= cage.MAX_OPEN_FILES + 2
        assert 0 < resource.getrlimit(resource.RLIMIT_DATA)[1] < 1 << 50
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))

    assert caged(home, check) in ("PermissionError", "ValueError")


def test_a_worker_gets_no_secret_of_its_daemon() -> None:
    alices = {
        "DSDNODE_SWARM_KEY": "opensesame",
        "DSDNODE_JOIN": "dsd://here",
        "AWS_SECRET_ACCESS_KEY": "a",
        "HF_TOKEN": "b",
        "NVIDIA_API_KEY": "c",
        "SSH_AUTH_SOCK": "/run/agent",
        "HOME": "/home/alice",
        "LD_PRELOAD": "mallory.so",
        "LD_LIBRARY_PATH": "/opt/cuda/lib64",
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "4",
        "LANG": "de_DE.UTF-8",
    }
    assert set(environment(alices)) == {
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "LANG",
        "OPENBLAS_NUM_THREADS",
    }


# --- what a system does not have


def test_a_mac_works_without_and_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "environ", {"LANG": "C"})
    shut = Cage()
    shut.shut_files([home / "model.gguf"])
    shut.shut_calls()
    assert shut.protection.holds == ("clean environment",)
    assert [one.partition(":")[0] for one in shut.protection.left_out] == [
        "limits",
        "no new privileges",
        "landlock",
        "seccomp",
    ]
    assert (home / "notes.txt").read_text()


@linux
def test_what_is_missing_is_said_and_the_rest_holds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")

    def check() -> None:
        shut = Cage()
        shut.shut_files([])
        shut.shut_calls()
        assert {"limits", "no new privileges"} <= set(shut.protection.holds)
        assert {f"landlock: {cage.NOT_HERE}", f"seccomp: {cage.NOT_HERE}"} <= set(shut.protection.left_out)

    assert caged(home, check) == "done"


@linux
def test_a_thread_that_was_there_before_is_said() -> None:
    import threading

    shut = threading.Event()

    def check() -> None:
        threading.Thread(target=shut.wait, daemon=True).start()
        one = Cage()
        one.shut_files([])
        assert "landlock" not in one.protection.holds
        assert any("a thread was there before" in word for word in one.protection.left_out)

    assert child(check) == "done"


def test_the_numbers_are_those_of_libseccomp() -> None:
    """Both architectures, though a machine has but one."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("no libseccomp here")
    for rule in seccomp.rules(1, devices=False):
        for (audit_arch, _), number in zip(seccomp._ARCHITECTURES.values(), rule.numbers, strict=True):
            known = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(audit_arch), rule.name.encode())
            assert known == number or (number is None and known < 0), (rule, known)
