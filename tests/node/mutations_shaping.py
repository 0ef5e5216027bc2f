"""Guards of replies whose draws count tokens, and tell log-probabilities, taken out."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

KNOWN: Final = "dsdnode.speculation.stage.known:KnownLine."
CACHE: Final = "dsdnode.speculation.stage.cache:BranchCache."
TERMS: Final = "dsdnode.node.shard.terms:"

SHAPING: Final = {
    "shaped-fallen": Mutation(CACHE + "_create", "source.tail[: max(0, block.base - self.num_told)]", "[*source.tail]"),
    "shaped-drafts": Mutation(KNOWN + "past", "self.num_prompt - first, then)", "self.num_prompt - first)"),
    "shaped-prompt": Mutation(KNOWN + "past", "told = self.told[", "told = self.told[:0]["),
    "shaped-own": Mutation(KNOWN + "past", "self.num_prompt - first, then", "0, then"),
    "shaped-resumed": Mutation(
        "dsdnode.node.drafter.telling:ToldLine.of", "tuple(line[first:])", "tuple(line[first:num_prompt])"
    ),
    "shaped-known": Mutation(CACHE + "_knows", "self.num_told is None or ", "True or "),
    "shaped-note": Mutation(KNOWN + "behind", "len(given) != wanted or ", ""),
    "note-most": Mutation(TERMS + "_note", "len(data) > MAX_NOTE_BYTES", "False"),
    "told-most": Mutation(TERMS + "Asked.of", "len(told) // 4 <= body.num_line <=", "body.num_line <="),
    "shaping-stage": Mutation(
        "dsdnode.node.drafter.routes:Routes._open_all", "not self._rpc.transport.can(peer, SHAPING)", "False"
    ),
    "shaping-drafter": Mutation("dsdnode.client.part:Part.needs", "SHAPING: body.is_shaped", "SHAPING: False"),
    "shaping-terms": Mutation(TERMS + "Asked.terms", ", body.shaping, body.num_logprobs", ""),
    "logprobs-lacking": Mutation(
        "dsdnode.speculation.owner.session:SessionMachine._told", "== tokens else None", "== tokens else told"
    ),
    "logprobs-other": Mutation(
        "dsdnode.speculation.owner.session:SessionMachine._told",
        "tuple(one.token for one in told) == tokens",
        "len(told) == len(tokens)",
    ),
    "logprobs-range": Mutation("dsdnode.wire.logprobs:unpack_logprobs", " <= MOST_LOGPROB for", " for"),
    "logprobs-judge": Mutation("dsdnode.node.drafter.reply:Reply.on_verdict", " if peer == judge else ()", ""),
    "logprobs-vocabulary": Mutation("dsdnode.wire.logprobs:unpack_logprobs", " and max(ids) < vocab_size", ""),
    "logprobs-tokens": Mutation(
        "dsdnode.client.part:Part._logprobs", "tuple(one.said.token for one in told) != given", "False"
    ),
    "logprobs-exact": Mutation(
        "dsdnode.node.drafter.options:Options._rule", "return WireAcceptance()\n", "return self.acceptance\n"
    ),
}  # fmt: skip
