"""Guards of waits: that each has an end, and a word."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

REPLY: Final = "dsdnode.node.drafter.reply:Reply."
CLIENT: Final = "dsdnode.client.client:Client."
PART: Final = "dsdnode.client.part:Part."
PENDING: Final = "dsdnode.client.request:PendingReply."
ASKINGS: Final = "dsdnode.client.asking:Askings."
DRAFTERS: Final = "dsdnode.client.drafters:Drafters."
RIVALS: Final = "dsdnode.client.rivals:Rivals."
ROUTES: Final = "dsdnode.node.drafter.routes:Routes."
WAITS: Final = {
    "trace-owner": Mutation("dsdnode.node.shard.host:StageHost._trace", "peer != session.owner", "False"),
    "trace-refused": Mutation(
        "dsdnode.node.drafter.routes:Routes.trace",
        "None if one is None else one.reached",
        "2 if one is None else one.reached",
    ),
    "hosts-asked": Mutation("dsdnode.node.drafter.attempt:some_of", "[:MAX_ASKED]", ""),
    "hosts-network": Mutation("dsdnode.node.drafter.attempt:some_of", "in_turn(order, _account)", "order"),
    "hosts-named": Mutation("dsdnode.node.drafter.routes:Hosts._look_up", "if known:", "if True:"),
    "lost-link": Mutation(REPLY + "_look_for_losses", "self._routes.suspect(route, loss)", "pass"),
    "lost-left": Mutation(REPLY + "_look_for_losses", "else asked_before or loss.trouble", "else False"),
    "lost-computing": Mutation(REPLY + "_look_for_losses", "if loss.computing", "if False"),
    "lost-again": Mutation(REPLY + "_blame", "self._num_forgotten > 1 or ", ""),
    "lost-nack": Mutation(REPLY + "_blame", 'action.reason in ("nack", "timeout")', "False"),
    "lost-judged": Mutation(
        "dsdnode.speculation.owner.session:SessionMachine.on_nack", "nack.length < self._num_judged", "False"
    ),
    "judge-repeats": Mutation(
        "dsdnode.speculation.owner.session:SessionMachine.on_verdict", "len(left) == len(epoch.flights)", "False"
    ),
    "lost-often": Mutation("dsdnode.pacing.suspects:Suspects.note", "1 + self.links", "1 + 0 * self.links"),
    "pair-twice": Mutation("dsdnode.pacing.suspects:Suspects.peers", " or len(known) > 1", ""),
    "new-seldom": Mutation(ROUTES + "open", "number == 0 and self._trials.is_due(_now())", "number == 0"),
    "new-brief": Mutation(REPLY + "_try_out", "await asyncio.sleep(trial_s)", "await asyncio.sleep(60 + trial_s)"),
    "avoided-last": Mutation(
        ROUTES + "open", "if not fresh and any(place.peer in avoid for place in places):", "if False:"
    ),
    "still-ends": Mutation(REPLY + "_watch", "self.still_s > self._options.patience_s", "False and 0 > 0"),
    "silent-host-ends": Mutation(
        "dsdnode.node.drafter.attempt:Attempt.check", "        if late:\n", "        if False:\n"
    ),
    "silent-host-waits": Mutation(
        "dsdnode.node.drafter.attempt:Attempt.check", "choose_pipeline(known,", "choose_pipeline(alive,"
    ),
    "drafter-leaves": Mutation("dsdnode.client.patience:Patience.leaves", "now >= self._leaves_s", "False"),
    "drafter-drips": Mutation(RIVALS + "_watch", "given < least and", "False and"),
    "rival-ended": Mutation(RIVALS + "_watch", "if giver.inbox.has_end:", "if False:"),
    "rival-lead": Mutation(RIVALS + "_settle", "ahead >= lead or", "ahead > 0 or"),
    "rival-known": Mutation(ASKINGS + "_start", "part.grow(tuple(pending.tokens), pending.text)", "pass"),
    "rival-last": Mutation(ASKINGS + "follow", "if asking.is_beaten:", "if False:"),
    "rival-killed": Mutation(RIVALS + "_lost", "isinstance(error, Died)", "False"),
    "rival-others": Mutation(RIVALS + "_watch", "await self._others(giver)", "[]"),
    "rival-again": Mutation(RIVALS + "_others", "if not others:", "if False:"),
    "rival-better": Mutation(RIVALS + "_watch", "list(filter(self._failures.may_be_better, others))", "others"),
    "rival-quits": Mutation("dsdnode.client.failures:Failures.note", "num_given < MIN_TOKENS:", "False:"),
    "rival-reading": Mutation("dsdnode.client.rivals:_end_s", "first_s is None", "True"),
    "paces-kept": Mutation("dsdnode.client.pace:Paces.__init__", "LRUCache(MAX_PACES)", "LRUCache(1 << 30)"),
    "paces-usual": Mutation("dsdnode.client.pace:Paces.least", "max(others) / SLOWER if others else SLOW", "SLOW"),
    "paces-stalled": Mutation(RIVALS + "_lost", "own > 0 and own * SLOWER >= given", "True"),
    "paces-slow": Mutation(DRAFTERS + "gave", "tokens_per_s < self.paces.least(model_id, drafter)", "False"),
    "paces-ended": Mutation(CLIENT + "_ask_all", "self._over(pending, failures, asking)", "pass"),
    "drafter-better": Mutation(
        "dsdnode.client.failures:Failures.may_be_better", "known is None or not isinstance", "True or isinstance"
    ),
    "drafter-gave": Mutation(
        "dsdnode.client.failures:Failures.note", "isinstance(error, Left) and not num_given", "isinstance(error, Left)"
    ),
    "drafter-few": Mutation("dsdnode.client.failures:Failures.note", "num_given >= MIN_TOKENS if is_again else", ""),
    "beside-later": Mutation(CLIENT + "_won", "[*pending.others, *later, *full]", "[*pending.others, *full]"),
    "beside-back": Mutation(CLIENT + "_won", "failures.was_left(winner.drafter)", "False"),
    "beside-full": Mutation(CLIENT + "_won", "failures.full if is_back else []", "[]"),
    "beside-again": Mutation(CLIENT + "_started", "if running and failures[asking.drafter].again:", "if False:"),
    "drafter-remembered": Mutation(DRAFTERS + "_shunned", "if peer in self._left", "if False"),
    "drafter-last": Mutation(DRAFTERS + "_shunned", "1 + self._left[peer]", "1"),
    "drafter-beside": Mutation(
        CLIENT + "_started", "self._aside_s(pending, running) if pending.others else inf", "inf"
    ),
    "beside-gone": Mutation(CLIENT + "_aside_s", "if last.is_silent:", "if False:"),
    "beside-network": Mutation(DRAFTERS + "beside", "self._networks.get(peer) in networks", "False"),
    "late-voices": Mutation("dsdnode.client.usual:UsualPass.of", "network_of(shard)", "str(len(by_network))"),
    "beside-most": Mutation(CLIENT + "_go_aside", "len(running) >= MAX_ASIDE", "False"),
    "beside-reading": Mutation(CLIENT + "_started", " and _now() >= self._aside_s(pending, running)", ""),
    "beside-claimed": Mutation(PENDING + "checked", "min(len(prompt), usual)", "min(len(prompt), most)"),
    "beside-prompt": Mutation(
        ASKINGS + "_start",
        "part.taken = pending.checked(part, answer, buffers)",
        "part.taken = pending.checked(part, answer, buffers); pending.take(part.taken)",
    ),
    "drafters-raced": Mutation(DRAFTERS + "next", "await self._pings.race(racers)", "fresh"),
    "drafters-away": Mutation(DRAFTERS + "next", "            if away:", "            if False:"),
    "drafters-end": Mutation(DRAFTERS + "_check", " or pending.patience.is_spent(_now())", ""),
    "drafter-starting": Mutation(
        "dsdnode.node.node:Node.run", "on_request(Generate, starting)", "on_request(Open, starting)"
    ),
    "joins-all": Mutation(CLIENT + "_choose_model", "await self._discovery.joined_all(JOIN_TIMEOUT_S)", "pass"),
    "one-says-no": Mutation(CLIENT + "_failed", "not others or patience.is_spent(now) or len(", "True or len("),
    "two-say-no": Mutation(
        "dsdnode.client.drafters:no_drafter", "(denied := failures.denied) is not None", "denied := None"
    ),
    "reply-over": Mutation("dsdnode.client.patience:Patience.is_over", "now >= self._ends_s", "False"),
    "prompt-claimed": Mutation(PENDING + "checked", "min(len(prompt), most)", "len(prompt)"),
    "prompt-once": Mutation(
        "dsdnode.client.patience:Patience.accepted", "max(0.0, reading_s - self._reading_s)", "reading_s"
    ),
    "prompt-named": Mutation(PENDING + "checked", "named and prompt != named", "False"),
    "prompt-own": Mutation(PENDING + "_body", "way is Way.NAMED", "way is Way.NAMED or bool(self.tokens)"),
    "prompt-other": Mutation(PENDING + "checked", "goes_on and ", "False and "),
    "prompt-over": Mutation(PART + "_piece", "given[: len(known)] != known", "False"),
    "prompt-text": Mutation(PART + "_news", "again[:most] != self.text[:most]", "False"),
    "prompt-end": Mutation(PART + "read", "self._num_here < len(self.tokens)", "False"),
    "rival-fruitless": Mutation(CLIENT + "generate", "self._fruitless[model.model_id] = None", "pass"),
    "rival-words": Mutation(
        CLIENT + "generate", "except DsdError as error", "except (NoPipeline, ModelRefused) as error"
    ),
    "rival-mistake": Mutation(CLIENT + "generate", "bool(failures) or not isinstance(error, BadInput)", "True"),
    "rival-tokens": Mutation(CLIENT + "_choose_model", "max(request.prompt_tokens or (0,)) < model.vocab_size", "True"),
    "denied-once": Mutation("dsdnode.client.losses:said", "if isinstance(error, LOSSES) else Denied(error)", ""),
    "denied-remembered": Mutation(CLIENT + "_over", "self._drafters.left(*failures.deniers)", "pass"),
    "contradicted": Mutation(CLIENT + "_failed", "self._drafters.left(*failures.givers)", "pass"),
    "contradicted-by-two": Mutation("dsdnode.client.preference:Doubts.is_caught", ">= ENOUGH", "> ENOUGH"),
    "contradicted-by-one": Mutation("dsdnode.client.preference:Doubts.is_caught", ">= ENOUGH", ">= 1"),
    "doubted-silent": Mutation(CLIENT + "_failed", "Left | Died | NoPipeline", "Left | Died"),
    "doubted-near": Mutation("dsdnode.client.drafters:Drafters.next", "self._before_doubts(fresh)", "fresh"),
    "doubted-quick": Mutation(CLIENT + "_aside_s", "trusted or self._drafters.are_doubted(pending)", "trusted"),
    "answer-lost": Mutation("dsdnode.net.links:Links._ended", "if peer.answers_by(link):", "if False:"),
}
