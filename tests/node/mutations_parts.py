"""Guards of who takes a part by himself: of what strangers say of models, layers and sources. guards.txt explains."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

TARGETS: Final = "dsdnode.node.targets:"
HOLES: Final = "dsdnode.placement.moving:Holes."

PARTS: Final = {
    "part-silent": Mutation("dsdnode.node.proposal:Found.of", " if one.peer_id in rtt_s", ""),
    "part-lacking": Mutation(
        TARGETS + "target_of", "key=lambda one: one.rank(answering, ())", "key=lambda one: one.complete"
    ),
    "source-hash": Mutation(TARGETS + "_elsewhere", "pull.remote.weights_hash == weights_hash and ", ""),
    "source-model": Mutation(TARGETS + "_elsewhere", " and found.manifest.model_id == model_id", ""),
    "source-most": Mutation(TARGETS + "_elsewhere", "told.most_common(MAX_SOURCES)", "told.most_common()"),
    "moving-new": Mutation(HOLES + "look", "if holes != self._seen:", "if not self._seen:"),
    "moving-late": Mutation(HOLES + "look", "PATIENCE_S + turn * TURN_S", "0"),
    "moving-turn": Mutation(HOLES + "look", "turn * TURN_S", "0"),
}  # fmt: skip
