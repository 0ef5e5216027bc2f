"""The masks of a reply whose text is constrained, as its owner finds them and tells them to its judge.

Every position is known by the digest of all before it, so that it does not matter of which epoch it is. The mask of a
position depends on the tokens before it alone: those of the line behind the prompt, and the draft tokens up to there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import structlog
from cachetools import LRUCache

from dsdnode.engine.call_grammar import call_grammar
from dsdnode.engine.permits import Grammar
from dsdnode.engine.port import Text
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput, DsdError
from dsdnode.net.port import Priority
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.conversations import Conversation
from dsdnode.node.drafter.options import ReplyOptions
from dsdnode.speculation import digest as digest_
from dsdnode.speculation.actions import Emit, SessionAction, Tokens
from dsdnode.speculation.masks import ANY, MAX_BASES, Masks, allows, pack
from dsdnode.wire import masks as wire
from dsdnode.wire.calls import CallRule
from dsdnode.wire.codec import MAX_BODY_BYTES, encode_body
from dsdnode.wire.messages import Block
from dsdnode.wire.replies import GenerateBody

log = structlog.get_logger(__name__)

MAX_NODES, MAX_TOLD, MAX_JUDGES = 4096, 4096, 64
MAX_ALONE = 128
"""Packed masks that are kept: as many as a window's blocks and hedges are drawn under, and more."""
AGAIN_S = 0.5
"""A judge is sent the same mask no more often: it asks once a second at most, and to pack one takes a millisecond."""
Told = LRUCache[bytes, None]
"""Masks that a judge was sent, by their hashes."""
Failed = Callable[[Exception], None]


async def constrain(text: Text, body: GenerateBody, vocab_size: int, vocab: Vocab) -> Grammar:
    """The grammar that a reply asks for, if what it has so far keeps to it. Raises BadInput, Overloaded, EngineLost."""
    constraint = body.constraint
    assert constraint is not None
    try:
        if constraint.kind == "calls":
            rule = _rule_of(constraint.text)
            constraint = call_grammar(await text.calls(), rule, body.tools, vocab.names, vocab.end_tokens)
        grammar = await text.constrain(constraint, vocab_size)
    except BadInput as error:
        if constraint is body.constraint:
            raise
        raise BadInput(f"the tools cannot be called so: {error}") from None
    if body.tokens and not (await grammar.masks(body.tokens, len(body.tokens))).names:
        raise BadInput("the reply so far is not what its grammar allows")
    return grammar


def _rule_of(text: str) -> CallRule:
    """Raises BadInput."""
    try:
        return msgspec.json.decode(text, type=CallRule)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadInput(f"which tools are to be called cannot be read: {error}") from None


class ToldJudges:
    """What each judge was sent of late, by whichever reply: it keeps that for all of them (speculation/masks.py)."""

    def __init__(self) -> None:
        self._of: LRUCache[bytes, Told] = LRUCache(MAX_JUDGES)

    def of(self, judge: bytes) -> Told:
        told: Told = self._of.setdefault(judge, LRUCache(MAX_TOLD))
        return told


@dataclass(slots=True)
class _Node:
    """`length`: positions before this one; the last of them is `token`, behind `parent`."""

    parent: bytes
    token: int
    length: int
    name: bytes | None = None
    """Of its mask; None: not known yet."""
    why: BadInput | None = None
    """Nothing can stand behind it."""


@dataclass(frozen=True, slots=True)
class DeadEnd:
    why: BadInput
    num_before: int
    """Draft tokens between the line and it."""

    def told(self, actions: Sequence[SessionAction]) -> list[SessionAction]:
        """What stands of a verdict that has come there: all but what the judge has drawn behind."""
        num = self.num_before
        told = [one for one in actions if isinstance(one, Emit)] if num else []
        return [
            replace(one, tokens=one.tokens[:num], num_accepted=min(one.num_accepted, num), logprobs=one.logprobs[:num])
            for one in told
        ]


