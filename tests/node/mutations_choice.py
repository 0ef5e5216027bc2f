"""Guards of whom a user has to do with (--allow, --block)."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

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
    "allow-nobody": Mutation("dsdnode.cli.peer_lists:read_peers", "said and not found and not may_be_empty", "False"),
    "paused-new": Mutation("dsdnode.node.shard.sessions:Sessions.refusal", "if self._admission.resting:", "if False:"),
}  # fmt: skip
