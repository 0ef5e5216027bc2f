"""Step 3: cut the draft's beginning out of the target: its first layers, exit norm and head."""

import argparse
from pathlib import Path

from model import draft_of, load, save


def main() -> None:
    """Parse the command line, cut, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("target", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    target, _ = load(args.target)
    save(draft_of(target), args.out)


if __name__ == "__main__":
    main()
