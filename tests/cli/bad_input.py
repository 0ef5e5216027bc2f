"""Bad input, with real commands: `python -m tests.cli.bad_input` prints case, command, exit code and message.

Then a stranger throws bytes and frames at the port of a shard: its memory, and whether a reply still comes. Fails (exit
code 1) when a code, a message, or the node is not what it should be.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gguf
import psutil

from dsdnode.identity import Identity
from dsdnode.models import demo_draft, demo_target
from tests.cli.strangers import ATTACKS
from tests.engine.random_models import VARIANTS, Variant, write_random_model
from tests.node.processes import COMMAND, Daemon, Swarm, swarm

ROOT = Path(__file__).resolve().parents[2]
MAX_GROWTH_BYTES = 1 << 30
"""The transport drops all connections after 512 MiB; what arrives until it has looked comes on top."""
PROMPT = "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?"


@dataclass(frozen=True)
class Row:
    """`says` must stand in the message: what is wrong, or what to do."""

    case: str
    command: str
    code: int
    says: str


@dataclass(frozen=True)
class World:
    """A folder with bad files, and a user without settings whose commands run there."""

    folder: Path

    def run(self, command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *command.split(" ")],
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=timeout_s,
            check=False,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
        )

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DSDNODE_")}
        home = {"XDG_CONFIG_HOME": str(self.folder / "config"), "XDG_DATA_HOME": str(self.folder / "data")}
        return kept | home | {"PYTHONPATH": str(ROOT), "DSDNODE_LISTEN": "127.0.0.1:0", "DSDNODE_THREADS": "1"}

    def check(self, row: Row) -> bool:
        """Run it, print its line; is it as it should be?"""
        done = self.run(row.command)
        lines = done.stderr.strip().splitlines()
        message = lines[-1] if lines else "(silence)"
        good = done.returncode == row.code and row.says in message and "Traceback" not in done.stderr
        shown = row.command if len(row.command) <= 160 else row.command[:157] + "..."
        print(f"{'' if good else 'WRONG '}{row.case} | {shown} | {done.returncode} | {message}", flush=True)
        return good


def write_files(folder: Path) -> None:
    (folder / "poem.gguf").write_text("once upon a time")
    (folder / "half.gguf").write_bytes(demo_target().read_bytes()[: 1 << 20])
    (folder / "header.gguf").write_bytes(demo_target().read_bytes()[:1000])
    (folder / "empty.gguf").touch()
    (folder / "typo.toml").write_text("thread = 4\n")
    (folder / "broken.toml").write_text("threads = \n")
    (folder / "target.gguf").symlink_to(demo_target())
    write_random_model(folder / "gemma2.gguf", Variant("gemma2", (2,), tied=True), 2)
    write_random_model(folder / "llama.gguf", VARIANTS["llama"], 2)
    foreign = folder / "foreign.gguf"
    foreign.write_bytes(demo_draft().read_bytes())
    tokens = gguf.GGUFReader(foreign, "r+").fields["tokenizer.ggml.tokens"]
    tokens.parts[tokens.data[-1]][0] = ord("Q")  # one token of 2,048 reads otherwise


def rows_alone(port: int) -> Iterator[Row]:
    """Nobody but the user; `port` is taken."""
    key = Identity.generate().public_key.hex()
    for model, code, says in (
        ("nowhere.gguf", 5, "nowhere.gguf"),
        ("poem.gguf", 5, "GGUF"),
        ("empty.gguf", 5, "GGUF"),
        ("half.gguf", 5, "half.gguf"),
        ("header.gguf", 5, "header.gguf"),
        ("gemma2.gguf", 5, "gemma2"),
    ):
        yield Row(f"model file {model}", f"split {model} --layers 0:1 -o out.gguf", code, says)
        yield Row(f"model file {model}", f"start --role shard --layers 0:1 -m {model}", code, says)
    yield Row("no such draft model", "start --role drafter -md nowhere.gguf", 5, "nowhere.gguf")
    yield Row("a folder as model", "start --role shard -m .", 5, ".")
    yield Row("layers out of range", "split target.gguf --layers 0:99 -o out.gguf", 2, "0:8")
    yield Row("layers out of range", "start --role shard --layers 7:9", 2, "0:8")
    yield Row("no layers", "start --layers 4:4", 2, "empty or out of range")
    yield Row("not a range", "start --layers first", 2, "0:16")
    yield Row("draft model of another tokenizer", "start -md foreign.gguf", 5, "another tokenizer")
    yield Row("and in what they differ", "start -md foreign.gguf", 5, "tokens at ")
    yield Row("a model without tokenizer as draft", "start --role drafter -md llama.gguf", 5, "tokenizer")
    yield Row("port in use", f"start --role bootstrap --listen 127.0.0.1:{port}", 2, f"{port} is in use")
    yield Row("no such address", "start --role bootstrap --listen 192.0.2.1:29170", 2, "no such address")
    yield Row("unreachable --join", f"start --role bootstrap --join dsd://127.0.0.1:1/{key}", 1, "127.0.0.1:1")
    yield Row("unreachable --join", f"run hello --join dsd://127.0.0.1:1/{key}", 1, "127.0.0.1:1")
    yield Row("malformed --join", "start --join 127.0.0.1:29170", 2, "dsd://HOST:PORT/")
    yield Row("malformed --join", "run hello --join dsd://127.0.0.1:29170/abc", 2, "dsd://HOST:PORT/")
    yield Row("unknown key in a file", "start --config typo.toml", 2, "did you mean 'threads'?")
    yield Row("broken TOML", "start --config broken.toml", 2, "broken.toml is not TOML")
    yield Row("no such configuration", "start --config nowhere.toml", 2, "nowhere.toml")
    yield Row("unknown role", "start --role miner", 2, "drafter, shard, bootstrap")
    yield Row("unknown flag", "start --layer 0:4", 2, "--layers")
    yield Row("negative window", "start --draft-max -1", 2, "0 to 64")
    yield Row("negative window", "run hello --draft-max -1", 2, "from 0")
    yield Row("unknown window policy", "start --window wide", 2, "fixed, awc, throughput")
    yield Row("unknown window policy", "run hello --window stream:9:2", 2, "stream:BLOCK:WINDOW")
    yield Row("unknown acceptance", "run hello --acceptance lax", 2, "exact, relaxed, deferred")
    yield Row("threshold without relaxed", "run hello --threshold 0.3", 2, "relaxed or deferred")
    yield Row("threshold out of range", "start --threshold 1", 2, "between 0 (exact) and 1")
    yield Row("unknown wire type", "start --wire f8", 2, "f32, f16")
    yield Row("temperature in words", "run hello --temperature hot", 2, "from 0 to 100")
    yield Row("sizes in words", "start --max-memory plenty", 2, "6GB")
    yield Row("too little memory", "start --max-memory 1MB", 5, "--max-memory")
    for command in ("run hello", "chat"):
        yield Row("no node here", command, 3, "dsdnode start")
    for command in ("status", "peers", "models", "stop"):
        yield Row("no node here", command, 3, "dsdnode start")


def rows_private(join: str) -> Iterator[Row]:
    """At a node with a swarm key."""
    address = join.rpartition("/")[0]
    other = Identity.generate().public_key.hex()
    for command in ("start --role bootstrap", "run hello"):
        yield Row("wrong swarm key", f"{command} --join {join} --swarm-key wrong", 1, "wrong swarm key")
        yield Row("no swarm key", f"{command} --join {join}", 1, "--swarm-key")
        yield Row("another key at the address", f"{command} --join {address}/{other}", 1, "does not have the key")


def rows_incomplete(join: str) -> Iterator[Row]:
    """The swarm has layers 0:3 of the target and a drafter of another tokenizer."""
    yield Row("no drafter for the target", f"run hello --join {join}", 4, "no drafter with the tokenizer")
    foreign = f"start --role drafter -md foreign.gguf --join {join}"
    yield Row("draft model of another tokenizer", foreign, 5, "another tokenizer")


def rows_complete(join: str, ids: str) -> Iterator[Row]:
    yield Row("unknown model", f"run hello -m gpt --join {join}", 5, "dsdnode demo target")
    yield Row("prompt longer than the context", f"run --prompt-tokens {ids} --join {join}", 2, "context")
    yield Row("token outside of the vocabulary", f"run --prompt-tokens 1,99999 --join {join}", 2, "2048")


@contextmanager
def peak(pid: int) -> Iterator[list[int]]:
    """The largest resident size of a process meanwhile, in bytes."""
    largest, over, process = [0], threading.Event(), psutil.Process(pid)

    def look() -> None:
        while not over.wait(0.05):
            largest[0] = max(largest[0], process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield largest
    finally:
        over.set()
        thread.join()


def throw_everything(world: World, join: str, victim: Daemon) -> bool:
    """At `victim`'s port, one attack after the other; after each, a reply through it."""
    process, good = psutil.Process(victim.process.pid), True
    began_bytes = process.memory_info().rss
    print("\nthrown | MiB thrown | node's MiB before | most | after | a reply afterwards")
    for attack in ATTACKS:
        before = process.memory_info().rss
        with peak(process.pid) as largest:
            sent = attack(victim.join)
            began_s = time.monotonic()
            answer = world.run(f"run --max-tokens 8 --prompt-tokens 1,5,9 --join {join}")
            took_s = time.monotonic() - began_s
        after = process.memory_info().rss
        fine = answer.returncode == 0 and victim.process.poll() is None
        fine = fine and largest[0] - began_bytes < MAX_GROWTH_BYTES
        good &= fine
        sizes = " | ".join(f"{size / 2**20:.0f}" for size in (sent, before, largest[0], after))
        said = f"in {took_s:.1f} s" if answer.returncode == 0 else answer.stderr.strip()
        print(f"{'' if fine else 'WRONG '}{attack.__name__} | {sizes} | {said}", flush=True)
    return good


