"""Guards of stages, drafters and clients, taken out (mutations_swarm.py has those of net, wire, dht and swarm,
mutations_local.py those of one machine).

What each of them is for, and which test misses it, says guards.txt.
"""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation
from tests.node.mutations_accounts import ACCOUNTS
from tests.node.mutations_choice import CHOICE
from tests.node.mutations_files import FILES
from tests.node.mutations_gateway import GATEWAY
from tests.node.mutations_house import HOUSE
from tests.node.mutations_local import LOCAL
from tests.node.mutations_masks import MASKS
from tests.node.mutations_parts import PARTS
from tests.node.mutations_relay import RELAY
from tests.node.mutations_shaping import SHAPING
from tests.node.mutations_swarm import SWARM
from tests.node.mutations_text import TEXT
from tests.node.mutations_waits import WAITS
from tests.node.mutations_weights import WEIGHTS

STAGE_HOST: Final = "dsdnode.node.shard.host:StageHost."
TERMS: Final = "dsdnode.node.shard.terms:"
SESSIONS: Final = "dsdnode.node.shard.sessions:Sessions."
ROOM: Final = "dsdnode.node.shard.room:Room."
ARRIVALS: Final = "dsdnode.speculation.stage.arrivals:"
DRAFTER_HOST: Final = "dsdnode.node.drafter.host:DrafterHost."
SEAL: Final = "dsdnode.speculation.seal:"
REPLY: Final = "dsdnode.node.drafter.reply:Reply."
CONVERSATIONS: Final = "dsdnode.node.drafter.conversations:Conversations."
BATCHER: Final = "dsdnode.node.batching.batcher:Batcher."
ASKINGS: Final = "dsdnode.client.asking:Askings."
PART: Final = "dsdnode.client.part:Part."
PENDING: Final = "dsdnode.client.request:PendingReply."

STAGE: Final = {
    "block-sender": Mutation(STAGE_HOST + "_block", " or peer != sender", ""),
    "closed-sender": Mutation(STAGE_HOST + "_closed", " and peer == session.peers[-1]", ""),
    "close-sender": Mutation(STAGE_HOST + "_end", " and owner == session.owner", ""),
    "shared-step": Mutation(SESSIONS + "lender", "shared // SHARED_STEP * SHARED_STEP", "shared"),
    "shared-running": Mutation(
        "dsdnode.speculation.stage.cache:BranchCache.lends", "if branch is running else common", "if False else common"
    ),
    "shared-recurrent": Mutation(SESSIONS + "lender", "self._engine.shard.is_recurrent", "False"),
    "shared-way": Mutation(SESSIONS + "lender", " if one.asked.way == session.asked.way", ""),
    "way-anew": Mutation(
        SESSIONS.replace("Sessions.", "StageSession.") + "comes_another_way", "self.asked.way != asked.way", "False"
    ),
    "drop-seen": Mutation("dsdnode.node.batching.batcher:Batcher.drop", "self._num_drops += 1", "pass"),
    "batcher-goes-on": Mutation(
        "dsdnode.node.batching.batcher:Batcher._serve", "except Exception:", "except EOFError:"
    ),
    "way-dropped": Mutation(STAGE_HOST + "_open", "self._batcher.drop(session.id)", "pass"),
    "shared-strict": Mutation(CONVERSATIONS + "_secret_for", "fresh if options.fixed_chunks else ", ""),
    "park-sender": Mutation(STAGE_HOST + "_keep", " or owner != session.owner", ""),
    "park-once": Mutation(STAGE_HOST + "_keep", "if session.parked:", "if False:"),
    "next-lost-sender": Mutation(STAGE_HOST + "_next_lost", " and peer == session.after", ""),
    "next-lost-culprit": Mutation(STAGE_HOST + "_next_lost", "replace(message, culprit=False)", "message"),
    "session-name": Mutation(SESSIONS + "refusal", " or not is_session_of(owner, message.session)", ""),
    "session-owner": Mutation(SESSIONS + "refusal", "known is not None and known.owner != owner", "False"),
    "open-owner": Mutation(SESSIONS + "refusal", "peer_id(message.owner.public_key) != owner or ", ""),
    "block-buffers": Mutation(TERMS + "BlockBuffers.of", "len(buffers) != (2 if first else 3)", "len(buffers) < 2"),
    "key-tokens": Mutation(TERMS + "Asked.of", "if len(keys) > ", "if len(keys) > 9999 + "),
    "stage-sessions": Mutation(ROOM + "make", "len(self._here) + len(self._coming) >= self._max_sessions", "False"),
    "stage-cells": Mutation(ROOM + "make", "self._num_held() + asker.num_positions > self._max_positions", "False"),
    "stage-turn": Mutation(
        SESSIONS + "refusal", "known is not None and not known.is_another_reply(asked)", "known is not None"
    ),
    "stage-terms": Mutation(SESSIONS + "refusal", "message.route <= known.opened.route", "False"),
    "route-terms": Mutation(SESSIONS + "refusal", " if changed else None", " if False else None"),
    "sequences-back": Mutation(SESSIONS + "remove", "        self._free.extend(session.sequences)\n", ""),
    "parked-goes": Mutation(STAGE_HOST + "_make_room", "                self._evict(session)", "                break"),
    "lease-most": Mutation(STAGE_HOST + "_open", "min(message.lease_s, self._max_lease_s)", "message.lease_s"),
    "parked-most": Mutation(STAGE_HOST + "_keep", "min(message.keep_s, MAX_PARKED_S)", "message.keep_s"),
    "owner-stranded": Mutation(
        "dsdnode.node.shard.owners:Owners._is_told", "if self._transport.is_stranded:", "if False:"
    ),
    "owner-gone": Mutation(STAGE_HOST + "_owner_gone", "            self._end(owner, session.id)", "            pass"),
}

