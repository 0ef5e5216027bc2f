"""Panels side by side in a file, for benches and simulations (matplotlib, an extra: `pip install dsdnode[plot]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsdnode.errors import BadInput

SUFFIXES = (".svg", ".png", ".pdf")


def check(path: Path) -> None:
    """Can a picture be drawn there? Before any work is done for nothing. Raises BadInput."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--plot {path}: name it {' or '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BadInput("--plot draws with matplotlib: pip install 'dsdnode[plot]'") from None
    if not path.parent.is_dir():
        raise BadInput(f"--plot {path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise BadInput(f"--plot {path} cannot be written: it is a folder")


def canvas(num_panels: int, width_inches: float, height_inches: float, *, share_y: bool = False) -> tuple[Any, Any]:
    """A figure and its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    return figure, figure.subplots(1, num_panels, sharey=share_y, squeeze=False)[0]


def save(figure: Any, path: Path) -> None:
    """The same figures make the same file. Raises BadInput when it cannot be written."""
    import matplotlib

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    try:
        with matplotlib.rc_context({"svg.hashsalt": "dsdnode"}):
            figure.savefig(path, metadata=undated.get(path.suffix.lower()))
    except OSError as error:
        raise BadInput(f"--plot {path} cannot be written: {error.strerror or error}") from None
