"""The `dsdnode` command."""

from __future__ import annotations

import gc
import os
import sys
from types import TracebackType


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C before `main` hears of it: all that is imported may take an old machine a second."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


def _import_structlog() -> None:
    """Without the tracebacks that it has of rich where that is there: to import them, and all the lexers of pygments,
    takes a fifth of a command's start, and they are never shown, as they tell what variables hold: prompts, keys.
    """
    if {"structlog", "rich"} & sys.modules.keys():
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # (as the language says that it is not to be found)
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


sys.excepthook = _tell
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy, which multiplies nothing large here: threads only cost
gc.set_threshold(20_000, 20, 50)  # 50,000 objects are imported, and stay: to look for garbage among them is an eighth
_import_structlog()
