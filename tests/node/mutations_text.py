"""Guards of the way from a conversation to ids, taken out: who wrote what, and who is to blame."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

TEXT_PROCESS: Final = "dsdnode.engine.text:TextProcess."

WRITER: Final = "dsdnode.engine.call_grammar:_Writer."

TEXTS: Final = "dsdnode.node.drafter.texts:"

TEXT: Final = {
    "template-typed": Mutation("dsdnode.engine.template:_marked", "Written(content)", "Written.by_template(content)"),
    "template-lost": Mutation("dsdnode.engine.written:_own_of", "bytes(len(text))", r'b"\1" * len(text)'),
    "template-whole": Mutation("dsdnode.engine.template:ChatTemplate._split", "finditer(text, *run)", "finditer(text)"),
    "template-format": Mutation("dsdnode.engine.written:Written._filled", "if 0 in self._own:", "if False:"),
    "template-refused": Mutation(TEXT_PROCESS + "_templated", "if self._no_template:", "if False:"),
    "template-blamed": Mutation(
        TEXT_PROCESS + "_templated", "self._suspected = str(death)", 'self._no_template = "refused"'
    ),
    "tools-dropped": Mutation("dsdnode.client.part:Part.needs", "TOOLS: body.needs_tools", "TOOLS: False"),
    "tools-typed": Mutation(
        "dsdnode.engine.template:_marked",
        "        **turn,\n",
        "        **{key: Written.by_template(one) if isinstance(one, str) else one for key, one in turn.items()},\n",
    ),
    "tools-work": Mutation("dsdnode.client.calls:CallReader.feed", "len(text), MAX_STEP)", "len(text), len(text))"),
    "tools-false": Mutation("dsdnode.client.calls:CallReader._read", "self._num_false < MAX_FALSE", "True"),
    "tools-parts": Mutation("dsdnode.client.calls:CallReader._part", "self._num_parts >= MAX_PARTS", "False"),
    "calls-spelled": Mutation(WRITER + "_start", "/(?s:.+)/ & {_without(mark)}", "/(?s:.+)/"),
    "calls-large": Mutation(WRITER + "_check", "num > MAX_CONSTRAINT", "False"),
    "calls-deep": Mutation(
        "dsdnode.node.drafter.constrained:_rule_of", "(msgspec.MsgspecError, RecursionError)", "msgspec.MsgspecError"
    ),
    "text-twice": Mutation(TEXT_PROCESS + "_asked", "if death.is_spent:", "if True:"),
    "text-next": Mutation(TEXT_PROCESS + "_try", "            self._link = None\n", ""),
    "text-ids": Mutation("dsdnode.engine.text:_ids_of", "not isinstance(reply, Ids) or len(body) % 4", "False"),
    "text-vocabulary": Mutation("dsdnode.engine.text:_vocab", "starts[-1] != len(body) or ", ""),
    "text-file-hash": Mutation(
        TEXTS + "Texts._got_from_any", "hashlib.sha256(data).hexdigest() == model.text_hash", "True"
    ),
    "text-file-kept": Mutation(
        TEXTS + "_is_whole", 'hashlib.file_digest(file, "sha256").hexdigest() == text_hash', "bool(file.read(1))"
    ),
    "text-file-tokenizer": Mutation(TEXTS + "Texts._compared", "tokenizer_hash != model.tokenizer_hash", "False"),
    "text-file-bomb": Mutation(TEXTS + "_unpacked", "decompress(data, num_bytes)", "decompress(data)"),
    "text-file-asked": Mutation(TEXTS + "Texts._got_from_any", "[:MAX_ASKED]", ""),
    "text-file-slow": Mutation(TEXTS + "Texts._got_from_any", "asyncio.timeout(GIVEN_S)", "asyncio.timeout(None)"),
    "text-file-time": Mutation(TEXTS + "Texts._got", "asyncio.timeout(FILE_S)", "asyncio.timeout(None)"),
    "text-file-rank": Mutation(
        "dsdnode.node.drafter.pairing:tokenizer_for", "(await preferred(models, pings))", "models"
    ),
    "target-outage": Mutation(
        "dsdnode.node.drafter.pairing:wait_for_target",
        "await wholly_hosted([one for one in models if one not in targets], pings)",
        "[one for one in models if one not in targets]",
    ),
    "text-file-failed": Mutation(TEXTS + "Texts._begin", "_now() < failed_s + FAILED_S", "False"),
    "text-file-model": Mutation(TEXTS + "Texts._opened", "if known is not None:", "if False:"),
    "text-file-disk": Mutation(TEXTS + "_keep", "kept[:-MAX_KEPT]", "()"),
    "text-file-most-used": Mutation(TEXTS + "_Readings", "LFUCache[str, Reading]", '__import__("cachetools").LRUCache'),
    "text-file-given": Mutation(
        "dsdnode.node.shard.texts:TextGiver._may_have", "num >= MAX_FILES_AN_HOUR * len(self._pieces)", "False"
    ),
    "model-text": Mutation("dsdnode.wire.records:model_id_of", 'f" {text_hash}" if text_hash else ""', '""'),
    "foreign-proposed": Mutation("dsdnode.node.drafter.conversations:draft_tokens_of", " and token not in foreign", ""),
    "foreign-shown": Mutation(
        "dsdnode.node.drafter.conversations:DraftSequences.draft", " and token not in self._foreign", ""
    ),
}
