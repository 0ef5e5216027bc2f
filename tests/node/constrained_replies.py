"""Replies that keep to schemas: `python -m tests.node.constrained_replies [--real] [--results FILE]`.

Each reply goes through a whole swarm in virtual time that differs in all but the prompt, the schema and the seed: the
window (0 to 16) or a plan that changes at random, with hedges; cuts of the layers, machines, links; notices that are
lost, doubled and late; draft tokens that are copied, rightly and wrongly; and in most runs a stage or a drafter that is
killed in mid-reply. Every text must be the one of plain decoding under the same masks, and every one that ends by
itself valid by its schema. With fake engines, or (--real) with the demo pair on llama.cpp. What is in FILE is not run
again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import jsonschema
import msgspec

from dsdnode.cli.logs import set_up
from dsdnode.client import constraints
from dsdnode.client.client import Finished, GenerateRequest
from dsdnode.engine.fake import FakeModel, FakeTextEngine
from dsdnode.engine.llama_vocab import load_vocab
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import DsdError
from dsdnode.models import demo_target
from dsdnode.models.problems import problems
from dsdnode.sim import loop as jumping
from dsdnode.speculation.actions import DraftToken, Tokens
from dsdnode.speculation.owner import session
from dsdnode.speculation.sampling import Sampling
from tests.node.constrained import constrained_reply
from tests.node.exactness import NUM_LAYERS, compare, rendered
from tests.node.reference import Alone, WholeModel
from tests.node.same_text import MAX_WINDOW, SETTLE_S, RealVillage, grammars_of, in_use
from tests.sim.village import CELLS, DraftEngine, Place, Roughness, Village
from tests.sim.world import restless

MODEL = FakeModel(num_layers=4, vocab_size=400)
"""Whose tokens are characters, up to Latin Extended-A; there is no space."""
NEAR_TIE = 0.1
"""Logits: branches and copies change the order of cells in a cache, and move them by up to so much (same_text.py)."""
IN_A_VILLAGE = 20


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": _object(name={"type": "string", "maxLength": 12}, age={"type": "integer", "minimum": 0, "maximum": 130}),
    "enum": _object(color={"enum": ["red", "green", "light-blue", 7, None]}, size={"enum": ["S", "M", "L"]}),
    "nested": _object(
        team={"type": "string", "maxLength": 8},
        lead=_object(
            id={"type": "integer", "minimum": 1, "maximum": 999},
            at=_object(zip={"pattern": "^[0-9]{5}$", "type": "string"}),
        ),
    ),
    "numbers": _object(
        x={"type": "number", "minimum": -10, "maximum": 10},
        y={"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 5}, "minItems": 2, "maxItems": 5},
    ),
    "long": _object(
        title={"type": "string", "maxLength": 10}, text={"type": "string", "minLength": 40, "maxLength": 90}
    ),
    "unicode": _object(
        word={"type": "string", "pattern": "^[a-zäöüß日本語é]{1,10}$"}, sign={"enum": ["é", "ß", "→", "😀"]}
    ),
    "choice": {
        "anyOf": [
            _object(kind={"const": "circle"}, r={"type": "integer", "minimum": 1, "maximum": 99}),
            _object(kind={"const": "text"}, says={"type": "string", "maxLength": 20}),
        ]
    },
    "list": {"type": "array", "items": {"type": ["boolean", "null"]}, "minItems": 1, "maxItems": 6},
    "formats": _object(day={"type": "string", "format": "date"}, id={"type": "string", "pattern": "^[A-F0-9]{8}$"}),
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "string", "maxLength": 5}, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """Number, and what it came to: `end` "stop", "length" or, where it did not, the error."""

    number: int
    schema: str
    window: int = 0
    temperature: float = 0.0
    killed: str = ""
    end: str = ""
    num_tokens: int = 0
    recoveries: int = 0
    drafted: int = 0
    copied: int = 0
    """That were judged."""
    equal: bool = False
    valid: bool = False
    text: str = ""
    tokens: tuple[int, ...] = ()
    """Where it is not as it should be."""
    near_tie: bool = False
    """It parted from plain decoding where rounding decides."""

    @property
    def is_right(self) -> bool:
        return self.equal and (self.valid or self.end != "stop") and self.end in ("stop", "length")


class Knowing:
    """In the place of the n-gram index: what the reply will say, but for some errors, which a grammar allows or not."""

    def __init__(self, line: Sequence[int], ask: Ask, vocab_size: int) -> None:
        """`line`: the owner's, as it grows."""
        self._line, self._right, self._vocab_size = line, ask.alone, vocab_size
        self._num_prompt = len(ask.request.prompt_tokens or ())
        self._rng = Random(f"copies {ask.number}")
        self._rate = self._rng.choice([0.3, 0.7, 0.9, 1.0])

    def copied(self, drafted: Tokens, count: int) -> tuple[DraftToken, ...]:
        rng, start = self._rng, len(self._line) + len(drafted) - self._num_prompt
        wrong = [rng.randrange(self._vocab_size) for _ in range(min(count, rng.choice([0, 0, 1, 2, 5, 12])))]
        tokens = zip_longest(wrong, self._right[start : start + len(wrong)])
        chosen = (one if right is None or rng.random() >= self._rate else right for one, right in tokens)
        return tuple(DraftToken(token, rng.choice([0.6, 0.9]), copied=True) for token in chosen)


