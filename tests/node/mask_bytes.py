"""What masks cost at Gemma's vocabulary of 262,144: `python -m tests.node.mask_bytes`.

The owner's part of real replies: texts of twelve schemas, drawn at random, one after the other between one owner and
one judge. Their tokens go by in blocks, as they do through a swarm, and in every third block the last draft token is a
wrong one, that falls, with its masks. Counted is what Masks messages hold: places, hashes and packed masks. The judge
unpacks all of them. It takes the tokenizer of Gemma 3 270M (tests/engine/gemma.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from cachetools import LRUCache

from dsdnode.client import constraints
from dsdnode.engine.fake import FakeGrammar
from dsdnode.engine.grammars import Grammars
from dsdnode.engine.llama_vocab import load_vocab
from dsdnode.node.drafter.constrained import MAX_TOLD, Constrained
from dsdnode.node.shard.terms import told_by
from dsdnode.speculation import digest as digest_
from dsdnode.speculation.masks import Masks, Places, allows
from dsdnode.wire.messages import Block, Message
from dsdnode.wire.replies import Constraint
from tests.engine.gemma import fetch
from tests.node.constrained_replies import SCHEMAS
from tests.node.same_text import grammars_of

SECRET, SESSION, JUDGE = bytes(32), bytes(16), b"judge"
PROMPT = (2, 105, 2364)
WORDS = ["alice", "Müller", "sea", "bright", "cold", "April", "clocks", "striking", "rain", "home", "shoes", "über"]
FREE = {
    "prose": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "any": {"type": "object"},
}


def drawn(name: str, rng: Random) -> Any:
    """A value of that schema."""

    def words(most: int, least: int = 0) -> str:
        text = " ".join(rng.choices(WORDS, k=40))[: rng.randint(least, most)]
        return text.strip() if len(text.strip()) >= least else text.strip().ljust(least, "!")

    values: dict[str, Any] = {
        "flat": {"name": words(12), "age": rng.randint(0, 130)},
        "enum": {"color": rng.choice(["red", "green", "light-blue", 7, None]), "size": rng.choice("SML")},
        "nested": {"team": words(8), "lead": {"id": rng.randint(1, 999), "at": {"zip": f"{rng.randint(0, 99999):05}"}}},
        "numbers": {"x": rng.randint(-99, 99) / 10, "y": [rng.randint(-5, 5) for _ in range(rng.randint(2, 5))]},
        "long": {"title": words(10), "text": words(90, 40)},
        "unicode": {"word": "".join(rng.choices("abcäöüß日本語é", k=rng.randint(1, 10))), "sign": rng.choice("éß→😀")},
        "choice": rng.choice([{"kind": "circle", "r": rng.randint(1, 99)}, {"kind": "text", "says": words(20)}]),
        "list": [rng.choice([True, False, None]) for _ in range(rng.randint(1, 6))],
        "formats": {"day": f"20{rng.randint(10, 40)}-02-{rng.randint(10, 28)}", "id": f"{rng.randrange(1 << 32):08X}"},
        "optional": {"a": True, "b": words(5), "c": None},
        "prose": {"text": " ".join(rng.choices(WORDS, k=60))},
        "any": {"list": [rng.randint(0, 99), {"a": None}], "text": words(200, 10), "n": rng.random()},
    }
    return values[name]


class Told:
    """Stands for the Rpc of an owner: what its judge is sent."""

    def __init__(self, vocab_size: int) -> None:
        self.places = Places(Masks(vocab_size))
        self.masks: LRUCache[bytes, None] = LRUCache(MAX_TOLD)
        self.num_bytes: list[int] = []

    def notify(self, peer: bytes, message: Message, buffers: list[bytes], *, priority: object) -> None:
        self.num_bytes.append(sum(map(len, buffers)))
        names, packed = told_by(buffers)
        self.places.learn(names)
        assert all(self.places.masks.keep(one.name, one.packed) for one in packed), "a judge lacks none"


def raised(error: Exception) -> None:
    raise error


async def replied(
    told: Told,
    grammars: Grammars,
    vocab_size: int,
    constraint: Constraint,
    tokens: Sequence[int],
    window: int,
    rng: Random,
) -> list[int]:
    """Bytes by committed token."""
    grammar = FakeGrammar(grammars, constraint, vocab_size)
    constrained = Constrained(told, grammar, SESSION, SECRET, PROMPT, vocab_size, raised)  # type: ignore[arg-type]
    line, place = list(PROMPT), digest_.extend(SECRET, digest_.first(SECRET), PROMPT)[-1]
    by_token: list[int] = []
    while len(line) < len(PROMPT) + len(tokens):
        given = line[-1]
        before = digest_.extend(SECRET, digest_.first(SECRET), line[:-1])[-1]
        start = len(line) - len(PROMPT)
        draft = list(tokens[start : start + window])
        if draft and rng.random() < 1 / 3:
            mask = await constrained.mask(constrained.follow(place, len(line), tuple(draft[:-1])) or b"")
            others = [token for token in range(0, vocab_size, 97) if mask is not None and allows(mask, token)]
            draft[-1] = rng.choice(others or [draft[-1]])
        end = constrained.follow(place, len(line), ())
        assert end is not None
        masks = await constrained.extend(end, tuple(draft))
        digests = b"".join([before, *digest_.extend(SECRET, before, [given, *draft])])
        block = Block(SESSION, 0, 1, 0, 0, len(line) - 1, 1, len(draft), 1)
        num = sum(told.num_bytes)
        constrained.tell(block, digests, (given, *draft), JUDGE, told.masks)
        await asyncio.gather(*constrained._telling)
        right = next((i for i, one in enumerate(draft) if one != tokens[start + i]), len(draft))
        stands = [*tokens[start : start + right + 1]]
        assert len(masks) >= right
        constrained.commit(tuple(stands))
        by_token += [sum(told.num_bytes) - num, *[0] * (len(stands) - 1)]
        line += stands
        place = digest_.extend(SECRET, place, stands)[-1]
    return by_token


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10, help="of each schema")
    options = parser.parse_args()
    path = fetch()
    vocab, grammars = load_vocab(path), grammars_of(path)
    schemas = SCHEMAS | FREE
    for window in (0, 4, 8):
        rng, told, costs = Random(window), Told(vocab.size), dict[str, list[int]]()
        for name in [name for _ in range(options.texts) for name in schemas]:
            tokens = vocab.tokenize(json.dumps(drawn(name, rng), ensure_ascii=False), False).tolist()
            tokens = [*tokens[tokens[0] == 2 :], vocab.end_tokens()[0]]
            constraint = constraints.json_schema(schemas[name])
            spent = asyncio.run(replied(told, grammars, vocab.size, constraint, tokens, window, rng))
            costs.setdefault(name, []).extend(spent)
        for name, spent in [*costs.items(), ("all", [one for some in costs.values() for one in some])]:
            figures = f"mean {np.mean(spent):6.0f}  p95 {np.percentile(spent, 95):6.0f}  most {max(spent):6}"
            print(f"window {window}  {name:<9} {len(spent):>6} tokens  bytes a token: {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
