"""Guards of whom a user has to do with (--allow, --block)."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

ADMISSION = "dsdnode.node.admission:Admission."
CHOICE: Final = {
    "blocked-stage": Mutation(
        "dsdnode.node.shard.sessions:Sessions.refusal", "if not self._admission.serves(owner):", "if False:"
    ),
    "blocked-drafter": Mutation(
        "dsdnode.node.admission:Admission.refusal", "if not self.serves(peer):", "if False:"
    ),
    "blocked-reading": Mutation(
        "dsdnode.node.drafter.host:DrafterHost._read_text", "self._admission.refusal(peer)", "None"
    ),
    "blocked-text": Mutation("dsdnode.node.shard.texts:TextGiver._find", "if not self._serves(peer):", "if False:"),
    "blocked-route": Mutation(
        "dsdnode.node.drafter.routes:Hosts._look_up", " if self._admission.trusts(record.peer_id)", ""
    ),
    "blocked-asked": Mutation(
        "dsdnode.client.drafters:Drafters._order", " if self.choice.takes(one.peer_id)", ""
    ),
    "boasters-network": Mutation(
        "dsdnode.client.preference:by_preference", "measured_s.setdefault(network_of(one), [])",
        'measured_s.setdefault("", [])',
    ),
    "boasters-slowness": Mutation("dsdnode.client.preference:by_preference", "min(MAX_CLASS, ", "max(0, "),
    "doubted-models": Mutation(
        "dsdnode.client.drafters:Drafters._order", "for record in drafters}",
        "for record in drafters if record.tokenizer_hash == tokenizer}",
    ),
    "made-up-drafters": Mutation(
        "dsdnode.client.drafters:Drafters._put_off",
        "is_dark and not self._rpc.transport.sighting(peer).reached", "False",
    ),
    "made-up-alone": Mutation("dsdnode.client.drafters:Drafters.next", "pending.patience.is_over(_now())", "False"),
    "denied-giving": Mutation("dsdnode.client.client:Client._ask_all", "others=True", "others=bool(pending.others)"),
    "no-token": Mutation("dsdnode.client.request:PendingReply.begin", "=self.model.vocab_size", "=1 << 24"),
    "own-network": Mutation("dsdnode.client.client:Client._records", "found or len(self._discovery.table)", "True"),
    "held-back": Mutation("dsdnode.client.asking:Askings.follow", "news is asking.part.rest", "False"),
    "denied-reading": Mutation(
        "dsdnode.client.client:Client._failed", "if beside and not patience.is_over(now)", "if False"
    ),
    "reading-busy": Mutation("dsdnode.client.reading:read_text", "pending.patience.is_spent(", "False and now("),
    "unread-bytes": Mutation("dsdnode.client.asking:Inbox.put", " and num_bytes <= MAX_QUEUED_BYTES", ""),
    "allowed-model": Mutation(
        "dsdnode.client.drafters:Drafters.allowed", ' if one.role != "drafter" or self.choice.takes(one.peer_id)', ""
    ),
    "allow-nobody": Mutation("dsdnode.cli.peer_lists:read_peers", "not found and not may_be_empty", "False"),
    "paused-new": Mutation("dsdnode.node.shard.sessions:Sessions.refusal", "self._admission.rests_for(owner)", "False"),
    "paused-own": Mutation(ADMISSION + "rests_for", "and not (", "and not (False and "),
    "paused-own-user": Mutation(ADMISSION + "rests_for_others", " and USER not in self._reasons", ""),
    "paused-found": Mutation("dsdnode.swarm.discovery:Discovery._on_find_providers", "self._is_own(peer)", "True"),
    "paused-far": Mutation("dsdnode.swarm.discovery:Discovery.find_providers", "self.home is None", "True"),
    "paused-home": Mutation("dsdnode.client.client:Client.connect", "contacts[0] if identity is not None else", ""),
}  # fmt: skip
