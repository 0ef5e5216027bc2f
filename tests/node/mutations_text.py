"""Guards of the way from a conversation to ids, taken out: who wrote what, and who is to blame."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

TEXT_PROCESS: Final = "dsdnode.engine.text:TextProcess."

TEXT: Final = {
    "template-typed": Mutation(
        "dsdnode.engine.template:ChatTemplate.render", "Written(content)", "Written.by_template(content)"
    ),
    "template-lost": Mutation("dsdnode.engine.written:_own_of", "bytes(len(text))", r'b"\1" * len(text)'),
    "template-whole": Mutation("dsdnode.engine.template:ChatTemplate._split", "finditer(text, *run)", "finditer(text)"),
    "template-format": Mutation("dsdnode.engine.written:Written._filled", "if 0 in self._own:", "if False:"),
    "template-refused": Mutation(TEXT_PROCESS + "render", "if self._no_template:", "if False:"),
    "template-blamed": Mutation(
        TEXT_PROCESS + "render", "self._suspected = str(death)", 'self._no_template = "refused"'
    ),
    "text-twice": Mutation(TEXT_PROCESS + "_ids", "if death.is_spent:", "if True:"),
    "text-next": Mutation(TEXT_PROCESS + "_try", "            self._link = None\n", ""),
    "text-ids": Mutation("dsdnode.engine.text:_ids_of", "not isinstance(reply, Ids) or len(body) % 4", "False"),
    "text-vocabulary": Mutation("dsdnode.engine.text:_vocab", "starts[-1] != len(body) or ", ""),
}