@contextlib.contextmanager
def knowing(ask: Ask, vocab_size: int) -> Iterator[None]:
    """Its draft tokens are copied from what it will say."""
    with patch.object(session, "NgramIndex", lambda line, _: Knowing(line, ask, vocab_size)):
        yield


def two_drafters(village: Village, places: list[Place]) -> list[Place]:
    return [*(place for place in places if place.name != "dora 1"), village._place("dora 1", None)]


class TwoDrafters(Village):
    """One of them may die."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model = MODEL

    def draft_engine(self, place: Place) -> FakeTextEngine:
        return DraftEngine(replace(MODEL, agreement=self.agreement), cost=place.cost, context_tokens=CELLS)

    def _draw_places(self) -> list[Place]:
        return two_drafters(self, super()._draw_places())


def request_of(number: int, max_tokens: int) -> tuple[str, GenerateRequest]:
    """The same for a number, wherever it is run."""
    rng = Random(f"request {number}")
    name = list(SCHEMAS)[number % len(SCHEMAS)]
    prompt = tuple(rng.randrange(1, 97) for _ in range(rng.randint(3, 30)))
    return name, GenerateRequest(
        prompt_tokens=prompt, max_tokens=max_tokens, temperature=rng.choice((0.0, 0.8)), seed=number,
        constraint=constraints.json_schema(SCHEMAS[name]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One reply to come, and what becomes of its peers: `kill` "stage" or "drafter", at `kill_at` tokens."""

    number: int
    schema: str
    request: GenerateRequest
    alone: Sequence[int]
    """What plain decoding gave."""
    kill: str
    kill_at: int

    @classmethod
    def of(cls, number: int, schema: str, request: GenerateRequest, alone: Sequence[int]) -> Ask:
        rng = Random(f"run {number}")
        window = rng.randint(0, MAX_WINDOW)
        policy = rng.choice(("fixed", "throughput:hedged", "throughput", "stream:2:8", "hedged:1:8:2"))
        asked = replace(request, draft_max=window, window=policy if window else "")
        return cls(number, schema, asked, alone, rng.choice(("", "stage", "drafter")), rng.randint(1, 12))


async def play(make: Callable[[Random], Village], rng: Random, asks: Sequence[Ask], vocab: Vocab) -> list[Run]:
    """One village, one reply after the other; who was killed comes back."""
    village, runs = make(rng), []
    try:
        await village.build(num_clients=1)
        await asyncio.sleep(SETTLE_S)
        for ask in asks:
            for place in [place for place in village.places if place.name not in village.villagers]:
                await village.add(place)
                await asyncio.sleep(SETTLE_S)
            village.network.rough = rough(village.rng)
            try:
                with restless(ask.number, share=0.5), knowing(ask, village.model.vocab_size):
                    runs.append(await answered(village, ask, vocab))
            except DsdError as error:
                runs.append(Run(ask.number, ask.schema, end=repr(error)))
            village.network.rough = Roughness()
    finally:
        await village.close()
    return runs


async def answered(village: Village, ask: Ask, vocab: Vocab) -> Run:
    tokens: list[int] = []
    kill, asked = ask.kill, ask.request
    async with contextlib.aclosing(village.clients[0].generate(asked)) as events:
        async for event in events:
            if isinstance(event, Finished):
                break
            tokens += event.tokens
            victims = [] if len(tokens) < ask.kill_at else owners(village) if kill == "drafter" else in_use(village)
            if kill and victims:
                kill = ""
                await village.kill(village.rng.choice(victims), silent=False)
    assert isinstance(event, Finished)
    text = vocab.detokenizer().feed(tokens)
    equal, valid = list(tokens) == list(ask.alone), is_valid(text, SCHEMAS[ask.schema])
    figures = len(tokens), event.stats.recoveries, event.stats.drafted, event.stats.copied_judged
    place = ask.number, ask.schema, asked.draft_max or 0, asked.temperature, ask.kill if not kill else ""
    run = Run(*place, event.reason, *figures, equal, valid)
    return run if equal and valid else replace(run, text=text, tokens=tuple(tokens))


def rough(rng: Random) -> Roughness:
    drop, duplicate, reorder = (rng.choice((0.0, 0.05)) for _ in range(3))
    return Roughness(drop, duplicate, reorder, 0.3)


def owners(village: Village) -> list[str]:
    """Drafters of replies in progress."""
    drafters = ((name, one.node._drafter) for name, one in village.villagers.items())
    return [name for name, drafter in drafters if drafter is not None and drafter._by_session]