KEPT: Final = {
    "block-positions": Mutation(ARRIVALS + "arrive", " <= max_positions - num_positions", ""),
    "block-drafts": Mutation(ARRIVALS + "arrive", "and block.num_draft <= MAX_DRAFT", ""),
    "block-digests": Mutation(ARRIVALS + "arrive", "and len(digests) == DIGEST_BYTES * (num_positions + 1)", ""),
    "block-tokens": Mutation(
        ARRIVALS + "arrive", "and len(tokens) == (num_positions if first else block.num_draft)", ""
    ),
    "waiting-blocks": Mutation(ARRIVALS + "WaitingBlocks.put", "len(self.items) >= self._max_blocks or ", ""),
    "waiting-positions": Mutation(ARRIVALS + "WaitingBlocks.put", " or positions > self._max_positions", ""),
    "waiting-all": Mutation(
        ARRIVALS + "WaitingBlocks.put", "not self._pool.has_room(self.account, arrival.size_bytes)", "False"
    ),
    "kept-blocks": Mutation(ARRIVALS + "KeptOutputs.put", "len(self._outputs) > self._max_blocks or ", ""),
    "kept-positions": Mutation(ARRIVALS + "KeptOutputs.put", " or self._num_positions > self._max_positions", ""),
    "closings-most": Mutation(
        "dsdnode.speculation.stage.cache:BranchCache.close", "len(self._closings) > self._max_closings", "False"
    ),
}

