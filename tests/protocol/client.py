"""A client of a dsdnode swarm, written from its protocol page alone; it needs Python 3.11, pyzmq, msgpack and PyNaCl.

`python client.py JOIN` lists the models of a swarm, `python client.py JOIN "A question"` prints an answer as it comes.
"""

import argparse
import asyncio
import hashlib
import hmac
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace as Record
from typing import Any, NamedTuple, Self

import msgpack
import zmq.asyncio
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

HELLO, WELCOME, REFUSED, PING, PONG, FIND_PROVIDERS, PROVIDERS = 1, 2, 3, 4, 5, 12, 13
GENERATE, ACCEPTED, PIECE, FINISHED, CANCEL = 30, 31, 32, 33, 34
ATTEMPT_S, FIND_S, LOOKUP_S, ASK_S, SILENCE_S, PAUSE_S, BUSY_S = 5.0, 3.0, 10.0, 10.0, 2.0, 0.5, 30.0
STUCK_S = 300.0  # Our own bound, not the page's: a drafter that lives, but sends nothing new for so long, has failed.
VERSION, SALT, MODELS_KEY = 2, b"dsdnode swarm key 1", hashlib.sha256(b"dsdnode/1/models/").digest()
ADDRESS = re.compile(r"tcp://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,98}[A-Za-z0-9])?):[0-9]{1,5}")
Contact = tuple[bytes, Sequence[str]]  # How to reach a peer: its Ed25519 key and its addresses.
Answer = tuple[int, list[Any], Sequence[bytes]]  # Of a message: its tag, the fields behind the tag, the buffers.


