"""Guards of shares: that one who asks for everything leaves the others theirs."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

SHARES: Final = "dsdnode.accounts:Shares."
FAIR: Final = "totals[level(asker)] <= share"
ROOM: Final = "dsdnode.node.shard.room:Room."
MACHINE: Final = "dsdnode.speculation.stage.machine:StageMachine."
STAGE_HOST: Final = "dsdnode.node.shard.host:StageHost."
DRAFTER_HOST: Final = "dsdnode.node.drafter.host:DrafterHost."
ACCOUNTS: Final = {
    "share-network": Mutation(SHARES + "over", FAIR, f"depth > 0 and {FAIR}"),
    "share-address": Mutation(SHARES + "over", FAIR, f"depth != 1 and {FAIR}"),
    "share-asker": Mutation(SHARES + "over", FAIR, "True"),
    "share-owner": Mutation(SHARES + "over", FAIR, f"depth < 2 and {FAIR}"),
    "room-coming": Mutation(ROOM + "make", "len(self._here) + len(self._coming) >=", "len(self._here) >="),
    "room-cut": Mutation(ROOM + "make", "if cuts:", "if False:"),
    "room-own": Mutation(ROOM + "make", "gives = gives or self._own(asker)", "pass"),
    "room-idle": Mutation(ROOM + "_gives", "one.worked_s + IDLE_S < self._now", "False"),
    "room-turn": Mutation(ROOM + "_gives", "one.since_s + TURN_S < self._now", "False"),
    "turn-networks": Mutation(SHARES + "beside", " or totals[account.network] >= mine", ""),
    "turn-spent": Mutation(
        "dsdnode.accounts:Turns.may_take", "self._lost_s.get(asker.network, -inf) + SPENT_S < now", "True"
    ),
    "turn-asked": Mutation(ROOM + "_gives", "shares if asked is None else", "shares if True else"),
    "turn-back": Mutation("dsdnode.accounts:Turns.since_s", "if is_back else", "if False else"),
    "turn-least": Mutation(SHARES + "beside", "totals[account.network] >= mine", "True"),
    "parked-heaviest": Mutation(ROOM + "_gives", "session.parked and session.account == account", "session.parked"),
    "share-lost": Mutation(STAGE_HOST + "_evict", "not session.parked and ", "False and "),
    "cells-grown": Mutation(STAGE_HOST + "_run", "self._sessions.overflow(now, session)", "()"),
    "open-digests": Mutation("dsdnode.node.shard.terms:Asked.of", "[: DIGEST_BYTES * (message.max_positions + 1)]", ""),
    "cells-branches": Mutation(
        MACHINE + "_append",
        "        actions += self._cache.shrink(self._max_positions + self._max_spare_positions, branch)\n",
        "",
    ),
    "lease-work": Mutation(MACHINE + "on_open", "if self._renews:", "if True:"),
    "waiting-share": Mutation(
        "dsdnode.speculation.stage.arrivals:Pool.has_room", "shares.over(asker, size_bytes)", "()"
    ),
    "turn-share": Mutation(
        "dsdnode.node.batching.scheduler:Scheduler._in_turn",
        "in_turn(sorted(ready, key=waits), lambda run: self._turns[run.owner].account)",
        "sorted(ready, key=lambda run: self._turns[run.owner].served)",
    ),
    "turn-address": Mutation(
        "dsdnode.node.batching.scheduler:Scheduler._in_turn", "served[account.place], served", "served"
    ),
    "turn-pause": Mutation(
        "dsdnode.node.batching.scheduler:Scheduler._without_those_that_rest",
        "if rests or lets_go_first:",
        "if False:",
    ),
    "turn-question": Mutation("dsdnode.node.batching.scheduler:Run.is_long", "SHARED_POSITIONS", "PIECE_POSITIONS"),
    "cells-modest": Mutation(
        "dsdnode.node.shard.sessions:Sessions.room_for", "if not used.is_modest(", "if False and used.is_modest("
    ),
    "drafter-share": Mutation(DRAFTER_HOST + "_giving", "if over := shares.over(asker, 1):", "if over := ():"),
    "drafter-turn": Mutation(DRAFTER_HOST + "_giving", "longest.since_s + TURN_S >= now", "True"),
    "drafter-texts": Mutation(
        DRAFTER_HOST + "_read", "self._prompting.setdefault(account.network, asyncio.Lock())", "asyncio.Lock()"
    ),
    "drafter-unread": Mutation(DRAFTER_HOST + "_check_length", "if num_bytes > most:", "if False:"),
    "drafter-modest": Mutation(
        DRAFTER_HOST + "_check_share", "if not shares.is_modest(", "if False and shares.is_modest("
    ),
    "resting-share": Mutation(
        "dsdnode.node.drafter.conversations:Conversations._next_to_go", " if one.account == heaviest", ""
    ),
    "served-share": Mutation("dsdnode.net.rpc:Rpc._has_place", "shares.over(asker, 1)[:1]", "()"),
    "inbox-share": Mutation("dsdnode.net.queues:Inbox._make_room", "shares.over(asker, size_bytes)", "()"),
    "inbox-turn": Mutation("dsdnode.net.queues:Inbox.get", "self._networks.move_to_end(network)\n", "pass\n"),
    "inbox-address": Mutation("dsdnode.net.queues:Inbox.get", "addresses.move_to_end(address)\n", "pass\n"),
    "memory-culprit": Mutation("dsdnode.net.zmq:ZmqTransport._drop_fillers", "self._router.drop_fillers()", "None"),
    "memory-network": Mutation(
        "dsdnode.net.zap:Gate.is_locked", "self._locked_networks.get(network_of(address), 0.0)", "0.0"
    ),
}