DRAFTER: Final = {
    "verdict-sender": Mutation(
        REPLY + "on_verdict", "(peer == judge or self._machine.is_sealed(verdict, judge))", "True"
    ),
    "verdict-judge": Mutation(REPLY + "on_verdict", "peer == judge or", "peer in self._route.peers or"),
    "verdict-seal": Mutation(SEAL + "fits", "compare_digest(verdict.seal, of(key, closed, digest))", "True"),
    "seal-digest": Mutation(SEAL + "of", "closed.session + digest + ", "closed.session + "),
    "seal-token": Mutation(SEAL + "of", "closed.token, ", ""),
    "seal-route": Mutation(SEAL + "key_for", 'route.to_bytes(4, "little") + judge', "judge"),
    "seal-judge": Mutation(SEAL + "key_for", " + judge", ""),
    "seal-key": Mutation(
        "dsdnode.node.drafter.routes:Routes._open_all", 'number, peer) if judges else b""', "number, places[-1].peer)"
    ),
    "seal-once": Mutation(
        "dsdnode.speculation.owner.session:SessionMachine.decided", "len(self._line) <= verdict", "verdict"
    ),
    "nack-sender": Mutation(REPLY + "on_nack", " and peer == self._route.peers[nack.index]", ""),
    "lost-sender": Mutation(
        REPLY + "on_session_lost",
        "if is_open and self._route and peer in self._route.peers:",
        "peer = self._route.peers[lost.index] if self._route else peer\n        if is_open and self._route:",
    ),
    "lost-route": Mutation(REPLY + "on_session_lost", " and lost.route == self._machine.route", ""),
    "cancel-sender": Mutation(
        DRAFTER_HOST + "_cancel_now",
        "self._deliveries.get((client, request))",
        "next((one for (_, name), one in self._deliveries.items() if name == request), None)",
    ),
    "reply-asker": Mutation(
        DRAFTER_HOST + "_generate",
        "(peer, message.request) in self._deliveries",
        "message.request in {name for _, name in self._deliveries}",
    ),
    "reply-taken": Mutation(
        DRAFTER_HOST + "_generate",
        "if not buffers:",
        "if not buffers or message.request in {name for _, name in self._deliveries}:",
    ),
    "conversation-client": Mutation(
        CONVERSATIONS + "_fitting", "(one.client, one.model_id) == (client, ", "(client, one.model_id) == (client, "
    ),
    "half-open": Mutation(
        "dsdnode.node.drafter.routes:Routes.open", "            self.close(conversation, empty)\n", ""
    ),
    "drafter-seats": Mutation(DRAFTER_HOST + "_giving", "len(here) < self._max_sessions", "True"),
    "drafter-cells": Mutation(CONVERSATIONS + "_is_full", " or num_positions > self._engine.shard.context_tokens", ""),
    "resting-time": Mutation(CONVERSATIONS + "leave", "call_later(PARKED_S, ", "call_later(9 * PARKED_S, "),
    "slots-back": Mutation(
        CONVERSATIONS + "_free_it", "            self._free.append(conversation.slot)", "            pass"
    ),
    "refused-forgotten": Mutation(
        DRAFTER_HOST + "_generate",
        "        except DsdError as error:\n            self._forget(delivery)\n",
        "        except DsdError as error:\n",
    ),
    "prompt-vocabulary": Mutation(DRAFTER_HOST + "_check_ids", "max(ids, default=0) >= model.vocab_size", "False"),
    "draft-vocabulary": Mutation("dsdnode.node.drafter.conversations:draft_tokens_of", "token < vocab_size and ", ""),
    "prompt-context": Mutation(DRAFTER_HOST + "_check", "len(prompt) >= model.context_tokens", "False"),
    "client-gone": Mutation(
        DRAFTER_HOST + "_peer_lost", "                delivery.client_lost()", "                pass"
    ),
    "client-silent": Mutation(
        "dsdnode.node.drafter.delivery:Delivery._watch", "                self._lost(error)", "                pass"
    ),
}