class ClientError(Exception):
    """Something went wrong; the text says what. Part of it may be a stranger's, and must not steer a terminal."""

    def __init__(self, words: str, retry: bool = False) -> None:
        super().__init__("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words))
        self.retry = retry  # Whether the same peer may say something else later.


class LostError(ClientError):
    """A peer is silent or gone, or what it sent cannot be right: ask another one, or this one once more."""


class RefusedError(ClientError):
    """A peer said no: ask another one, or this one later if `retry` says so."""


def parse_join(join: str) -> Contact:
    """Read a join string. It holds the public key itself, so CURVE proves that the peer is the one that is meant."""
    match = re.fullmatch(r"dsd://([^/]+)/([0-9A-Fa-f]{64})/?", join)
    addresses = ["tcp://" + hostport for hostport in match[1].split(",")] if match else []
    if not match or len(join) > 600 or len(addresses) > 4 or not all(map(ADDRESS.fullmatch, addresses)):
        raise ClientError("this is no join string; they look like dsd://HOST:PORT/KEY")
    try:
        VerifyKey(bytes.fromhex(match[2])).to_curve25519_public_key()
    except CryptoError as error:
        raise ClientError("the key in the join string is not valid") from error
    return bytes.fromhex(match[2]), addresses


def derive(swarm_key: str) -> bytes:
    """Stretch a swarm key (section 4). An open swarm has none, and empty proofs."""
    return hashlib.scrypt(swarm_key.encode(), salt=SALT, n=16384, r=8, p=1, dklen=32) if swarm_key else b""


def prove(derived: bytes, label: bytes, sender: bytes, receiver: bytes, nonce: bytes) -> bytes:
    """Prove the swarm key without telling it; the label is `hello` or `welcome`."""
    return hmac.digest(derived, b"dsdnode %b 1\n" % label + sender + receiver + nonce, "sha256") if derived else b""


def read(values: Any, fields: Collection[Any], inner: bool = False) -> list[Any]:
    """Return the fields of a structure (section 6). A type stands for a field that must be there, else a default."""
    if type(values) is list and (inner or len(values) <= len(fields)):  # Later versions may add to inner ones.
        values = [*values, *[*fields][len(values) :]][: len(fields)]
        kinds = [field if isinstance(field, type) else type(field) for field in fields]
        # A boolean is no integer here, but an integer will do for a float.
        if all(type(v) in (kind, int if kind is float else kind) for v, kind in zip(values, kinds, strict=True)):
            return list(values)
    raise LostError("the peer sent something malformed")


SHAPES: dict[int, Collection[Any]] = {  # The fields of the messages that a client reads.
    WELCOME: (int, list, bytes), REFUSED: (str, False), PING: (), PONG: (), PROVIDERS: (),
    ACCEPTED: (bytes, str, [0.0, False]), PIECE: (bytes, int, int), FINISHED: (bytes, str, "", ""),
}  # fmt: skip


def unpack(data: bytes) -> Any:
    """Read msgpack of a stranger; ext types and bytes behind the end are refused."""
    try:
        return msgpack.unpackb(data, max_array_len=65536, max_map_len=1024, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise LostError("the peer sent malformed msgpack") from error


def decode(frames: Sequence[bytes], shapes: dict[int, Collection[Any]] = SHAPES) -> tuple[int, bool, Answer]:
    """Read a message (section 5): number, whether it is a reply, and the rest. Unknown tags are left as they are."""
    number, reply, deadline_ms, message = read(unpack(frames[0][:4097]), (int, bool, int, list))
    if len(frames) > 9 or len(frames[0]) > 4096 or not 0 <= number < 1 << 63 or not 0 <= deadline_ms <= 86400000:
        raise LostError("the peer sent a malformed header")
    (tag,), fields = read(message[:1], (int,)), message[1:]
    return number, reply, (tag, read(fields, shapes[tag]) if tag in shapes else fields, frames[1:])


RECORD = {
    "public_key": bytes, "addresses": list, "role": str, "weights_hash": str, "architecture": str, "model_name": str,
    "start": int, "end": int, "num_layers": int, "tokenizer_hash": str, "vocab_size": int, "width": int,
    "context_tokens": int, "free_sessions": int, "fixed_ms": 0.0, "slope_ms": 0.0, "queue": 0.0, "round_trips": [],
    "settled": True, "sequence": 0, "ttl_s": 600.0, "relay_bytes_per_s": 0.0, "text_hash": "", "nickname": "",
}  # fmt: skip
MODEL = "dsdnode model 1\n{weights_hash} {architecture} {num_layers} {width} {vocab_size} {tokenizer_hash} {text_hash}"


def open_record(signed: bytes) -> Record:
    """Check a signed record; CryptoError says that its key or its signature is wrong (section 8.2)."""
    version, payload, signature = read(unpack(signed), (int, bytes, bytes))
    record = Record(**dict(zip(RECORD, read(unpack(payload), RECORD.values(), inner=True), strict=True)))
    layered = record.start < record.end <= record.num_layers
    if version != 1 or not layered or not all(map(ADDRESS.fullmatch, record.addresses)):
        raise LostError("the peer sent a malformed record")
    VerifyKey(record.public_key).to_curve25519_public_key()
    VerifyKey(record.public_key).verify(b"dsdnode provider record 1\n" + payload, signature)  # The payload as it came.
    record.model_id = hashlib.sha256(f"{MODEL.format(**vars(record)).rstrip()}\n".encode()).hexdigest()  # Section 8.5.
    return record


class Model(NamedTuple):
    """A model of the swarm. It is complete if pieces follow each other end to end through all its layers."""

    model_id: str
    name: str
    num_layers: int
    complete: bool
    drafters: list[Record]


def models_of(records: Collection[Record]) -> list[Model]:
    """Put offers together to models: of each provider the last ones, unless taken back, or not settled yet."""
    last = dict(sorted((record.public_key, record.sequence) for record in records))
    said = {(r.public_key, r.role): r for r in records if r.sequence == last[r.public_key]}.values()
    offers = sorted((r for r in said if r.ttl_s > 0 and r.settled), key=lambda r: r.start)
    models, ends = {}, defaultdict[str, set[int]](lambda: {0})
    for shard in (offer for offer in offers if offer.role == "shard"):
        if shard.start in ends[shard.model_id]:
            ends[shard.model_id].add(shard.end)
        drafters = [o for o in offers if o.role == "drafter" and o.tokenizer_hash == shard.tokenizer_hash]
        name, size, complete = shard.model_name, shard.num_layers, shard.num_layers in ends[shard.model_id]
        models[shard.model_id] = Model(shard.model_id, name, size, complete, drafters)
    return list(models.values())


class Link:
    """One connection to one peer (sections 3 to 5). Every wait ends, with an answer or an error in words."""

    def __init__(self, context: zmq.asyncio.Context, key: SigningKey, peer: bytes, address: str) -> None:
        self.me, self.peer, self.address, self.alive = bytes(key.verify_key), peer, address, False
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.replies: dict[bytes, asyncio.Queue[Answer]] = {}
        server_key, self.socket = VerifyKey(peer).to_curve25519_public_key(), context.socket(zmq.DEALER)
        own_key = key.to_curve25519_private_key()
        options: dict[int, int | bytes] = {
            zmq.CURVE_SERVERKEY: bytes(server_key), zmq.CURVE_PUBLICKEY: bytes(own_key.public_key), zmq.LINGER: 0,
            zmq.CURVE_SECRETKEY: bytes(own_key), zmq.RECONNECT_IVL: -1, zmq.IMMEDIATE: 1, zmq.MAXMSGSIZE: 4194337,
            zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 2, zmq.TCP_MAXRT: 5000, zmq.IPV6: int("[" in address),
        }  # fmt: skip
        for option, value in options.items():
            self.socket.setsockopt(option, value)

    async def greet(self, derived: bytes) -> None:
        """Connect, say hello, and check the welcome: the callee must prove the swarm key, too."""
        self.socket.connect(self.address)
        nonce = os.urandom(16)
        told = [[self.me, []], ["f32"], nonce, prove(derived, b"hello", self.me, self.peer, nonce), False]
        await self.socket.send(msgpack.packb([0, False, 0, [HELLO, VERSION, *told]]))  # Waits until CURVE is through.
        _, _, (tag, fields, _) = decode(await self.socket.recv_multipart())
        if tag == REFUSED:
            raise RefusedError(f"the swarm refused us: {fields[0]}", fields[1])
        if tag != WELCOME or fields[0] != VERSION or "f32" not in fields[1]:
            raise LostError(f"the peer does not speak version {VERSION} of the protocol")
        if not hmac.compare_digest(fields[2], prove(derived, b"welcome", self.peer, self.me, nonce)):
            raise LostError("the peer did not prove the swarm key: it is not of this swarm")
        self.alive, self.reader = True, asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Hand on what comes. What is malformed is dropped: whoever waits for it has a deadline."""
        while self.alive:
            frames = await self.socket.recv_multipart()
            with suppress(ClientError, asyncio.InvalidStateError):  # The latter: its deadline is over just now.
                number, reply, answer = decode(frames)
                if reply and number in self.waiting:
                    self.waiting.pop(number).set_result(answer)
                elif number and not reply:  # Who does not answer a Ping is taken for dead.
                    said = [PONG] if answer[0] == PING else [REFUSED, "not served here", False]
                    await self.send([number, True, 0, said])
                elif answer[0] in (PIECE, FINISHED) and answer[1][0] in self.replies:
                    self.replies[answer[1][0]].put_nowait(answer)

    async def send(self, header: list[Any], *buffers: bytes) -> None:
        """Send now or never: a socket that cannot be written to has lost its connection."""
        with suppress(zmq.ZMQError):
            if self.alive:
                await self.socket.send_multipart([msgpack.packb(header), *buffers], flags=zmq.NOBLOCK)
                return
        self.alive = False
        self.socket.close()
        raise LostError("the connection to the peer is lost")

    async def request(self, seconds: float, message: list[Any], *buffers: bytes) -> Answer:
        """Ask, and wait for the answer at most so long."""
        number = 1 + int.from_bytes(os.urandom(7))  # Unlike those of other requests, also of an earlier process.
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self.send([number, False, int(seconds * 1000), message], *buffers)
            tag, fields, buffers = await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise LostError(f"the peer did not answer within {seconds:g} s") from None
        finally:
            self.waiting.pop(number, None)
        if tag == REFUSED:
            raise RefusedError(f"the peer refused: {fields[0]}", fields[1])
        return tag, fields, buffers


@dataclass
class Reply:
    """What is asked for, and what has come of it: all that another drafter needs to go on (section 9.5)."""

    messages: Sequence[tuple[str, str]] = ()  # Roles and contents; they are dropped when the prompt's ids are known.
    prompt: list[int] = field(default_factory=list)
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 256
    wire: str = ""  # "f32" excludes that rounding on the way tips a near-tie.
    acceptance: list[Any] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: str = ""

    def body(self, model_id: str) -> bytes:
        """Pack the GenerateBody."""
        asked = [self.messages, "", self.prompt, self.tokens, model_id, [self.temperature, 0, 1.0, 0.0, self.seed]]
        return bytes(msgpack.packb([*asked, self.max_tokens, [], -1, "", self.wire, self.acceptance]))

    def take(self, answer: Answer, begun: int) -> str:
        """Take in what a drafter says that began at token `begun`, and return the text that is new."""
        tag, (_, *fields), buffers = answer
        if tag == FINISHED:
            reason, error, words = fields
            if error:  # Section 12.1 says what each of them means.
                kind = RefusedError if error in ("Overloaded", "PeerUnavailable", "EngineLost") else ClientError
                raise kind(f"{error}: {words}", retry=error == "Overloaded")
            statistics = unpack(buffers[0]) if buffers else {"completion_tokens": 0}
            if type(statistics) is not dict or statistics.get("completion_tokens") != len(self.tokens) - begun:
                raise LostError("the end of the reply was lost")
            self.reason = reason
            return ""
        if len(buffers) != {ACCEPTED: 1, PIECE: 2}.get(tag) or len(buffers[0]) % 4:
            raise LostError("the drafter gave an answer of a wrong kind")
        ids = [int.from_bytes(buffers[0][i : i + 4], "little") for i in range(0, len(buffers[0]), 4)]
        if tag == ACCEPTED:
            self.messages, self.prompt, self.acceptance = (), ids, fields[1]
            return ""
        if fields[0] != len(self.tokens):
            raise LostError("a piece of the reply was lost")
        self.tokens, self.text = self.tokens + ids, self.text + (text := buffers[1].decode(errors="replace"))
        return text


class Client:
    """A member of a swarm that has no address: it asks, and serves nothing but Ping. Use it in `async with`."""

    def __init__(self, join: str, swarm_key: str = "") -> None:
        self.joined, self.derived, self.key = parse_join(join), derive(swarm_key), SigningKey.generate()
        self.context, self.links = zmq.asyncio.Context(), dict[bytes, Link]()

    async def __aenter__(self) -> Self:
        await self.link(self.joined)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.context.destroy(linger=0)

    async def link(self, contact: Contact) -> Link:
        """Return the connection to a peer; if none lives, dial its addresses one after the other."""
        (peer, addresses), why = contact, "it has no address"
        if peer in self.links and self.links[peer].alive:
            return self.links[peer]
        for address in addresses:
            link = Link(self.context, self.key, peer, address)
            try:
                await asyncio.wait_for(link.greet(self.derived), ATTEMPT_S)
                self.links[peer] = link
                return link
            except (TimeoutError, LostError, zmq.ZMQError) as error:
                why = str(error) or f"no welcome within {ATTEMPT_S:g} s"
            finally:
                if not link.alive:
                    link.socket.close()
        raise LostError(f"the peer at {', '.join(addresses)} cannot be reached: {why}")

    async def _ask(self, peer: bytes, known: dict[bytes, Sequence[str]], found: list[Record]) -> None:
        """Ask one peer of a lookup, and add what it knows. One that fails is no candidate any more."""
        try:
            async with asyncio.timeout(FIND_S):
                link = await self.link((peer, known[peer]))
                _, _, buffers = await link.request(FIND_S, [FIND_PROVIDERS, MODELS_KEY])
            contacts, records = map(unpack, buffers)
            for key, addresses in (read(contact, (bytes, []), inner=True) for contact in contacts):
                known.setdefault(key, list(filter(ADDRESS.fullmatch, addresses)))
            found.extend(list(map(open_record, records)))
        except (ClientError, CryptoError, TimeoutError, TypeError, ValueError):  # It is gone, or sends nonsense.
            known[peer] = ()

    async def models(self) -> list[Model]:
        """Look up the swarm's models (section 8.4), beginning at the peer that we joined; it takes 10 s at most."""
        known, asked, found = dict([self.joined]), set[bytes](), list[Record]()

        def distance(peer: bytes) -> int:
            return int.from_bytes(hashlib.sha256(peer).digest()) ^ int.from_bytes(MODELS_KEY)

        with suppress(TimeoutError):
            async with asyncio.timeout(LOOKUP_S):
                while batch := [p for p in sorted(filter(known.get, known), key=distance)[:20] if p not in asked][:3]:
                    asked.update(batch)
                    await asyncio.gather(*(self._ask(peer, known, found) for peer in batch))
        if not any(known.values()):
            raise LostError("no peer of the swarm answers")
        return models_of(found)

    async def reply(self, model: Model, reply: Reply, show: Callable[[str], None]) -> None:
        """Get a whole reply, from as many drafters as it takes: whoever goes on sends the same tokens (section 9.5)."""
        failed, busy, why = Counter[bytes](), Counter[bytes](), "it has none"
        while usable := [drafter for drafter in model.drafters if failed[drafter.public_key] < 2]:
            drafter = min(usable, key=lambda d: (failed[d.public_key], busy[d.public_key], -d.free_sessions))
            peer = drafter.public_key
            await asyncio.sleep(PAUSE_S if failed[peer] or busy[peer] else 0)
            try:
                link = await self.link((peer, drafter.addresses))
                if failed[peer]:
                    await link.request(SILENCE_S, [PING])
                return await self._attempt(link, model.model_id, reply, show)
            except (LostError, RefusedError) as error:
                why, again = str(error), error.retry and busy[peer] * PAUSE_S < BUSY_S
                busy[peer] += again
                failed[peer] += 0 if again else 1 if isinstance(error, LostError) else 2
        raise LostError(f"no drafter of the model is left to ask: {why}")

    async def _attempt(self, link: Link, model_id: str, reply: Reply, show: Callable[[str], None]) -> None:
        """Ask one drafter, and take what it sends. The request is a new one, so that nothing old is taken for new."""
        request, begun = os.urandom(16), len(reply.tokens)
        link.replies[request] = asyncio.Queue()  # Before asking, since pieces may overtake the answer.
        try:
            show(reply.take(await link.request(ASK_S, [GENERATE, request], reply.body(model_id)), begun))
            while not reply.reason:
                show(reply.take(await self._next(link, request), begun))
        finally:  # Cancel is ignored if the reply is over. If not, the drafter must not go on for nobody.
            del link.replies[request]
            with suppress(ClientError):
                await link.send([0, False, 0, [CANCEL, request]])

    async def _next(self, link: Link, request: bytes) -> Answer:
        """Wait for a notice. After each silence ask whether the drafter still works on the reply (section 9.3)."""
        for _ in range(int(STUCK_S / SILENCE_S)):
            with suppress(TimeoutError):
                return await asyncio.wait_for(link.replies[request].get(), SILENCE_S)
            try:
                await link.request(SILENCE_S, [GENERATE, request])
            except RefusedError as error:
                if link.replies[request].empty() and not error.retry:  # If it is not empty the end has just come.
                    raise LostError("the drafter does not know the reply any more") from error
        raise LostError(f"the drafter sent nothing new for {STUCK_S:g} s")


async def run(options: argparse.Namespace) -> None:
    """List the models of a swarm, or get one reply."""
    async with Client(options.join, options.swarm_key) as client:
        models = await client.models()
        if not options.prompt:
            for m in models:
                print(f"{m.name!a}: {m.num_layers} layers, complete: {m.complete}, {len(m.drafters)} drafters")
            return
        if not (complete := [model for model in models if model.complete]):
            raise ClientError("the swarm serves no complete model")
        reply = Reply([("user", options.prompt)], temperature=options.temperature, seed=options.seed)
        await client.reply(complete[0], reply, lambda text: print(text, end="", flush=True))
        print(f"\n{reply.reason}: {reply.tokens}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("join", help="dsd://HOST:PORT/KEY of any member")
    parser.add_argument("prompt", nargs="?", help="without one the models are listed")
    for name, default in (("--swarm-key", ""), ("--temperature", 0.0), ("--seed", 0)):
        parser.add_argument(name, type=type(default), default=default)
    try:
        asyncio.run(run(parser.parse_intermixed_args()))
    except ClientError as error:
        raise SystemExit(f"error: {error}") from None
