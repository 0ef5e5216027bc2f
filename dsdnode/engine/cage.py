"""What a worker process is left with. It reads strangers' files and states in C++, so it is taken for lost.

It may read its model, Python and the libraries, compute, and talk to its daemon. It has none of the daemon's secrets
in its environment, opens no socket, starts no program, writes no file, and neither sees nor signals another process.
What a system does not offer is left out, and said (`dsdnode status`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dsdnode.engine import landlock, seccomp

ENVIRONMENT: Final = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH", "PYTHONHOME",
                      "PYTHONPATH", "PYTHONUTF8", "TZ", "__CF_USER_TEXT_ENCODING")  # fmt: skip
"""What Python and the loader need to be the same as in the daemon; TZ: templates may say the time."""
ENVIRONMENT_PREFIXES: Final = ("CUDA_", "GGML_", "GOMP_", "HIP_", "HSA_", "KMP_", "OMP_", "OPENBLAS_", "ROCR_",
                               "VK_")  # fmt: skip
"""How libraries compute, and on which device."""
MAX_OPEN_FILES: Final = 64
"""Six are open in a worker, a few more while it loads libraries, and the files of its model."""

NOT_HERE: Final = "not on this system"
_PR_SET_NO_NEW_PRIVS: Final = 38
_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/proc/self", "/proc/cpuinfo",
                  "/proc/meminfo", "/sys/devices/system")  # fmt: skip
"""Libraries, and what they ask of the machine."""
_GPU_SYSTEM: Final = (
    "/sys",
    "/proc/devices",
    "/proc/driver",
    "/proc/modules",
    "/proc/sys",
    "/etc/vulkan",
    "/etc/OpenCL",
    "/opt/rocm",
)
_GPU_DEVICES: Final = ("nvidia*", "nvidia-caps/*", "dri", "kfd", "dxg")
"""Under /dev."""


@dataclass(frozen=True, slots=True)
class Protection:
    """What holds for a worker, and what was left out and why, each in a few words for people."""

    holds: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the daemon's environment its worker gets."""
    kept = {name: value for name, value in environ.items() if _is_needed(name)}
    return kept | {"OPENBLAS_NUM_THREADS": "1"}  # a thread that runs before the cage is outside of it


def _is_needed(name: str) -> bool:
    return name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)


class Cage:
    """Shut in two steps, for good: files first, before libraries are loaded whose threads would be outside; then calls
    of the system, for libraries ask more while they are loaded than ever after. Nothing of a stranger is read before.
    """

    def __init__(self, gpu: bool = False) -> None:
        """With `gpu` its devices stay open, and its driver keeps the limits that it needs."""
        self._gpu = gpu
        self._holds: list[str] = []
        self._left_out: list[str] = []

    @property
    def protection(self) -> Protection:
        return Protection(tuple(self._holds), tuple(self._left_out))

    def shut_files(self, readable: Iterable[Path], max_memory_bytes: int = 0) -> None:
        """Nothing but Python, the libraries and `readable` can be opened; to be called before there is a second thread.

        `max_memory_bytes` 0: all the memory that the machine has.
        """
        self._note("clean environment", all(map(_is_needed, os.environ)), "more than was to be there")
        readable = list(readable)
        self._note("limits", _limit(self._gpu, max_memory_bytes, MAX_OPEN_FILES + len(readable)))
        self._note("no new privileges", _give_up_privileges())
        alone = _is_alone()
        system = [Path(name) for name in _SYSTEM + (_GPU_SYSTEM if self._gpu else ())]
        gpus = [path for pattern in _GPU_DEVICES for path in Path("/dev").glob(pattern)] if self._gpu else []
        bound = landlock.restrict([*readable, *_libraries(), *system], [Path(os.devnull), *gpus])
        self._note("landlock", bound and alone, "a thread was there before" if bound else NOT_HERE)

    def shut_calls(self) -> None:
        """No socket, no process, no change of any file (seccomp.py), whatever thread asks."""
        self._note("seccomp", seccomp.restrict(devices=self._gpu))
        if self._gpu:
            self._left_out.append("the GPU's devices, and the limits of files and memory: its driver needs them")

    def _note(self, name: str, done: bool, why_not: str = NOT_HERE) -> None:
        if done:
            self._holds.append(name)
        else:
            self._left_out.append(f"{name}: {why_not}")


def _limit(gpu: bool, max_memory_bytes: int, max_open_files: int) -> bool:
    """Not of processes: that one counts the user's threads, llama.cpp's among them."""
    if sys.platform != "linux":
        return False
    import resource

    most = {resource.RLIMIT_CORE: 0}  # a core dump would hold prompts
    if not gpu:
        most |= {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: max_open_files}
        most[resource.RLIMIT_DATA] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if max_memory_bytes:
        most[resource.RLIMIT_DATA] = max_memory_bytes
    for limit, value in most.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    return True


def _give_up_privileges() -> bool:
    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) == 0


def _is_alone() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _libraries() -> set[Path]:
    """Where Python, llama.cpp and what they import lie; never the folder that the daemon was started in."""
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    named |= {sysconfig.get_config_var("LIBDIR")}
    for variable in ("LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH"):
        named |= set(os.environ.get(variable, "").split(os.pathsep))
    found = {Path(one) for one in named if one}
    found |= {path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")}
    found.add(Path(__file__).parents[1])
    engine = importlib.util.find_spec("llama_cpp")
    if engine is not None and engine.origin is not None:
        found.add(Path(engine.origin).parents[1])
    return found
