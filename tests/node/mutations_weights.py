"""Guards of models that are fetched, and given to others (mutations.py has the others)."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

FETCH: Final = "dsdnode.weights.fetch:Fetch."
PULL: Final = "dsdnode.weights.pull:Pull."
WEB: Final = "dsdnode.weights.web:"
SHARING: Final = "dsdnode.weights.sharing:Sharing."
STORE: Final = "dsdnode.weights.store:"
MANIFESTS: Final = "dsdnode.wire.manifests:open_manifest"

WEIGHTS: Final = {
    "weights-tensor": Mutation(FETCH + "_hash", "self._hashes.get(name, digest) != digest", "False"),
    "weights-dropped": Mutation(FETCH + "_hash", "if was_dropped:", "if False:"),
    "weights-liar": Mutation(
        FETCH + "_hash", "                odd = await self._odd(tensor)\n", "                pass\n"
    ),
    "weights-proven": Mutation(
        FETCH + "_is_wrong",
        "sorted(name for name in odd_givers if name.startswith(PEER))",
        "[one.name for one in self._providers if one.is_peer]",
    ),
    "weights-beside": Mutation(FETCH + "_odd", "any(name.startswith(PEER) for", "all(name.startswith(PEER) for"),
    "weights-compared": Mutation(FETCH + "_compared", "self._patience_s(tensor) if provider.is_peer else None", "None"),
    "weights-doubt": Mutation(FETCH + "run", "        self.drop(self._doubtful())\n", ""),
    "weights-mirror": Mutation(FETCH + "_doubtful", " or (name not in sources and not self._plan.is_whole)", ""),
    "weights-source": Mutation(FETCH + "_is_wrong", "            self._distrust()\n", ""),
    "weights-left": Mutation(FETCH + "_fetch", "provider not in self._providers or ", ""),
    "weights-late": Mutation(FETCH + "_late", "now_s >= run.began_s + LATE_S", "False"),
    "weights-twice": Mutation(FETCH + "_fetch", " or index in self._target.suppliers", ""),
    "weights-again": Mutation(FETCH + "drop", "        self._look_again(indices)\n", ""),
    "weights-file": Mutation(PULL + "_wrong", "if weights_hash == self.manifest.weights_hash:", "if True:"),
    "weights-meant": Mutation(PULL + "prepare", "weights_hash and known and known != weights_hash", "False"),
    "weights-gated": Mutation(PULL + "_run", "not self.remote.restricted", "True"),
    "header-source": Mutation(
        STORE + "_is_of", "return (folder / SOURCE).read_bytes() == source.encode()", "return source != ''"
    ),
    "header-behind": Mutation(PULL + "_fetch", "is_peer=self._source is None", "is_peer=False"),
    "header-killed": Mutation(
        STORE + "Store.begin", "before is not None and before.source != entry.source", "before is not None and False"
    ),
    "header-wrong": Mutation("dsdnode.weights.beginnings:look", "            if is_new:\n", "            if True:\n"),
    "store-removed": Mutation(
        STORE + "Store.remove", "                opened.enter_context(self.held(name))\n", "                pass\n"
    ),
    "store-forgotten": Mutation(
        STORE + "Store.forget", ", self.held(name) as folder:", ":\n                folder = self.partial(name)"
    ),
    "store-same": Mutation(
        STORE + "_locked", "os.path.samestat(os.fstat(file.fileno()), os.stat(folder / JOURNAL))", "True"
    ),
    "store-late": Mutation(PULL + "run", "(known := self.known) is not None", "(known := self.known) and False"),
    "store-room": Mutation(
        STORE + "Store._taken_bytes", "taken_bytes += max(0, other.size_bytes - _used(folder))", "pass"
    ),
    "store-synced": Mutation(STORE + "Store.finish", "                _sync(one)\n", "                pass\n"),
    "weights-journal": Mutation(
        "dsdnode.weights.target:Target.recall",
        "self._digest(self._plan.blocks[index]).hex().encode() == digest",
        "True",
    ),
    "weights-changed": Mutation(WEB + "Web._check_unchanged", "if changed or ", "if False and "),
    "drip-headers": Mutation(WEB + "Web._answer", "asyncio.timeout(self._limits.headers_s)", "asyncio.timeout(None)"),
    "drip-body": Mutation(WEB + "Web._moving", "num_bytes < LEAST_BYTES_PER_S * waited_s", "False"),
    "drip-chunk": Mutation(WEB + "Web._moving", "asyncio.timeout(self._limits.stall_s)", "asyncio.timeout(None)"),
    "drip-json": Mutation(WEB + "Web._json", "asyncio.timeout(self._limits.json_s)", "asyncio.timeout(None)"),
    "answer-packed": Mutation(WEB + "Web._open", "if is_packed(answer.headers):", "if False:"),
    "answer-deep": Mutation(WEB + "Web._json", "(msgspec.DecodeError, RecursionError)", "msgspec.DecodeError"),
    "answer-host": Mutation(WEB + "Web._answer", "(httpx.InvalidURL, UnicodeError)", "httpx.InvalidURL"),
    "answer-later": Mutation("dsdnode.weights.answers:retry_after_s", ", OverflowError", ""),
    "lead-broken": Mutation(WEB + "Web._pause", "        self._leads_to.pop(url, None)\n", ""),
    "token-origin": Mutation(
        WEB + "Web._send", "self._tokens.get(origin_of(url))", "next(iter(self._tokens.values()), None)"
    ),
    "token-plain": Mutation(WEB + "check_scheme", "not secret and ", ""),
    "redirect-plain": Mutation(WEB + "_next", 'and scheme != "https"', "and False"),
    "manifest-model": Mutation(MANIFESTS, "manifest.weights_hash != weights_hash", "False"),
    "manifest-signature": Mutation(
        MANIFESTS, "not verify(manifest.public_key, _LABEL + signed.payload, signed.signature)", "False"
    ),
    "manifests-agree": Mutation("dsdnode.weights.members:agreed", " if name not in disputed", ""),
    "manifest-size": Mutation(
        "dsdnode.weights.from_members:_header",
        "min(fitting, key=lambda size_bytes: (size_bytes != whole, size_bytes))",
        "max(fitting)",
    ),
    "manifest-parts": Mutation(
        "dsdnode.weights.members:who_has", "if len(one.manifest.files) == num_files", "if num_files"
    ),
    "manifest-names": Mutation(
        "dsdnode.weights.from_members:prepare",
        "plain_names([file.name for file in said.files])",
        "[file.name for file in said.files]",
    ),
    "manifest-plain": Mutation(
        "dsdnode.weights.holdings:holding",
        "plain_names([name for name, _, _ in tensors.files])",
        "[name for name, _, _ in tensors.files]",
    ),
    "manifest-own": Mutation(
        "dsdnode.weights.holdings:holding", "open_manifest(signed, tensors.weights_hash)", "manifest"
    ),
    "plan-tail": Mutation("dsdnode.weights.plan:plan_files", "    _check_tails(remote, header, starts)\n", ""),
    "plan-blocks": Mutation("dsdnode.weights.plan:Blocks.__init__", " > MAX_BLOCKS:", " > 1 << 60:"),
    "plan-beginning": Mutation("dsdnode.weights.plan:plan_files", "((start, first), (first, end))", "((start, end),)"),
    "beginning-drips": Mutation(
        "dsdnode.weights.from_members:_Beginnings._all",
        "if waited_s > MOST_S or came_bytes < (waited_s - SLACK_S) * least_bytes_per_s:",
        "if False:",
    ),
    "beginning-kept": Mutation("dsdnode.weights.from_members:_Beginnings.of", "data.clear()", "pass"),
    "beginning-left": Mutation("dsdnode.weights.from_members:_Beginnings.of", "self._left.add(member.peer)", "pass"),
    "members-rate": Mutation("dsdnode.node.fetching:Hubs.among", "tell, self._bytes_per_s)", "tell)"),
    "weights-bounds": Mutation(SHARING + "_on_get", " or message.offset + message.num_bytes > place.size_bytes", ""),
    "weights-removed": Mutation("dsdnode.node.giving:Giving._look", " if name in here and one.is_as_it_was", ""),
    "weights-written": Mutation("dsdnode.weights.holdings:Holding.read", " != self.states.get(place.file)", " is None"),
    "weights-since": Mutation("dsdnode.node.giving:Giving._read_again", "changed_ns > written_ns", "False"),
    "weights-meanwhile": Mutation("dsdnode.node.giving:Giving._of_target", "state_of(path) != state", "False"),
    "weights-waiting": Mutation(
        SHARING + "_turn", "ahead + waiting.num_bytes > self._bytes_per_s * MAX_WAIT_S", "False"
    ),
    "weights-gone": Mutation(SHARING + "_turn", "            self._waiting.pop(waiting, None)\n", "            pass\n"),
    "weights-least": Mutation(SHARING + "_turn", "max(num_bytes, LEAST_BYTES)", "num_bytes"),
    "weights-turns": Mutation(
        SHARING + "_give_turns",
        "min(self._waiting, key=lambda one: [self._served.get(key, -1) for key in _levels(one.account)])",
        "next(iter(self._waiting))",
    ),
}
