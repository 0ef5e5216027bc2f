"""Somebody else's client, written from docs/protocol.md alone, talks with real daemons; it knows nothing of dsdnode."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.node import processes
from tests.protocol import client as theirs

pytestmark = pytest.mark.slow

QUESTION = "Sara picks 6 baskets with 12 apples each. She eats 5 apples. How many apples are left?"
SEED, TEMPERATURE = 7, 0.8


def test_it_imports_nothing_of_ours_and_is_short() -> None:
    source = Path(theirs.__file__).read_text()
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert not imported & {"dsdnode", "tests"}
    assert len(source.splitlines()) <= 400


async def ask(join: str, drafters: list[processes.Daemon] | None = None) -> theirs.Reply:
    """A reply; of `drafters` the one that gives it is killed after the first tokens, and taken off the list."""
    reply = theirs.Reply([("user", QUESTION)], temperature=TEMPERATURE, seed=SEED, wire="f32")
    async with theirs.Client(join) as client:
        [model] = await client.models()
        assert (model.num_layers, model.complete) == (8, True)

        def show(text: str) -> None:
            if drafters is not None and len(drafters) == 2 and len(reply.tokens) >= 3:
                links = {daemon.join: client.links.get(theirs.parse_join(daemon.join)[0]) for daemon in drafters}
                [serving] = [one for one in drafters if (link := links[one.join]) is not None and link.replies]
                serving.kill()
                drafters.remove(serving)

        await client.reply(model, reply, show)
    return reply


async def test_a_reply_survives_the_death_of_its_drafter_and_is_the_same(tmp_path: Path) -> None:
    with processes.swarm(tmp_path) as swarm:
        join = swarm.start_ring(["0:4", "4:8"])
        assert swarm.start("drafter2", "--role", "drafter", "--join", join, "--threads", "1").ready
        flags = ("--seed", str(SEED), "--temperature", str(TEMPERATURE), "--wire", "f32", "--json")
        ours = json.loads(processes.run("run", QUESTION, "--join", join, *flags).stdout)
        whole = await ask(join)
        assert (whole.text.strip(), whole.reason) == (ours["text"].strip(), "stop")
        assert whole.tokens == ours["tokens"]
        drafters = [swarm.daemons["drafter"], swarm.daemons["drafter2"]]
        resumed = await ask(join, drafters)
        assert len(drafters) == 1, "the other was killed"
        assert (resumed.tokens, resumed.text) == (whole.tokens, whole.text)


async def test_a_private_swarm_lets_in_who_has_its_key_alone(tmp_path: Path) -> None:
    with processes.swarm(tmp_path) as swarm:
        boot = swarm.start("boot", "--role", "bootstrap", "--swarm-key", "sesame")
        async with theirs.Client(boot.join, "sesame") as client:
            assert await client.models() == []
        for key, words in (("", "private"), ("parsley", "wrong swarm key")):
            with pytest.raises(theirs.ClientError, match=words):
                async with theirs.Client(boot.join, key):
                    pass
