"""Guards of constrained replies, taken out: what is drawn under masks, and who says under which."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

CONSTRAINED: Final = "dsdnode.node.drafter.constrained:Constrained."
PURE: Final = "dsdnode.speculation.masks:"
MACHINE: Final = "dsdnode.speculation.stage.machine:StageMachine."

MASKS: Final = {
    "masks-drawn": Mutation("dsdnode.engine.draws:Draws.take", "len(self._chosen) < len(self.chunk.masks)", "False"),
    "masks-place": Mutation(
        CONSTRAINED + "_send", "self._name(place) for place in places", "self._name(places[-1]) for place in places"
    ),
    "masks-resumed": Mutation(
        CONSTRAINED + "of",
        "conversation.tokens[:num_prompt], conversation.tokens[num_prompt:]",
        "conversation.tokens, ()",
    ),
    "masks-verdict": Mutation(
        "dsdnode.node.drafter.reply:Reply.on_verdict", "if self._constrained and ", "if False and "
    ),
    "masks-sender": Mutation("dsdnode.node.shard.host:StageHost._masks", " and peer == session.owner", ""),
    "masks-wait": Mutation(MACHINE + "_fate", "self._judge.masks(arrival) is None", "False"),
    "masks-judge": Mutation(
        "dsdnode.node.drafter.routes:Routes._open_all", "not self._rpc.transport.can(peer, MASKS)", "False"
    ),
    "masks-drafter": Mutation("dsdnode.client.part:Part.needs", "MASKS: body.constraint is not None", "MASKS: False"),
    "calls-drafter": Mutation(
        "dsdnode.client.part:Part.needs",
        'calls = body.constraint is not None and body.constraint.kind == "calls"',
        "calls = False",
    ),
    "masks-name": Mutation(PURE + "Masks.put", " or hash_of(mask) != name", ""),
    "masks-nothing": Mutation(PURE + "Masks.put", "not self._allows_any(mask)", "False"),
    "masks-bomb": Mutation(PURE + "_inflated", "decompress(data, num_bytes + 1)", "decompress(data)"),
    "masks-vocab": Mutation("dsdnode.node.drafter.options:Options.reply", "model.vocab_size > MAX_VOCAB_SIZE", "False"),
    "masks-kept": Mutation(PURE + "Places.learn", "len(self._names) > MAX_PLACES", "False"),
    "masks-again": Mutation(CONSTRAINED + "tell_again", " + AGAIN_S]", " - AGAIN_S]"),
    "masks-invented": Mutation(CONSTRAINED + "tell_again", "name in here and ", ""),
    "masks-told": Mutation("dsdnode.node.shard.terms:told_by", " or len(digests) > DIGEST_BYTES * MAX_PLACES", ""),
    "masks-route": Mutation(MACHINE + "on_open", "            self._judge.begin_route()\n", ""),
    "masks-shelf": Mutation(
        "dsdnode.node.shard.terms:Asked.places",
        "        return Places(shelves.of(owner)) if",
        "        shelf = shelves.of(owner)\n        return Places(shelf) if",
    ),
    "grammar-blamed": Mutation("dsdnode.engine.grammar:_check_blame", "num_deaths >= MAX_DEATHS or ", ""),
    "grammar-spent": Mutation("dsdnode.engine.grammar:_check_blame", " or SPENT in str(death)", ""),
    "grammar-full": Mutation("dsdnode.engine.grammars:Grammars.open", "self._is_full()", "False"),
    "grammar-number": Mutation("dsdnode.engine.dates:_within", "        _check_numbers(value)\n", ""),
    "grammar-busy": Mutation("dsdnode.engine.grammar:ProcessGrammar._try", " and SILENT not in str(death)", ""),
    "grammar-dead-end": Mutation("dsdnode.engine.grammars:Grammars._mask", "not self._holds(matcher, mask)", "False"),
    "grammar-drafted": Mutation(CONSTRAINED + "_names", "if not names:", "if True:"),
    "grammar-again": Mutation(
        CONSTRAINED + "_names", "            names += more", "            return names, BadInput('')"
    ),
    "grammar-counted": Mutation("dsdnode.engine.grammars:Grammars._first", "        self._begin(grammar)\n", ""),
}