def is_valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


class FakeRuns:
    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self.vocab = asyncio.run(FakeTextEngine(MODEL).vocabulary())

    def ask(self, number: int) -> Ask:
        name, request = request_of(number, self._max_tokens)
        return Ask.of(number, name, request, asyncio.run(constrained_reply(request, MODEL)))

    def village(self, rng: Random) -> Village:
        return TwoDrafters(rng, num_layers=MODEL.num_layers, replicas=(2,))

    def judged(self, run: Run) -> Run:
        return run


class RealTwoDrafters(RealVillage):
    def _draw_places(self) -> list[Place]:
        return two_drafters(self, super()._draw_places())


class RealRuns:
    """The demo pair, strictly, on questions as they are asked of it."""

    def __init__(self, max_tokens: int, folder: Path) -> None:
        self._max_tokens, self._folder = max_tokens, folder
        self._whole = WholeModel(demo_target(), strict=True)
        self._prompts, self._ends = asyncio.run(rendered([problem.question for problem in problems(7, 16)]))
        vocab = load_vocab(demo_target())
        self.vocab = Vocab(vocab.pieces(), self._ends, True)
        self._grammars = grammars_of(demo_target())
        self._alone: dict[int, Alone] = {}

    def ask(self, number: int) -> Ask:
        name, request = request_of(number, self._max_tokens)
        request = replace(request, prompt_tokens=self._prompts[number % len(self._prompts)])
        assert request.constraint is not None
        self._grammars.open(b"", request.constraint, len(self.vocab.pieces))
        alone = self._alone[number] = self._whole.decode(
            request.prompt_tokens or (),
            Sampling(request.temperature, seed=request.seed),
            request.max_tokens,
            self._ends,
            lambda tokens: self._grammars.masks(b"", tokens, len(tokens), True)[1][0][1],
        )
        return Ask.of(number, name, request, alone.tokens)

    def village(self, rng: Random) -> Village:
        return RealTwoDrafters(rng, num_layers=NUM_LAYERS, replicas=(2,), strict=True, folder=self._folder)

    def judged(self, run: Run) -> Run:
        tie = None if run.equal else compare(self._alone[run.number], run.tokens)
        is_near = tie is not None and tie[1] * (run.temperature or 1.0) < NEAR_TIE
        return replace(run, equal=True, near_tie=True) if is_near else run


def told(runs: Sequence[Run]) -> list[str]:
    """The table."""
    ended = [run for run in runs if run.end == "stop"]
    wrong = [run for run in runs if not run.is_right]
    killed = Counter(run.killed or "nobody" for run in runs)
    return [
        f"{len(runs)} replies over {len({run.schema for run in runs})} schemas: {len(ended)} ended by themselves, "
        f"{sum(run.end == 'length' for run in runs)} by length, {len(wrong)} not as they should be",
        f"invalid {sum(not run.valid for run in ended)}, not the text of plain decoding "
        f"{sum(not run.equal for run in runs)} (near-ties: {sum(run.near_tie for run in runs)}), "
        f"without an end {sum(run.end not in ('stop', 'length') for run in runs)}",
        f"{sum(run.num_tokens for run in runs)} tokens, {sum(run.drafted for run in runs)} drafted, "
        f"{sum(run.copied for run in runs)} copied and judged; "
        f"{sum(run.recoveries for run in runs)} recoveries; killed: {dict(killed)}",
        "windows: " + ", ".join(f"{window}: {n}" for window, n in sorted(Counter(run.window for run in runs).items())),
        *(f"wrong: {run}" for run in wrong[:10]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--replies", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--max-tokens", type=int, default=150)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    set_up("error", "auto")
    known: dict[int, Run] = {}
    if options.results is not None and options.results.exists():
        lines = options.results.read_text(encoding="utf-8").splitlines()
        known = {run.number: run for run in (msgspec.json.decode(line, type=Run) for line in lines)}
    wanted = range(options.first, options.first + options.replies)
    with tempfile.TemporaryDirectory() as folder:
        kind = RealRuns(options.max_tokens, Path(folder)) if options.real else FakeRuns(options.max_tokens)
        for first in wanted[::IN_A_VILLAGE]:
            numbers = [n for n in range(first, min(first + IN_A_VILLAGE, wanted.stop)) if n not in known]
            asks = [kind.ask(number) for number in numbers]
            played = (
                jumping.run(play(kind.village, Random(f"village {first}"), asks, kind.vocab), 36000.0) if asks else []
            )
            for run in map(kind.judged, played):
                known[run.number] = run
                if options.results is not None:
                    with options.results.open("ab") as file:
                        file.write(msgspec.json.encode(run) + b"\n")
    runs = [known[number] for number in wanted]
    print("\n".join(told(runs)))
    return int(not all(run.is_right for run in runs))


if __name__ == "__main__":
    sys.exit(main())
