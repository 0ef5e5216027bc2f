"""What a worker may no longer ask of the kernel: a filter of system calls, for good (seccomp(2)). Linux only.

A program of our own, since there are two architectures and one list: libseccomp is not on every system, and its Python
bindings have not been touched for years. A list of what is denied, not of what is allowed, since GPU drivers and new
versions of libc ask for more than anybody can list.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SOCKETS: Final = (
    "socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242"
)
"""Name, number on x86_64, number on aarch64 (-: it has none). The socket to the daemon is there already."""
_PROCESSES: Final = (
    "fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, ptrace 101 117, process_vm_readv 310 270, "
    "process_vm_writev 311 271, process_madvise 440 440, kcmp 312 272, pidfd_open 434 434, pidfd_getfd 438 438, "
    "pidfd_send_signal 424 424, tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, "
    "setpriority 141 140, setrlimit 160 164"
)
_FILES: Final = (
    "truncate 76 45, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, rmdir 84 -, "
    "mkdir 83 -, mkdirat 258 34, mknod 133 -, mknodat 259 33, link 86 -, linkat 265 37, symlink 88 -, "
    "symlinkat 266 36, creat 85 -, open_by_handle_at 304 265, chmod 90 -, fchmod 91 52, fchmodat 268 53, "
    "fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, setxattr 188 5, lsetxattr 189 6, "
    "fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, utime 132 -, utimes 235 -, "
    "utimensat 280 88, futimesat 261 -"
)
"""Landlock knows nothing of modes, owners and times: without this a worker could show a key to all."""
_SYSTEM: Final = (
    "mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, move_mount 429 429, open_tree 428 428, "
    "fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, unshare 272 97, "
    "setns 308 268, bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425, "
    "io_uring_enter 426 426, io_uring_register 427 427, keyctl 250 219, add_key 248 217, request_key 249 218, "
    "init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104, kexec_file_load 320 294, "
    "reboot 169 142"
)
"""What has had holes, or is the system's alone; io_uring would also do all of the above past this filter."""
_UNREADABLE: Final = "clone3 435 435, openat2 437 437"
"""What they are asked stands in memory, where no filter sees it: "not there" sends libc to the older calls."""
_CLONE_THREAD: Final = 0x10000
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_X32: Final = 0x40000000
"""x86_64's other table of numbers begins here."""
_ARCHITECTURES: Final = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
"""Its AUDIT_ARCH, and the number of seccomp(2)."""
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SET_MODE_FILTER = 1
_ALL_THREADS, _NO_SPECULATION_PENALTY = 1, 4
"""Old kernels slow down whoever has a filter, against code that reads its own process: a worker runs no such code."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A system call by its numbers (x86_64, aarch64): denied, unless argument `arg` has `value` under `mask`."""

    name: str
    numbers: tuple[int | None, int | None]
    error: int = errno.EPERM
    arg: int | None = None
    mask: int = 0xFFFFFFFF
    value: int = 0


def rules(pid: int, devices: bool) -> list[Rule]:
    """For the process `pid`; with `devices` files may be opened for writing, as a GPU's must be."""
    denied = [Rule(*call) for text in (_SOCKETS, _PROCESSES, _FILES, _SYSTEM) for call in _calls(text)]
    denied += [Rule(*call, error=errno.ENOSYS) for call in _calls(_UNREADABLE)]
    denied.append(Rule("clone", (56, 220), arg=0, mask=_CLONE_THREAD, value=_CLONE_THREAD))
    denied.append(Rule("kill", (62, 129), arg=0, value=pid))  # an abort is a signal to oneself
    denied.append(Rule("tgkill", (234, 131), arg=0, value=pid))
    denied.append(Rule("prlimit64", (302, 261), arg=2))  # no new limit: neither one's own raised, nor another's lowered
    if not devices:
        denied.append(Rule("open", (2, None), arg=1, mask=_WRITE_FLAGS))
        denied.append(Rule("openat", (257, 56), arg=2, mask=_WRITE_FLAGS))
    return denied


def _calls(text: str) -> Iterator[tuple[str, tuple[int | None, int | None]]]:
    for call in text.split(", "):
        name, x86_64, aarch64 = call.split()
        yield name, (int(x86_64), None if aarch64 == "-" else int(aarch64))


def restrict(devices: bool = False) -> bool:
    """Every thread of this process, and those to come, obey `rules` from now on; False: not on this system.

    The process must have given up new privileges before.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES or sys.maxsize < 1 << 32:
        return False
    audit_arch, syscall_number = _ARCHITECTURES[machine]
    column = list(_ARCHITECTURES).index(machine)
    program = b"".join(_instructions(rules(os.getpid(), devices), column, audit_arch))
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    flags = _ALL_THREADS | _NO_SPECULATION_PENALTY
    return int(libc.syscall(syscall_number, _SET_MODE_FILTER, flags, filter_)) == 0


def _instructions(denied: list[Rule], column: int, audit_arch: int) -> Iterator[bytes]:
    """A BPF program over struct seccomp_data: number at 0, architecture at 4, arguments of 8 bytes from 16."""
    yield _op(_LOAD, 4)
    yield _op(_IF_EQUAL, audit_arch, 1, 0)
    yield _op(_RETURN, _ERRNO | errno.EPERM)  # 32-bit calls have other numbers
    yield _op(_LOAD, 0)
    yield _op(_IF_AT_LEAST, _X32, 0, 1)
    yield _op(_RETURN, _ERRNO | errno.EPERM)
    for rule in denied:
        number = rule.numbers[column]
        if number is None:
            continue
        yield _op(_IF_EQUAL, number, 0, 1 if rule.arg is None else 5)
        if rule.arg is not None:
            yield _op(_LOAD, 16 + 8 * rule.arg)
            yield _op(_AND, rule.mask)
            yield _op(_IF_EQUAL, rule.value, 0, 1)
            yield _op(_RETURN, _ALLOW)
        yield _op(_RETURN, _ERRNO | rule.error)
    yield _op(_RETURN, _ALLOW)


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
