"""Guards of waits: that each has an end, and a word."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

REPLY: Final = "dsdnode.node.drafter.reply:Reply."
WAITS: Final = {
    "trace-owner": Mutation("dsdnode.node.shard.host:StageHost._trace", "peer != session.owner", "False"),
    "trace-refused": Mutation(
        "dsdnode.node.drafter.routes:Routes.trace",
        "None if one is None else one.reached",
        "2 if one is None else one.reached",
    ),
    "hosts-asked": Mutation("dsdnode.node.drafter.attempt:some_of", "[:MAX_ASKED]", ""),
    "hosts-network": Mutation("dsdnode.node.drafter.attempt:some_of", "in_turn(order, _account)", "order"),
    "lost-link": Mutation(REPLY + "_look_for_losses", "self._routes.suspect(route, loss)", "pass"),
    "lost-left": Mutation(REPLY + "_look_for_losses", "else asked_before or loss.trouble", "else False"),
    "lost-computing": Mutation(REPLY + "_look_for_losses", "if loss.computing", "if False"),
    "lost-again": Mutation(REPLY + "_blame", "self._num_forgotten > 1 or ", ""),
    "lost-nack": Mutation(REPLY + "_blame", 'action.reason in ("nack", "timeout")', "False"),
    "lost-often": Mutation("dsdnode.pacing.suspects:Suspects.note", "1 + self.links", "1 + 0 * self.links"),
    "pair-twice": Mutation("dsdnode.pacing.suspects:Suspects.peers", " or len(known) > 1", ""),
    "still-ends": Mutation(REPLY + "_watch", "self.still_s > self._options.patience_s", "False and 0 > 0"),
    "silent-host-ends": Mutation(
        "dsdnode.node.drafter.attempt:Attempt.check", "        if late:\n", "        if False:\n"
    ),
    "silent-host-waits": Mutation(
        "dsdnode.node.drafter.attempt:Attempt.check", "choose_pipeline(known,", "choose_pipeline(alive,"
    ),
    "drafter-leaves": Mutation("dsdnode.client.patience:Patience.leaves", "now >= self._leaves_s", "False"),
    "drafter-drips": Mutation(
        "dsdnode.client.patience:Patience.stepped",
        "self._leaves_s + TOKEN_PATIENCE_S * num_tokens",
        "now + self._share_s",
    ),
    "drafter-remembered": Mutation("dsdnode.client.client:Client._is_shunned", "peer in self._left or ", ""),
    "reply-over": Mutation("dsdnode.client.patience:Patience.is_over", "now >= self._ends_s", "False"),
    "prompt-claimed": Mutation(
        "dsdnode.client.request:PendingReply.accepted",
        "min(len(self.prompt_tokens), self._most_positions)",
        "len(self.prompt_tokens)",
    ),
    "prompt-once": Mutation(
        "dsdnode.client.patience:Patience.accepted", "max(0.0, reading_s - self._reading_s)", "reading_s"
    ),
    "prompt-named": Mutation("dsdnode.client.request:PendingReply.accepted", "named and prompt != named", "False"),
    "prompt-own": Mutation("dsdnode.client.request:PendingReply._body", "not self.tokens", "not self.prompt_tokens"),
}
