"""A client among hostile drafters: its reply ends, in words or well, and is never more than was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dsdnode.client import client, losses, part, patience
from dsdnode.client import request as request_
from dsdnode.client.client import Client, Finished, GenerateRequest, Piece
from dsdnode.engine.fake import FakeModel
from dsdnode.errors import DsdError
from dsdnode.wire import messages as wire
from dsdnode.wire import replies
from dsdnode.wire.calls import CallFormat
from dsdnode.wire.codec import Envelope, decode_body, encode_body
from dsdnode.wire.logprobs import PieceLogprobs, SaidPosition, SaidToken
from dsdnode.wire.messages import Refused
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.records import ProviderRecord
from tests.fuzz.hostile import Game, Person, person, play
from tests.fuzz.parser import Parser
from tests.fuzz.shards import seed

MODEL = FakeModel()
PATIENCE_S, MAX_TOKENS = 20.0, 6
PROMPT = (5, 17, 42)
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"properties": {"days": {}}}}},)
FORMATS = (
    *(CallFormat(),) * 6, CallFormat(open="", close=""), CallFormat(open="[TOOL_CALLS]", close=""), {"kind": "tagged"},
)  # fmt: skip
CALLED = ('<tool_call>{"name": "weather", ', '"arguments": {"days": ', "5}}</tool_call>", "so")
DRAFTERS = ("dora", "dan", "mallory")
END_S = 400.0
"""A reply of six tokens is over by then, whatever is done to it: each may take as long as the patience lasts and a
little more, and a prompt as long as reading takes; nearly twice over."""
ERRORS = ("", *losses.ERRORS, "DsdError", "KeyError", "\x1b[31m", "x" * 96)
WORDS = ("", "so it is", "\x1b[2J\x9b1m\u202e", "x" * 512, "\ufdd0\n\t")
GAPS_S = (0.0, 0.0, 0.001, 0.1, 0.5, 1.9, 5.0, 30.0)


def shard_of(who: Person, start: int, end: int, **said: Any) -> ProviderRecord:
    """What it offers."""
    shard = MODEL.shard(start, end)
    fields: dict[str, Any] = dict(
        public_key=who.contact.public_key, addresses=who.contact.addresses, role="shard",
        weights_hash=shard.weights_hash, architecture=shard.architecture, model_name=shard.model_name,
        start=start, end=end, num_layers=shard.num_layers, tokenizer_hash=shard.tokenizer_hash,
        vocab_size=shard.vocab_size, width=shard.width, context_tokens=shard.context_tokens, free_sessions=3,
    )  # fmt: skip
    return ProviderRecord(**fields | said)


class Records:
    """In place of Discovery: what a lookup finds."""

    def __init__(self, own_id: bytes, records: Callable[[], Sequence[ProviderRecord]]) -> None:
        self.own_id = own_id
        self._records = records

    async def find_providers(self, key: bytes, *, thorough: bool = False) -> list[ProviderRecord]:
        return list(self._records())

    async def join(self, contacts: Sequence[wire.Contact], timeout_s: float, told: Any = None) -> None: ...

    def start(self) -> None: ...

    async def close(self) -> None: ...


class ClientGame(Game):
    names = (*DRAFTERS, "sam")

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        rng = self.rng
        self.count = rng.choice((1, 1, 2, 3))
        self.habits = {name: rng.choice((0.0, 0.2, 0.9)) for name in DRAFTERS}
        """How often each says again what it has said before."""
        self.drafting: dict[bytes, bytes] = {}
        self.num_given: dict[bytes, int] = {}
        self.num_said: dict[bytes, int] = {}
        """Pieces of a call of a tool."""
        self.num_logprobs: dict[bytes, int] = {}

    def _records(self) -> list[ProviderRecord]:
        drafters = DRAFTERS[: self.count]
        offers = [shard_of(person(name), 0, 4, role="drafter") for name in drafters]
        return [shard_of(person("sam"), 0, 4), *(offers if self.rng.random() < 0.98 else ())]

    async def story(self) -> None:
        rng = self.rng
        records: Any = Records(self.transport.id, self._records)
        alice = Client(self.rpc, records, rng, patience_s=PATIENCE_S)
        alice._start()
        heard: list[str] = []
        for _ in range(rng.choice((1, 1, 2))):
            asked = GenerateRequest(
                prompt_tokens=PROMPT if rng.random() < 0.6 else None, prompt=None if rng.random() < 0.9 else "why",
                messages=({"role": "user", "content": "why"},), max_tokens=MAX_TOKENS,
                threshold=rng.choice((None, None, 0.0, 0.3)), keep=rng.random() < 0.3,
                tools=TOOLS if rng.random() < 0.3 else (), logprobs=rng.choice((-1, -1, 0, 1)),
                presence_penalty=rng.choice((0.0, 0.0, 0.5)),
                constraint=replies.Constraint("regex", "a") if rng.random() < 0.1 else None,
            )  # fmt: skip
            began_s, num_before = self.loop.time(), len(heard)
            try:
                async with asyncio.timeout(END_S):
                    await self._read(alice, asked, heard.append)
            except DsdError as error:
                assert str(error).isprintable() or "\n" in str(error), "an error that would end on a terminal"
            except TimeoutError:
                raise AssertionError(f"a reply that never ends, begun {began_s:g}") from None
            most = 1 + (self.loop.time() - began_s) / request_.WORDS_EVERY_S
            assert len(heard) - num_before <= most, "words that fill a screen"
            assert not alice._askings.inboxes, "inboxes are left"
        assert all(words.isprintable() for words in heard), "words that would end on a terminal"
        self.silent = True
        await asyncio.sleep(60)
        self.check_rpc()
        await alice._pings.close()

    async def _read(self, alice: Client, asked: GenerateRequest, told: Callable[[str], None]) -> None:
        num, num_bytes, finished = 0, 0, False
        async for event in alice.generate(asked, told):
            assert not finished, "more after the end"
            if isinstance(event, Piece):
                num += len(event.tokens)
                num_bytes += len(event.text.encode())
                assert num <= MAX_TOKENS, "more than was asked for"
                assert num_bytes <= 3 * part.MAX_TOKEN_BYTES * (num + 1), "a book"  # (\ufffd has 3 bytes)
                assert all(0 <= token < part.MAX_VOCAB for token in event.tokens)
                assert len(event.logprobs) == (0 if asked.logprobs < 0 else len(event.tokens))
                assert not event.calls or asked.tools, "calls of no tools"
                assert len(event.route) <= wire.MAX_STAGES
            else:
                assert isinstance(event, Finished) and event.reason.isprintable()
                assert event.stats.completion_tokens == num
                finished = True
        assert finished, "it neither ends nor fails"

    # --- the drafters

    def asked(self, who: Person, envelope: Envelope) -> None:
        rng, message = self.rng, envelope.message
        if not isinstance(message, replies.Generate):
            return self.answers(who, envelope.request_id, Refused("why not"))
        answer: wire.Message
        if not envelope.buffers:
            answer = rng.choice((wire.Pong(), wire.Pong(), Refused("no"), Refused("full", retry=True), wire.Stored()))
            if rng.random() < 0.9:
                self.answers(who, envelope.request_id, answer)
            return
        way = rng.random()
        self.drafting[who.id] = message.request
        self.num_given[message.request] = rng.choice((0, 0, 0, 1))
        if way < 0.8:
            prompt = PROMPT if rng.random() < 0.9 else rng.choice(((), (1,), (1 << 24,), (5,) * 1000))
            body = decode_body(envelope.buffers[0], replies.GenerateBody)
            self.num_logprobs[message.request] = body.num_logprobs
            rule = body.acceptance or wire.WireAcceptance()
            rule = rule if rng.random() < 0.9 else wire.WireAcceptance(0.3)
            model_id = MODEL.shard(0, 4).model_id
            answer = replies.Accepted(message.request, model_id, rule)
            told = [encode_body(rng.choice(FORMATS))] if rng.random() < 0.9 else []
            self.answers(who, envelope.request_id, answer, pack_tokens(list(prompt)), *told)
            self.loop.call_later(rng.choice(GAPS_S), self._talk, who, message.request, 200)
        elif way < 0.9:
            answer = replies.Finished(message.request, "", rng.choice(ERRORS), rng.choice(WORDS))
            self.answers(who, envelope.request_id, answer)
        elif way < 0.97:
            self.answers(who, envelope.request_id, Refused(rng.choice(WORDS), retry=rng.random() < 0.5))

    def _talk(self, who: Person, request: bytes, left: int) -> None:
        """One more word; of those who repeat themselves the next is the same, for ever if need be."""
        if self.silent or self.drafting.get(who.id) != request:
            return
        rng = self.rng
        gap_s, repeats = rng.choice(GAPS_S), rng.random() < self.habits[who.name] * 0.1
        say = rng.choice((*(self._piece,) * 5, self._odd, self._wait, self._route))
        if rng.random() < (0.8 if self.num_given.get(request, 0) >= MAX_TOKENS else 0.1):
            say = rng.choice((self._finish, self._finish, self._odd, self._lose))
        say(who, request)
        if repeats:
            self._again(who, request, rng.choice((self._piece, self._wait, self._empty, say)), max(gap_s, 0.05))
        elif left:
            self.loop.call_later(gap_s, self._talk, who, request, left - 1)

    def _again(self, who: Person, request: bytes, say: Callable[[Person, bytes], None], gap_s: float) -> None:
        if not self.silent and self.drafting.get(who.id) == request and self.loop.time() < 3 * END_S:
            say(who, request)
            self.loop.call_later(gap_s, self._again, who, request, say, gap_s)

    def _piece(self, who: Person, request: bytes) -> None:
        rng, index = self.rng, self.num_given.get(request, 0)
        tokens = [rng.choice((1, 5, 5, 5, 96, 97, (1 << 24) - 1)) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        self.num_given[request] = index + len(tokens)
        text = rng.choice((b"", b"so", b"\xff\xfe", b"\x1b[31m", b"x" * 5000))
        if rng.random() < 0.7:
            self.num_said[request] = num_said = self.num_said.get(request, -1) + 1
            text = CALLED[num_said % len(CALLED)].encode()
        accepted = rng.choice((0, 0, len(tokens), 1024))
        index = index if rng.random() < 0.97 else rng.choice((0, index + 1, 1 << 20))
        told = [self._logprobs(tokens, self.num_logprobs.get(request, 0))] if rng.random() < 0.9 else []
        self.says(who, replies.Piece(request, index, accepted), pack_tokens(tokens), text, *told)

    def _logprobs(self, tokens: list[int], num: int) -> bytes:
        said = [SaidToken(token, -0.5, self.rng.choice((b"so", b"\xff", b""))) for token in tokens]
        tops = [(one,) * (max(0, num) if self.rng.random() < 0.95 else 2) for one in said]
        return encode_body(PieceLogprobs(tuple(map(SaidPosition, said, tops))))

    def _route(self, who: Person, request: bytes) -> None:
        stages = (("ab" * 32, 0, 2), ("cd" * 32, 2, 4), ("cd" * 32, 4, 0))
        self.says(who, replies.Routed(request, stages * self.rng.choice((0, 1, 19))))

    def _empty(self, who: Person, request: bytes) -> None:
        self.says(who, replies.Piece(request, self.num_given.get(request, 0), 0), b"", b"and so on ")

    def _wait(self, who: Person, request: bytes) -> None:
        self.says(who, replies.Waiting(request, self.rng.choice(WORDS)))

    def _odd(self, who: Person, request: bytes) -> None:
        """What a client never hears, and what others say of its reply."""
        rng = self.rng
        other = person(rng.choice(self.names))
        message = rng.choice(
            (replies.Cancel(request), replies.Generate(request), wire.Close(request), replies.Waiting(request, "x"),
             replies.Routed(request, (("ab" * 32, 0, 1),)), replies.Piece(request, self.num_given.get(request, 0), 0))
        )  # fmt: skip
        self.says(rng.choice((who, other)), message, *rng.choice(((), (b"\1\0\0",), (b"\1\0\0\0", b"x"))))

    def _finish(self, who: Person, request: bytes) -> None:
        rng = self.rng
        num = self.num_given.get(request, 0) + rng.choice((0, 0, 0, 1, 1 << 40))
        told = replies.Statistics(completion_tokens=num, tokens_per_second=rng.choice((None, 0.0, 1e18)))
        error = "" if rng.random() < 0.6 else rng.choice(ERRORS)
        message = replies.Finished(request, rng.choice(("stop", "length", "\x1b[31m")), error, rng.choice(WORDS))
        self.says(who, message, encode_body(told))

    def _lose(self, who: Person, request: bytes) -> None:
        self.transport.lose(who.id)


PARSERS = (Parser("client", seed, partial(play, ClientGame), (), (client.Client, request_, part, patience)),)
