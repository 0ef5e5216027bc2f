"""A nemesis among real daemons, while users ask without pause: `python -m tests.node.nemesis --minutes 15`.

A bootstrap, two drafters, two replicas of each layer range; three users ask the same questions again and again, f32 on
the wire, whose replies are known from peace. Whatever befalls the daemons (misfortunes.py), a text is the one of peace,
or ends in words, and then what came of it is a beginning of that. Afterwards, in peace, nothing of a reply may be left,
and a thousand more replies may not make any daemon grow (growth.py). Exit code 1: a text differed, a reply was stuck,
something was left or has grown, or a log told of a bug.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dsdnode.bench.daemons import even_ranges
from dsdnode.cli import control
from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, Finished, GenerateRequest
from dsdnode.engine.gguf import read_manifest
from dsdnode.errors import DsdError
from dsdnode.models import demo_target
from dsdnode.node.status import NodeStatus
from tests.node.growth import Vitals
from tests.node.misfortunes import House, Nemesis, house, small_disk

QUESTIONS = (
    "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?",
    "Sara picks 6 baskets with 12 apples each. She eats 5 apples. How many apples are left?",
    "Tom buys 3 boxes of 8 pens. He gives 4 pens away. How many pens are left?",
    "Ann has 50 coins. She spends 18 coins. How many coins are left?",
)
REQUESTS = tuple(
    GenerateRequest(
        messages=[{"role": "user", "content": text}], temperature=temperature, seed=seed, max_tokens=64, wire="f32"
    )
    for text in QUESTIONS
    for temperature, seed in ((0.0, 0), (0.8, 11), (0.8, 12))
)
NUM_USERS, NUM_DRAFTERS, NUM_REPLICAS = 3, 2, 2
STUCK_S = 180.0
"""Three times what a client waits for progress, by default."""
PEACE_WITHIN_S = 120.0
"""A stage frees what it has not heard of after its lease, a minute."""
REPLIES_A_CLIENT = 4
SAMPLES = 20
WARMING_UP = 60
DISK_FULL_AT = "drafter0"


@dataclass
class Tally:
    """`pauses_s`: of each reply the longest silence, that before its first token among them."""

    num_whole: int = 0
    num_stuck: int = 0
    differ: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    """How replies ended in words, by kind."""
    examples: dict[str, str] = field(default_factory=dict)
    """The whole words of one of each kind."""
    pauses_s: list[float] = field(default_factory=list)


async def ask(client: Client, request: GenerateRequest, tally: Tally, right: str | None) -> str:
    """The text, whole, so far as it came, or until now."""
    loop, text, whole = asyncio.get_running_loop(), "", False
    last_s, pause_s = loop.time(), 0.0
    try:
        async with asyncio.timeout(STUCK_S):
            async for event in client.generate(request):
                pause_s, last_s = max(pause_s, loop.time() - last_s), loop.time()
                whole = isinstance(event, Finished)
                text += "" if isinstance(event, Finished) else event.text
        tally.num_whole += whole
    except TimeoutError:
        tally.num_stuck += 1
    except DsdError as error:
        kind = f"{type(error).__name__}: {_kind(str(error))}"
        tally.errors[kind] += 1
        tally.examples.setdefault(kind, str(error))
    except Exception as error:  # it is counted, and the others go on
        tally.bugs.append(repr(error))
    tally.pauses_s.append(max(pause_s, loop.time() - last_s))
    if right is not None and not (text == right if whole else right.startswith(text)):
        tally.differ.append(f"{text!r} where {right!r} is right")
    return text


def _kind(text: str) -> str:
    """Without the names and numbers in it."""
    words = text.split()
    return " ".join(word if not any(map(str.isdigit, word)) else "..." for word in words)[:80]


async def user(made: House, rng: Random, until_s: float, right: Sequence[str], tally: Tally) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < until_s:
        try:
            client = await Client.connect([made.join])
        except DsdError as error:
            tally.errors[f"connect: {type(error).__name__}"] += 1
            continue
        try:
            for _ in range(REPLIES_A_CLIENT):
                if loop.time() < until_s:
                    which = rng.randrange(len(REQUESTS))
                    await ask(client, REQUESTS[which], tally, right[which])
        finally:
            await client.close()


async def sessions_left(made: House) -> dict[str, int | str]:
    """Who has any, after as long as it may take, or does not say."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + PEACE_WITHIN_S
    while True:
        left: dict[str, int | str] = {}
        for name in made.members:
            try:
                status = await control.ask(made.daemon(name).data_dir, "status", NodeStatus)
            except DsdError as error:
                left[name] = str(error)
                continue
            if num := status.sessions.shard + status.sessions.drafter:
                left[name] = num
        if not left or loop.time() > end_s:
            return left
        await asyncio.sleep(1.0)


async def places(client: Client) -> dict[str, int]:
    """How many replies each says that it has room for, by role and peer."""
    records, _ = await client.survey(64, 1)
    return {f"{record.role} {record.peer_id.hex()[:12]}": record.free_sessions for record in records}