CULPRITS: Final = {
    "culprit-refused": Mutation(
        STAGE_HOST + "_open",
        "if self._batcher.culprits.is_refused(message.session, asyncio.get_running_loop().time()):",
        "if False:",
    ),
    "suspects-alone": Mutation(BATCHER + "_apart", "if self.culprits.is_marked(run.owner, now)", "if False"),
    "suspects-forgiven": Mutation(BATCHER + "_decoded", "self.culprits.passed(item.owner, item.end)", "pass"),
    "reply-killed": Mutation(REPLY + "_may_go_on", "self._num_killed < MAX_KILLED", "True"),
    "killed-early": Mutation(REPLY + "on_session_lost", "self.phase is Phase.RUNNING and ", ""),
    "reply-forgiven": Mutation(REPLY + "_act", "self._num_fruitless = self._num_killed = 0", "self._num_fruitless = 0"),
    "draft-killed": Mutation(
        "dsdnode.node.drafter.conversations:DraftSequences.available",
        " and not self._batcher.culprits.is_refused(self._session, now)",
        "",
    ),
    "request-killed": Mutation(PENDING + "killed", "len(self.died) >= wire.MAX_KILLED", "False"),
    "request-one": Mutation(PENDING + "killed", "self.died.add(drafter)", "self.died.add(bytes([len(self.died)]))"),
    "death-named": Mutation("dsdnode.engine.link:WorkerLink._reap", "number == self._died_of", "False"),
    "quarantine-cause": Mutation(
        "dsdnode.engine.deaths:_causes", "if all(owners.isdisjoint(known) for known in causes):", "if True:"
    ),
    "quarantine-ends": Mutation(
        "dsdnode.engine.client:WorkerEngine._try_again", "if not self._ended:", "if not self._ended and not self._over:"
    ),
    "respawn-trouble": Mutation(
        "dsdnode.engine.client:WorkerEngine._respawn", "except Exception as error:", "except DsdError as error:"
    ),
    "outputs-finite": Mutation("dsdnode.engine.llama:LlamaEngine._check_finite", "if spoiled.any():", "if False:"),
    "cells-cleared": Mutation(
        "dsdnode.engine.llama:LlamaEngine.clear", "clear(self._memory, True)", "clear(self._memory, False)"
    ),
    "prompts-looked-at": Mutation(
        "dsdnode.engine.llama:LlamaEngine._wanted", "(asked | (offsets == -1)).astype", "asked.astype"
    ),
    "states-carried": Mutation("dsdnode.engine.llama:LlamaEngine._check_size", "largest >= self._max_state", "False"),
    "states-something": Mutation("dsdnode.engine.llama:LlamaEngine._check_size", "least < self._min_state", "False"),
    "nothing-drawn": Mutation(
        "dsdnode.speculation.sampling:_clean",
        'raise ArithmeticError("no logit is finite: there is nothing to draw from")',
        "logits = np.zeros_like(logits)",
    ),
    "route-whole": Mutation(SESSIONS + "refusal", "not _make_a_model(stages, shard.num_layers)", "False"),
    "run-answered": Mutation(
        STAGE_HOST + "_run", 'return self._fail(session, "what is to be run cannot be made")', "return"
    ),
}

BATCHING: Final = {
    "earlier-life": Mutation(BATCHER + "_decode", "life != self._life and not isinstance(result, DsdError)", "False"),
    "earlier-asked": Mutation(BATCHER + "_decode", "pair[0].life == self._life", "True"),
    "waiting-most": Mutation(BATCHER + "run", "len(self._waiting) >= MAX_WAITING", "False"),
}

ASKING: Final = {
    "piece-sender": Mutation("dsdnode.client.asking:Inbox.put", "if peer != self.drafter:", "if False:"),
    "inbox-most": Mutation("dsdnode.client.asking:Inbox", "asyncio.Queue(MAX_QUEUED_NOTICES)", "asyncio.Queue()"),
    "ping-beside": Mutation(
        ASKINGS + "_answered", "answer, _ = await asyncio.gather(asked, self._pings.ping(drafter))",
        "answer, _ = await asked",
    ),
    "piece-gap": Mutation(PART + "_piece", "piece.index != self._num_here", "False"),
    "piece-text": Mutation(PART + "_piece", "num_bytes > MAX_TOKEN_BYTES * (num_tokens + 1)", "False"),
    "piece-last": Mutation(PART + "_piece", "self._had_rest or ", ""),
    "piece-most": Mutation(PART + "_piece", "num_tokens > self.body.max_tokens", "False"),
    "end-of-stream": Mutation(
        PART + "read", "told.completion_tokens != self._num_here - len(self.body.tokens)", "False"
    ),
    "rule-kept": Mutation(PENDING + "checked", "self.acceptance not in (None, answer.acceptance)", "False"),
    "error-shown": Mutation("dsdnode.client.losses:said", "printable(notice.message)", "notice.message"),
    "words-often": Mutation(PENDING + "hear", " and _now() >= self._told_s + WORDS_EVERY_S", ""),
    "reason-shown": Mutation(PART + "read", "printable(notice.reason)", "notice.reason"),
    "leaving-said": Mutation(ASKINGS + "leave", "self._cancel(asking.drafter, asking.request)", "pass"),
}  # fmt: skip

GROUPS: Final = (
    STAGE,
    KEPT,
    DRAFTER,
    CULPRITS,
    BATCHING,
    ASKING,
    SWARM,
    FILES,
    WAITS,
    LOCAL,
    TEXT,
    ACCOUNTS,
    HOUSE,
    RELAY,
    PARTS,
    CHOICE,
    WEIGHTS,
    GATEWAY,
    SHAPING,
    MASKS,
)
MUTATIONS: Final[dict[str, Mutation]] = {name: one for group in GROUPS for name, one in group.items()}
