"""The vectors of docs/protocol.md: `python -m tests.protocol.vectors` writes them anew, `--check` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.protocol import examples, figures, invitations, peers, relays

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "vectors"
FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "identity": peers.identities,
    "handshake": peers.handshakes,
    "records": peers.records,
    "dht": peers.keys,
    "headers": examples.headers,
    "frames": examples.whole_messages,
    "digests": figures.digests,
    "seals": figures.seals,
    "noise": figures.noises,
    "draws": figures.draws,
    "shaping": figures.shapings,
    "states": figures.states,
    "acceptance": figures.acceptances,
    "key_tokens": figures.bitmaps,
    "relays": relays.exchange,
    "invitations": invitations.codes,
}
MAX_WIDTH = 116


def spelled(name: str) -> str:
    """What the file of that name must hold."""
    return spell(FILES[name](), 0) + "\n"


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    """The committed file."""
    found: dict[str, Any] = json.loads(path_of(name).read_text())
    return found


def outdated() -> list[str]:
    """Files that are missing, or that say something else than the code does now."""
    return [name for name in FILES if not path_of(name).exists() or path_of(name).read_text() != spelled(name)]


def spell(value: Any, indent: int) -> str:
    """JSON with as much on a line as fits one."""
    short = json.dumps(value)
    if len(short) + indent <= MAX_WIDTH or not isinstance(value, dict | list):
        return short
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {spell(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + "\n" + " " * indent + "}"
    parts = [spell(item, indent + 1) for item in value]
    return "[\n" + ",\n".join(inner + part for part in parts) + "\n" + " " * indent + "]"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file is outdated")
    changed = outdated()
    if parser.parse_args(arguments).check:
        print("\n".join(f"{path_of(name)} is outdated" for name in changed) or "all vectors are up to date")
        return 1 if changed else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in changed:
        path_of(name).write_text(spelled(name))
        print(f"{path_of(name)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
