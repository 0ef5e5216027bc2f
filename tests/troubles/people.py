"""Who else is in the swarm: a guest whose reply never ends, and drafters that mean ill. To the end of their input.

`python -m tests.troubles.people guest JOIN TOKENS`, which says "begun"; or `... silent|drips JOIN... HOST`, which says
how to join her.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client, GenerateRequest, Piece
from dsdnode.errors import DsdError
from dsdnode.wire import replies
from dsdnode.wire.joins import format_join
from tests.siege.attacks import HostileDrafter
from tests.siege.mallory import Siege

PROMPT = tuple(range(40, 60))
KINDS = {"silent": 0, "drips": 1}


async def guest(join: str, num_tokens: int) -> None:
    """Asks at the first drafter for so much, again and again."""
    begun = False
    while True:
        client = await Client.connect([join])
        with contextlib.suppress(DsdError):
            request = GenerateRequest(prompt_tokens=PROMPT, max_tokens=num_tokens, draft_max=0, ignore_eos=True)
            async for event in client.generate(request):
                if isinstance(event, Piece) and not begun:
                    begun = True
                    print("begun", flush=True)
        await client.close()


async def hostile(kind: str, joins: list[str], host: str) -> None:
    """Says what an honest drafter says of itself, and that it is fast."""
    siege = Siege(joins, [host])
    mallory = await siege.name()
    honest = await mallory.offers("drafter")
    mallory.rpc.transport.introduce(honest[0].contact)
    drafter = HostileDrafter(siege, mallory, honest[0].peer_id, KINDS[kind])
    mallory.rpc.on_request(replies.Generate, drafter.generate)
    mallory.rpc.on_notice(replies.Piece, drafter.hear)
    begun = False
    while True:
        await mallory.claims(honest[0])
        if not begun:
            begun = True
            print(format_join(mallory.contact), flush=True)
        await asyncio.sleep(10)


async def play(words: list[str]) -> None:
    kind, *rest = words
    playing = guest(rest[0], int(rest[1])) if kind == "guest" else hostile(kind, rest[:-1], rest[-1])
    task = asyncio.ensure_future(playing)
    reading = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    done, _ = await asyncio.wait((task, reading), return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


if __name__ == "__main__":
    set_up("critical", "json")
    asyncio.run(play(sys.argv[1:]))
