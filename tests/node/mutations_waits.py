"""Guards of waits: that each has an end, and a word."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

REPLY: Final = "dsdnode.node.drafter.reply:Reply."
WAITS: Final = {
    "trace-owner": Mutation("dsdnode.node.shard.host:StageHost._trace", "peer != session.owner", "False"),
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
        "min(len(prompt), self._most_positions)",
        "len(prompt)",
    ),
    "prompt-once": Mutation(
        "dsdnode.client.patience:Patience.accepted", "max(0.0, reading_s - self._reading_s)", "reading_s"
    ),
    "prompt-named": Mutation("dsdnode.client.request:PendingReply.accepted", "named and prompt != named", "False"),
    "prompt-own": Mutation(
        "dsdnode.client.request:PendingReply._body", "self.way is Way.NAMED", "self.way is Way.NAMED or self.tokens"
    ),
    "prompt-other": Mutation("dsdnode.client.request:PendingReply.accepted", "not begins and ", "False and "),
    "prompt-over": Mutation(
        "dsdnode.client.request:PendingReply._piece", "list(given[: len(known)]) != known", "False"
    ),
    "prompt-text": Mutation("dsdnode.client.request:PendingReply._news", "again[:most] != self.shown[:most]", "False"),
    "prompt-end": Mutation("dsdnode.client.request:PendingReply.event", "self._num_here < len(self.tokens)", "False"),
    "rival-fruitless": Mutation(
        "dsdnode.client.client:Client.generate", "self._fruitless[model.model_id] = None", "pass"
    ),
    "rival-tokens": Mutation(
        "dsdnode.client.client:Client._choose_model", "max(request.prompt_tokens or (0,)) < model.vocab_size", "True"
    ),
    "denied-once": Mutation("dsdnode.client.request:_error", "if isinstance(error, LOSSES) else Denied(error)", ""),
    "denied-remembered": Mutation(
        "dsdnode.client.client:Client._ask_all",
        "                self._left.update(dict.fromkeys(failures.deniers))\n",
        "",
    ),
    "contradicted": Mutation(
        "dsdnode.client.client:Client._ask_all", "self._left.update(dict.fromkeys(givers))", "pass"
    ),
}
