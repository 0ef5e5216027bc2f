"""An honest user: asks one question after another at her own node, as `dsdnode run` does, and tells what came.

`python -m tests.siege.user JOIN` reads lines from its input, each so many seconds; of each it prints a line of JSON:
all that was asked in that time, to the last reply's end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Iterator

import msgspec

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.errors import DsdError

QUESTIONS = (
    "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?",
    "Sara picks 6 baskets with 12 apples each. She eats 5 apples. How many apples are left?",
    "Tom buys 3 boxes of 8 pens. He gives 4 pens away. How many pens are left?",
)
MAX_TOKENS = 24
STUCK_S = 150.0
"""A reply ends in words long before."""


class Asked(msgspec.Struct, frozen=True):
    """`took_s`: from before the connection is made to the reply's end. `error`: how it ended, if not well."""

    question: int
    text: str
    took_s: float
    error: str = ""
    at: float = 0.0
    """When it was asked, as logs count time."""
    connected_s: float | None = None
    """After so long the connection was made."""
    token_s: float | None = None
    """After so long the first token was there."""
    told: tuple[str, ...] = ()
    """What the user was told meanwhile."""


async def ask(join: str, question: int) -> Asked:
    loop = asyncio.get_running_loop()
    text, error, began_s = "", "", loop.time()
    at, connected_s, token_s = time.time(), None, None
    told: list[str] = []
    messages = ({"role": "user", "content": QUESTIONS[question]},)
    try:
        async with asyncio.timeout(STUCK_S):
            client = await Client.connect([join])
            connected_s = loop.time() - began_s
            try:
                request = GenerateRequest(messages=messages, max_tokens=MAX_TOKENS)
                async for event in client.generate(request, told.append):
                    token_s = token_s or loop.time() - began_s
                    text += event.text if isinstance(event, Piece) else ""
            finally:
                await client.close()
    except DsdError as failure:
        error = f"{type(failure).__name__}: {failure}"
    except TimeoutError:
        error = f"stuck for {STUCK_S:g} s"
    return Asked(question, text, loop.time() - began_s, error, at, connected_s, token_s, tuple(told))


async def ask_for(join: str, seconds: float, questions: Iterator[int]) -> list[Asked]:
    """At least one, and on until the time is over."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    asked = [await ask(join, next(questions))]
    while loop.time() < end_s:
        asked.append(await ask(join, next(questions)))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("join", metavar="JOIN")
    join = parser.parse_args().join
    set_up("info", "json")
    questions = itertools.cycle(range(len(QUESTIONS)))
    for line in sys.stdin:
        told = asyncio.run(ask_for(join, float(line), questions))
        print(msgspec.json.encode(told).decode(), flush=True)


if __name__ == "__main__":
    main()
