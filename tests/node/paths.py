"""Files on the way: of which files of dsdnode a function runs for one chat prompt, and for one steady token.

`python -m tests.node.paths [--shards N] [--list]` starts a swarm of real daemons, each with a profile hook (hook/), and
talks with it by `dsdnode chat`, each prompt in a chat of its own. What only imports run does not count, nor what a node
does at its own pace (the DHT's upkeep, the watch over its memory, looks at neighbours). Told are the files of the first
prompt and the median; a file counts for a token if it is needed in most instants of a long reply.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import dsdnode
from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest
from tests.node import processes

ROOT = Path(dsdnode.__path__[0])
PROMPTS = (
    "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?",
    "Sara picks 6 baskets with 12 apples each. She eats 5 apples. How many apples are left?",
    "Tom has 50 marbles. Tom gives 12 of them to Ann. How many marbles does Tom have left?",
    "Lea buys 4 boxes with 8 pens each. She loses 3 pens. How many pens are left?",
)
SETTLED_S = 5.0
"""A chat has joined and imported what it needs: what follows is the prompt's."""
BUCKET_S = 0.1
STEADY_SHARE = 0.5
"""Of the instants of a long reply: pings and other people's lookups fall into a few of them only."""
STEADY_TOKENS = 400


class Hooked:
    """The environment in which every Python process tells, and what they told."""

    def __init__(self, folder: Path) -> None:
        self._out = folder / "paths"
        self._out.mkdir()
        path = os.pathsep.join([str(Path(__file__).parent / "hook"), str(ROOT.parent)])
        os.environ |= {"PYTHONPATH": path, "PATHS_ROOT": str(ROOT), "PATHS_OUT": str(self._out)}
        os.environ["PATHS_BUCKET_S"] = str(BUCKET_S)

    def between(self, start_s: float, end_s: float) -> dict[int, set[str]]:
        """Files by instant."""
        found: dict[int, set[str]] = {}
        for path in self._out.glob("*.json"):
            for name, bucket, _ in json.loads(path.read_text()):
                if int(start_s / BUCKET_S) <= bucket <= int(end_s / BUCKET_S):
                    found.setdefault(bucket, set()).add(name)
        return found


def ask(join: str, folder: Path, prompt: str) -> tuple[float, float]:
    """When a prompt of a chat was typed, and when the reply was over (its last line, on stderr, is there)."""
    command = [*processes.COMMAND, "chat", "--join", join, "--data-dir", str(folder / "chat")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1) as chat:
        assert chat.stdin is not None and chat.stderr is not None
        time.sleep(SETTLED_S)
        start_s = time.monotonic()
        chat.stdin.write(prompt + "\n")
        chat.stdin.flush()
        line = chat.stderr.readline()
        assert " tok " in line, line
        end_s = time.monotonic()
        time.sleep(2 * BUCKET_S)
        chat.communicate(timeout=20)
    return start_s, end_s


async def talk(join: str) -> None:
    """Prints when the second quarter of a long reply began and when the third ended, and nothing else."""
    set_up("warning", "auto")
    client = await Client.connect([join])
    messages = [{"role": "user", "content": PROMPTS[0]}]
    request = GenerateRequest(messages=messages, max_tokens=STEADY_TOKENS, ignore_eos=True)
    arrivals = [time.monotonic() async for _ in client.generate(request)]
    print(arrivals[len(arrivals) // 4], arrivals[3 * len(arrivals) // 4])
    await client.close()


def measure(num_shards: int) -> tuple[list[set[str]], set[str]]:
    """Files of each prompt, and of a token."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        hooked = Hooked(folder)
        ranges = [f"{start}:{end}" for start, end in pairwise(8 * i // num_shards for i in range(num_shards + 1))]
        with processes.swarm(folder) as swarm:
            join = swarm.start_ring(ranges)
            spans = [ask(join, folder, prompt) for prompt in PROMPTS]
            command = [sys.executable, "-m", "tests.node.paths", "--talk", join]
            start, end = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            time.sleep(1.0)
        prompts = [set().union(*hooked.between(*span).values()) for span in spans]
        instants = hooked.between(float(start), float(end))
        steady = Counter(file for files in instants.values() for file in files)
        return prompts, {file for file, count in steady.items() if count >= STEADY_SHARE * len(instants)}


def told(what: str, files: Iterable[str], *, listed: bool) -> None:
    files = sorted(files)
    rooms = Counter(file.partition("/")[0] if "/" in file else "-" for file in files)
    print(f"{what}: {len(files)} files ({', '.join(f'{room} {num}' for room, num in sorted(rooms.items()))})")
    for file in files if listed else ():
        print(f"  {file}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--list", action="store_true", help="name them")
    parser.add_argument("--talk", metavar="JOIN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.talk:
        return asyncio.run(talk(options.talk))
    prompts, token = measure(options.shards)
    print(f"a chat prompt: {median(map(len, prompts)):g} files (of {len(prompts)}: {sorted(map(len, prompts))})")
    told("all of them", set().union(*prompts), listed=options.list)
    told("a steady token", token, listed=options.list)


if __name__ == "__main__":
    main()
