"""The bundled demo pair (see MODEL_CARD.md) and the generator of the word problems it was trained on."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def demo_target() -> Path:
    """Return the path of the bundled target model: the one a swarm splits by layers."""
    return _FOLDER / "demo-target.gguf"


def demo_draft() -> Path:
    """Return the path of the bundled draft model: the one that a drafter drafts with."""
    return _FOLDER / "demo-draft.gguf"
