"""Panels side by side in a file, for benches and simulations (matplotlib, an extra: `pip install dsdnode[plot]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsdnode.errors import BadInput
from dsdnode.files import output, replacing, words

SUFFIXES = (".svg", ".png", ".pdf")


def check(path: Path) -> None:
    """Can a picture be drawn there? Before any work is done for nothing. Raises BadInput."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--plot {path}: name it {' or '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BadInput("--plot draws with matplotlib: pip install 'dsdnode[plot]'") from None
    output(path)


def canvas(num_panels: int, width_inches: float, height_inches: float, *, share_y: bool = False) -> tuple[Any, Any]:
    """A figure and its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    return figure, figure.subplots(1, num_panels, sharey=share_y, squeeze=False)[0]


def save(figure: Any, path: Path) -> None:
    """The same figures make the same file. Raises BadInput when it cannot be written."""
    import matplotlib

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    kind = path.suffix.lower()
    with words(path), replacing(path) as file, matplotlib.rc_context({"svg.hashsalt": "dsdnode"}):
        figure.savefig(file, format=kind[1:], metadata=undated.get(kind))
