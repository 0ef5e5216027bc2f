"""Step 3: cut the draft's beginning out of the target: its first layers, exit norm and head."""

import argparse
from pathlib import Path

from model import draft_of, load, save


def main() -> None:
    """Parse the command line, cut, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("target", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="default: up to the exit; more are copied from the target too")
    args = parser.parse_args()
    target, _ = load(args.target)
    save(draft_of(target, args.layers or target.config.exit_layer), args.out)


if __name__ == "__main__":
    main()