def swarm_rows(world: World, peers: Swarm) -> bool:
    """Everything that takes peers."""
    private = peers.start("private", "--role", "bootstrap", "--swarm-key", "opensesame").join
    good = all([world.check(row) for row in rows_private(private)])
    join = peers.start("boot", "--role", "bootstrap").join
    common = ("--join", join, "--threads", "1")
    foreign = str(world.folder / "foreign.gguf")
    assert peers.start("foreign", "--role", "drafter", "-md", foreign, *common).ready  # there is no target yet
    victim = peers.start("first", "--role", "shard", "--layers", "0:3", *common)
    assert victim.ready
    good &= all([world.check(row) for row in rows_incomplete(join)])
    assert peers.start("drafter", "--role", "drafter", *common).ready
    good &= world.check(Row("layers not covered", f"run hello --join {join}", 4, "3:8"))
    assert peers.start("last", "--role", "shard", "--layers", "3:8", *common).ready
    good &= all([world.check(row) for row in rows_complete(join, ",".join(["7"] * 3000))])
    return good & throw_everything(world, join, victim)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name, socket.socket() as taken:
        world = World(Path(name))
        write_files(world.folder)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        print("case | command | exit code | message")
        good = all([world.check(row) for row in rows_alone(taken.getsockname()[1])])
        with swarm(world.folder / "peers") as peers:
            (world.folder / "peers").mkdir()
            good &= swarm_rows(world, peers)
    print("\nall as it should be" if good else "\nNOT all as it should be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
