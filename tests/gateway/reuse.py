"""What a stateless client pays for twice: `python -m tests.gateway.reuse`. Real daemons, the demo pair, one gateway.

A second turn sends its conversation of 1,500 tokens again: what of it is computed once more, and how long its first
token takes against the first turn's. Then eight users, one after the other, whose prompts begin with one system prompt
of 1,000 tokens; and their second turns, round about. Positions are those that the last stage ran; drafting is off, so
that none of them is a guess.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx

from dsdnode.cli.logs import set_up
from dsdnode.client.client import Client
from dsdnode.gateway.doors import Rules
from dsdnode.gateway.server import Gateway
from dsdnode.models.problems import problems
from tests.node.processes import Daemon, swarm

USERS = 8
REPLY_TOKENS = 24
Message = dict[str, str]


def told(num_problems: int, first: int = 0) -> str:
    return " ".join(problem.question for problem in list(problems(29, first + num_problems))[first:])


class Talk:
    """One user's, with the whole of it in every request, as programs do it."""

    def __init__(self, http: httpx.AsyncClient, judge: Daemon, system: str = "") -> None:
        self._http, self._judge = http, judge
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []

    async def say(self, text: str) -> dict[str, Any]:
        """`prompt` tokens, `positions` that the judge ran for it, seconds to the first token."""
        self.messages.append({"role": "user", "content": text})
        before = self._judge.status()["engines"][0]["num_positions"]
        body = {"messages": self.messages, "max_tokens": REPLY_TOKENS, "stream": True, "draft_max": 0}
        began_s, first_s, reply = perf_counter(), 0.0, ""
        usage: dict[str, int] = {}
        options = {"stream_options": {"include_usage": True}}
        async with self._http.stream("POST", "/v1/chat/completions", json=body | options) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage") or usage
                piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                first_s = first_s or (perf_counter() - began_s if piece else 0.0)
                reply += piece
        self.messages.append({"role": "assistant", "content": reply})
        after = self._judge.status()["engines"][0]["num_positions"]
        return {"prompt": usage["prompt_tokens"], "completion": usage["completion_tokens"],
                "positions": after - before, "first_s": first_s}  # fmt: skip


async def measure(join: str, judge: Daemon) -> None:
    client = await Client.connect([join])
    gateway = Gateway("127.0.0.1", 0, Rules())
    running = asyncio.create_task(gateway.run(client))
    async with httpx.AsyncClient(base_url=gateway.url, timeout=120) as http:
        await Talk(http, judge).say("Ben has 3 apples.")
        long = Talk(http, judge)
        print(f"{'':24} {'prompt':>7} {'computed':>9} {'first token':>12}")
        for turn, text in enumerate((told(62), "And how many has Ann?"), 1):
            show(f"turn {turn}", await long.say(text))
        system = told(40, 70)
        users = [Talk(http, judge, system) for _ in range(USERS)]
        for number, user in enumerate(users, 1):
            show(f"user {number}", await user.say(told(1, 120 + number)))
        for number, user in enumerate(users, 1):
            show(f"user {number}, second turn", await user.say(told(1, 140 + number)))
    gateway.stop()
    await running
    await client.close()


def show(what: str, seen: dict[str, Any]) -> None:
    computed = seen["positions"] - seen["completion"]
    print(f"{what:24} {seen['prompt']:7} {computed:9} {1000 * seen['first_s']:9.0f} ms", flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    set_up("error", "auto")
    with tempfile.TemporaryDirectory() as folder, swarm(Path(folder)) as made:
        join = made.start_ring(("0:4", "4:8"), "--max-sessions", "10", "--ctx-size", "32768")
        asyncio.run(measure(join, made.daemons["shard1"]))


if __name__ == "__main__":
    main()