class Constrained:
    """Of one reply."""

    def __init__(
        self,
        rpc: Rpc,
        grammar: Grammar,
        session: bytes,
        secret: bytes,
        prompt: Tokens,
        vocab_size: int,
        failed: Failed,
    ) -> None:
        """`failed` hears why no masks can be told."""
        self._rpc = rpc
        self._grammar = grammar
        self._session = session
        self._secret = secret
        self._failed = failed
        self._masks = Masks(vocab_size)
        self._num_prompt = len(prompt)
        self._line: list[int] = []
        """Of the reply."""
        self._end = digest_.first(secret)
        for token in prompt:
            self._end = digest_.after(secret, self._end, token)
        self._nodes = {self._end: _Node(b"", -1, len(prompt))}
        self._finding: dict[bytes, asyncio.Task[int]] = {}
        self._telling: dict[asyncio.Task[None], None] = {}
        self._judge = b""
        self._told: Told = LRUCache(MAX_TOLD)
        self._lost: LRUCache[bytes, float] = LRUCache(MAX_TOLD)
        """Of these, some that it did not get, and when it last said so: now they go as they are, with nothing that
        another may lack."""
        self._packed_alone: LRUCache[bytes, bytes] = LRUCache(MAX_ALONE)
        self.num_bytes = 0
        """Sent to judges."""

    @classmethod
    def of(cls, rpc: Rpc, conversation: Conversation, options: ReplyOptions, failed: Failed) -> Constrained | None:
        if options.grammar is None:
            return None
        num_prompt = len(conversation.tokens) - options.num_resumed
        prompt, resumed = conversation.tokens[:num_prompt], conversation.tokens[num_prompt:]
        names, vocab_size = (conversation.session, conversation.secret), options.model.vocab_size
        constrained = cls(rpc, options.grammar, *names, prompt, vocab_size, failed)
        constrained.commit(resumed)
        return constrained

    def close(self) -> None:
        for task in (*self._telling, *self._finding.values()):
            task.cancel()

    @property
    def _length(self) -> int:
        return self._num_prompt + len(self._line)

    def commit(self, tokens: Tokens) -> None:
        """The line has grown by these."""
        for token in tokens:
            self._end = self._go_on(self._end, token)
            self._line.append(token)
        for place in [place for place, node in self._nodes.items() if node.length < self._length]:
            del self._nodes[place]

    def allows(self, place: bytes | None, token: int) -> bool:
        """May the judge have drawn it there? Not where it was told no mask. None: at no place that matters."""
        if place is None:
            return True
        node = self._nodes.get(place)
        if node is None or node.name is None:
            return False
        mask = self._masks.get(node.name)
        return mask is None or allows(mask, token)  # forgotten here: where the line goes on the grammar is asked

    def dead_end(self, place: bytes | None) -> DeadEnd | None:
        """Can nothing stand there? Plain decoding would have come to it, too, when a verdict does."""
        node = self._nodes.get(place) if place is not None else None
        return None if node is None or node.why is None else DeadEnd(node.why, node.length - self._length)

    # --- for the draft engine

    def follow(self, before: bytes, position: int, tokens: Tokens) -> bytes | None:
        """The place behind `tokens`, which begin at `position` behind `before`; None: the line has gone another way."""
        place = before
        for length, token in enumerate(tokens, position):
            if length < self._length:
                place = self._end if length + 1 == self._length else place
            elif place not in self._nodes:
                return None
            else:
                place = self._go_on(place, token)
        return place if place in self._nodes else None

    async def mask(self, place: bytes) -> bytes | None:
        """Of the position behind; None: the line has gone another way, or is over there. Raises DsdError."""
        if not self._is_found(place):
            await self._found(place)
        node = self._nodes.get(place)
        return None if node is None or node.name is None or node.name == ANY else self._masks.get(node.name)

    async def extend(self, place: bytes, tokens: Tokens) -> list[bytes]:
        """The masks under which those of `tokens`, drafted behind `place`, stand that may: the others fall. Raises
        DsdError."""
        num = await self._find(place, tokens)
        masks: list[bytes] = []
        for token in tokens[:num]:
            node = self._nodes.get(place)
            mask = None if node is None or node.name is None else self._masks.get(node.name)
            if mask is None:
                break
            masks.append(mask)
            place = digest_.after(self._secret, place, token)
        return masks

    # --- for the judge

    def tell(self, block: Block, digests: bytes, tokens: Tokens, judge: bytes, told: Told) -> None:
        """Under which masks the judge draws at that block's positions: at once, or when they are found. `told`: what
        it was sent, by all replies."""
        if judge != self._judge:
            self._judge, self._told, self._lost = judge, told, LRUCache(MAX_TOLD)
        places = digest_.split(digests)
        for index, token in enumerate(tokens):
            if block.position + index >= self._length and places[index] in self._nodes:
                self._go_on(places[index], token, places[index + 1])
        self._tell(places[len(places) - block.num_draft - (block.num_given > 0) :])

    def tell_again(self, names: Sequence[bytes]) -> None:
        """The judge lacks these."""
        now = asyncio.get_running_loop().time()
        here = {node.name for node in self._nodes.values()}
        lost = [name for name in names if name in here and now >= self._lost.get(name, float("-inf")) + AGAIN_S]
        due = dict.fromkeys(lost, now)
        for name in due:
            self._told.pop(name, None)
        self._lost.update(due)
        if places := [place for place, node in self._nodes.items() if node.name in due]:
            self._tell(places)

    def _tell(self, places: list[bytes]) -> None:
        if all(map(self._is_found, places)):
            return self._send(places)
        task = asyncio.create_task(self._tell_found(places), name="find masks")
        self._telling[task] = None
        task.add_done_callback(self._telling.pop)

    async def _tell_found(self, places: list[bytes]) -> None:
        try:
            for place in reversed(places):  # on the way to the last one are the others
                if not self._is_found(place):
                    await self._found(place)
        except Exception as error:
            self._failed(error)
        else:
            self._send(places)

    def _send(self, places: list[bytes]) -> None:
        """With those masks that the judge was not sent."""
        names = [self._name(place) for place in places]
        packed: list[wire.PackedMask] = []
        for name in dict.fromkeys(names):
            mask = self._masks.get(name)
            if name == ANY or name in self._told or mask is None:
                continue
            packed.append(wire.PackedMask(name, self._alone(name, mask) if name in self._lost else self._packed(mask)))
            self._told[name] = None
            if sum(len(one.packed) for one in packed) > MAX_BODY_BYTES // 2:
                self._send_one([b"", b""], packed)
                packed = []
        self._send_one([b"".join(places), b"".join(names)], packed)

    def _send_one(self, head: list[bytes], packed: list[wire.PackedMask]) -> None:
        buffers = [*head, encode_body(packed)]
        self.num_bytes += sum(map(len, buffers))
        try:
            self._rpc.notify(self._judge, wire.Masks(self._session), buffers, priority=Priority.VERIFY)
        except DsdError as error:
            log.info("masks not sent", reason=str(error))  # the judge asks for them, or for the block

    def _alone(self, name: bytes, mask: bytes) -> bytes:
        """As it is: a judge may say again and again that it lacks one."""
        found: bytes | None = self._packed_alone.get(name)
        if found is None:
            found = self._packed_alone[name] = pack(mask)
        return found

    def _packed(self, mask: bytes) -> bytes:
        """As its difference from one that the judge was sent of late, if that is less."""
        names = [name for name in self._told if name not in self._lost][-MAX_BASES:]
        known = ((name, self._masks.get(name)) for name in names)
        return pack(mask, [(name, other) for name, other in known if other is not None])

    # --- inside

    def _is_found(self, place: bytes) -> bool:
        """Where the line has passed already, nothing that is drawn matters."""
        node = self._nodes.get(place)
        return node is None or (node.name is not None and node.name in self._masks)

    def _name(self, place: bytes) -> bytes:
        node = self._nodes.get(place)
        return ANY if node is None or node.name is None else node.name

    def _go_on(self, place: bytes, token: int, after: bytes = b"") -> bytes:
        after = after or digest_.after(self._secret, place, token)
        if after not in self._nodes:
            self._nodes[after] = _Node(place, token, self._nodes[place].length + 1)
            while len(self._nodes) > MAX_NODES:
                del self._nodes[next(one for one in self._nodes if one not in (self._end, after))]
        return after

    def _path(self, place: bytes) -> list[int] | None:
        """The reply's tokens up to there; None: the line has gone another way."""
        tokens: list[int] = []
        while place != self._end:
            node = self._nodes.get(place)
            if node is None or node.length <= self._length:
                return None
            tokens.append(node.token)
            place = node.parent
        return [*self._line, *reversed(tokens)]

    async def _found(self, place: bytes) -> None:
        """Its mask is known afterwards, if the line has not gone another way."""
        task = self._finding.get(place)
        if task is None:
            task = self._finding[place] = asyncio.create_task(self._find(place, (), whole=True))
            task.add_done_callback(lambda _: self._finding.pop(place, None))
        await asyncio.shield(task)

    async def _find(self, place: bytes, tail: Tokens, *, whole: bool = False) -> int:
        """Ask for the masks up to that place (`whole`: from the end of the line on) and behind each of `tail`, as far
        as these may stand: so many of them do."""
        path = self._path(place)
        if path is None:
            return 0
        first = len(self._line) if whole else len(path)
        places = [place]
        for _ in range(len(path) - first):
            places.insert(0, self._nodes[places[0]].parent)
        names, why = await self._names([*path, *tail], first, len(places))
        num = len(names) - len(places)
        for place in places[len(names) :]:
            if place in self._nodes:
                self._nodes[place].name, self._nodes[place].why = ANY, why
        for token in tail[: max(0, num)]:
            if places[-1] not in self._nodes:  # the line has gone on meanwhile
                break
            places.append(self._go_on(places[-1], token))
        for place, name in zip(places, names, strict=False):
            if place in self._nodes:
                self._nodes[place].name = name
        return num

    async def _names(self, tokens: list[int], first: int, num_wanted: int) -> tuple[list[bytes], BadInput | None]:
        """As `_ask`; where fewer than `num_wanted` come, also why nothing can stand there, if not because an end does
        before. What was drafted may fall: until it stands it ends no reply. Raises BadInput: nothing can stand at the
        first place."""
        names = await self._ask(tokens, first)
        while len(names) < num_wanted and names[-1:] != [ANY]:
            if names and not self._may_stand(names[-1], tokens[first + len(names) - 1]):
                return names, BadInput("the reply so far is not what its grammar allows")
            try:
                more = await self._ask(tokens, first + len(names))
                if not more:
                    raise BadInput("the reply so far is not what its grammar allows")
            except BadInput as error:
                if not names:
                    raise
                return names, error
            names += more  # (drafts had used up what a grammar may take)
        return names, None

    def _may_stand(self, name: bytes, token: int) -> bool:
        mask = self._masks.get(name)
        return mask is None or allows(mask, token)

    async def _ask(self, tokens: list[int], first: int) -> list[bytes]:
        """The names of masks, that all are here. Those told before may have been forgotten, or never have come."""
        for again in (False, True):
            found = await self._grammar.masks(tokens, first, again)
            for name, mask in found.fresh:
                self._masks.put(name, mask)
            if all(name in self._masks for name in found.names):
                break
        return found.names