async def places_lost(made: House, room: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Before and now, of those with fewer; after as long as their announcements may take."""
    client, loop = await Client.connect([made.join]), asyncio.get_running_loop()
    end_s = loop.time() + PEACE_WITHIN_S
    try:
        while True:
            now = await places(client)
            lost = {name: (num, now.get(name, 0)) for name, num in room.items() if now.get(name, 0) < num}
            if not lost or loop.time() > end_s:
                return lost
            await asyncio.sleep(1.0)
    finally:
        await client.close()


async def in_peace(made: House, num: int, right: Sequence[str], tally: Tally) -> Vitals:
    """So many replies one after the other, behind some by which all links are there again."""
    vitals, client = Vitals(made.ports), await Client.connect([made.join])
    try:
        for i in range(WARMING_UP):
            await ask(client, REQUESTS[i % len(REQUESTS)], tally, right[i % len(REQUESTS)])
        for i in range(num):
            if i % max(1, num // SAMPLES) == 0:
                vitals.take(i, made.made.daemons)
            await ask(client, REQUESTS[i % len(REQUESTS)], tally, right[i % len(REQUESTS)])
        vitals.take(num, made.made.daemons)
    finally:
        await client.close()
    return vitals


async def reference(made: House) -> tuple[list[str], dict[str, int]]:
    """The texts of peace, told twice alike; and the places that there are."""
    client, tally = await Client.connect([made.join]), Tally()
    try:
        right = [await ask(client, request, tally, None) for request in REQUESTS]
        for request, text in zip(REQUESTS, right, strict=True):
            await ask(client, request, tally, text)
        if tally.num_whole != 2 * len(REQUESTS) or tally.differ:
            raise SystemExit(f"no reference even in peace: {tally}")
        return right, await places(client)
    finally:
        await client.close()


async def measure(made: House, options: argparse.Namespace, disk: str) -> bool:
    """Was all well?"""
    ranges = even_ranges(read_manifest(demo_target()).num_layers, options.ranges)
    await made.begin(ranges, NUM_DRAFTERS, NUM_REPLICAS)
    right, room = await reference(made)
    tally, seconds = Tally(), 60 * options.minutes
    until_s = asyncio.get_running_loop().time() + seconds
    nemesis = Nemesis(made, Random(f"nemesis {options.seed}"), None if disk else DISK_FULL_AT)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(nemesis.rage(seconds, options.pause_s))
        for i in range(NUM_USERS):
            tasks.create_task(user(made, Random(f"user {i} {options.seed}"), until_s, right, tally))
    left, peace = await sessions_left(made), Tally()
    vitals = await in_peace(made, options.replies, right, peace)
    left |= await sessions_left(made)
    lost = await places_lost(made, room)
    num_bugs = made.num_bugs + sum(map(made.bugs_of, made.made.daemons))
    report(nemesis, tally, peace, vitals, disk)
    print("| what must not be | seen |\n|---|---|")
    bad = {
        "texts that differ": [*tally.differ, *peace.differ],
        "stuck replies": tally.num_stuck + peace.num_stuck,
        "errors in peace": dict(peace.errors),
        "sessions left": left,
        "places of sessions lost": lost,
        "bugs of the client": [*tally.bugs, *peace.bugs],
        "bugs in logs": num_bugs,
        "grown": vitals.grown(),
    }
    for what, seen in bad.items():
        print(f"| {what} | {seen or 0} |")
    return not any(bad.values())


def report(nemesis: Nemesis, tally: Tally, peace: Tally, vitals: Vitals, disk: str) -> None:
    print("| what befell | times |\n|---|---|")
    for what, num in sorted(nemesis.done.items()):
        print(f"| {what} | {num} |")
    if disk:
        print(f"| a disk is full | left out: {disk} |")
    print("\n| replies | whole | ended in words | pause p50, s | p99, s |\n|---|---|---|---|---|")
    for name, one in (("under the nemesis", tally), ("in peace afterwards", peace)):
        p50, p99 = (_quantile(one.pauses_s, share) for share in (0.5, 0.99))
        print(f"| {name} | {one.num_whole} | {one.errors.total()} | {p50:.2f} | {p99:.2f} |")
    print("\n| ended in words | times | in full, one of them |\n|---|---|---|")
    for words, num in tally.errors.most_common():
        print(f"| {words} | {num} | {tally.examples.get(words, '')} |")
    print("\nIn peace, first half and second. (Of memory the second, and what a thousand replies more would add.)\n")
    head, *lines = vitals.table()
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |")
    print(flush=True)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


async def play(options: argparse.Namespace, folder: Path, disk: str) -> bool:
    async with house(folder, Random(options.seed)) as made:
        return await measure(made, options, disk)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranges", type=int, choices=(2, 3), default=2, help="into so many the model is cut")
    parser.add_argument("--replies", type=int, default=1000, help="in peace, afterwards")
    parser.add_argument("--pause-s", type=float, default=2.0, help="between two misfortunes, on the average")
    options = parser.parse_args()
    set_up("error", "auto")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / DISK_FULL_AT
        data_dir.mkdir(mode=0o700)
        with small_disk(data_dir) as disk:
            return not asyncio.run(play(options, Path(folder), disk))


if __name__ == "__main__":
    sys.exit(main())
