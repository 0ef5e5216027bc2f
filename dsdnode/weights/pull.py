"""`dsdnode pull`: look at a source, say what it would take, fetch it into the store.

What makes bytes right: files are asked for by commit, over TLS, and a whole file must have the SHA-256 that the hub
said. Of layers alone no hub says a hash: what the source itself gives is believed as the source is, and what it said of
the whole file is what the model's id is made of.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Protocol

from dsdnode.engine.gguf import check_whole, manifest_of, read_manifest
from dsdnode.engine.gguf_parts import read_model, stem_of
from dsdnode.errors import ModelRefused
from dsdnode.identity import MAX_NAMED, peer_id, short_id
from dsdnode.net.rpc import Rpc
from dsdnode.weights.beginnings import Looked, look
from dsdnode.weights.fetch import PEER, Fetch
from dsdnode.weights.holdings import BEGINNING, Place, Tensors, keep
from dsdnode.weights.hub import resolve, tokens
from dsdnode.weights.members import FromMember, Member, agreed, beginning_of
from dsdnode.weights.pace import Pace
from dsdnode.weights.plan import file_starts, plan_files, plan_layers
from dsdnode.weights.providers import FromHeaders, FromHub
from dsdnode.weights.sources import Remote, parse_source
from dsdnode.weights.store import HEADER, Entry, Store, clear, keep_headers, size
from dsdnode.weights.target import Target, kept_bytes
from dsdnode.weights.web import PATIENT, Limits, Web
from dsdnode.wire.records import NO_HASH, weights_hash_of

TOLD_BYTES = 4 << 30
"""So many are hashed for long: it is said before."""
Tell = Callable[[str], None]


class WrongBytes(ModelRefused):
    """All of a file came, and it is not what its source says."""


class Progress(Protocol):
    def begin(self, num_bytes: int, num_done_bytes: int) -> None: ...

    def step(self, source: str, num_bytes: int) -> None:
        """So many more are there, from this one. Fewer: what came was wrong."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a pull would take, for people to decide."""

    source: str
    """Pinned: a commit, where there are such."""
    host: str
    model: str
    architecture: str
    layers: tuple[int, int]
    num_layers: int
    licence: str
    fetch_bytes: int
    """That are not here yet."""
    size_bytes: int
    """Of what is needed, in all."""
    whole_bytes: int
    """Of the whole model."""
    disk_bytes: int
    disk_free_bytes: int
    weights_hash: str
    model_id: str
    """Both empty where nobody says them before the file is here."""


class Pull:
    """`await Pull.prepare(...)`, then `quote()`, then `await run(...)`."""

    def __init__(
        self,
        store: Store,
        looked: Looked,
        asked: str,
        layers: tuple[int, int] | None,
        source: FromHub | None,
        pace: Pace,
    ) -> None:
        """`source`: None where members alone have it; `pace`: of what members give.

        Raises BadInput, ModelRefused: no such layers, or they cannot be alone.
        """
        self._source = source
        self._pace = pace
        self._store = store
        self._looked = looked
        self._asked = asked
        self.remote, self.header = looked.remote, looked.header
        """Of the whole model."""
        self.manifest = looked.whole
        """Of what will be there; its weights hash is of zeros where nobody says it before all is there."""
        if layers is None:
            self.plan = plan_files(self.remote, self.header)
        else:
            check_whole(self.header, Path(self.remote.files[0].name))
            self.plan = plan_layers(self.remote, self.header, looked.whole, *layers)
            self.manifest = replace(looked.whole, start=layers[0], end=layers[1])
        self.name = name_of(self.remote, layers)
        self._checked = ""

    @classmethod
    async def prepare(
        cls,
        web: Web,
        store: Store,
        remote: Remote,
        layers: tuple[int, int] | None,
        asked: str,
        weights_hash: str = "",
        keep: bool = True,
    ) -> Pull:
        """Fetch its header, and remember that if we `keep` it. `weights_hash`: of the model that it must be, or "".

        Raises ModelRefused, BadInput (no such layers), SourceFailed, SourceChanged.
        """
        known = remote.weights_hash
        if weights_hash and known and known != weights_hash:
            raise ModelRefused(
                f"{remote.source} is another model than the one that is meant: its SHA-256 is {known[:12]}, "
                f"not {weights_hash[:12]}"
            )
        name = name_of(remote, layers)
        is_known = store.find(name, None) is not None
        folder = store.folder / name if is_known else store.partial(name)
        looked = await look(web, remote, folder, keep and not is_known, known or weights_hash or NO_HASH)
        return cls(store, looked, asked, layers, FromHub(web, remote, looked.beginnings), web.pace)

    def part(self, layers: tuple[int, int] | None) -> Pull:
        """Of the same model other layers, or all of it. Raises BadInput, ModelRefused."""
        return Pull(self._store, self._looked, self._asked, layers, self._source, self._pace)

    @property
    def known(self) -> Entry | None:
        """It is here already."""
        return self._store.find(self.name, None)

    def forget(self) -> None:
        """Somebody has said no: what was begun of it goes."""
        self._store.forget(self.name)

    def quote(self) -> Quote:
        folder, manifest = self._store.partial(self.name), self.manifest
        return Quote(
            source=str(self.remote.source),
            host=self.remote.host,
            model=manifest.model_name,
            architecture=manifest.architecture,
            layers=(manifest.start, manifest.end),
            num_layers=manifest.num_layers,
            licence=self.remote.licence,
            size_bytes=self.plan.size_bytes,
            fetch_bytes=self.plan.size_bytes - kept_bytes(folder, self.plan),
            whole_bytes=self.remote.size_bytes,
            disk_bytes=self.plan.disk_bytes,
            disk_free_bytes=self._store.free_bytes(self.name),
            weights_hash="" if manifest.weights_hash == NO_HASH else manifest.weights_hash,
            model_id="" if manifest.weights_hash == NO_HASH else manifest.model_id,
        )

    async def run(self, tell: Tell, progress: Progress, rpc: Rpc | None = None, members: Sequence[Member] = ()) -> Path:
        """Fetch it, or what is left of it; the path of the model. Whoever ends it may go on later.

        `members` (members.py: who_has) are asked over `rpc` beside the source.

        Raises SourceFailed, SourceChanged, ModelRefused (bytes that are not what was said), DiskTrouble, DsdError (no
        room), BadInput (another process is at it).
        """
        if not self.plan.is_whole and self.manifest.weights_hash == NO_HASH:
            raise ModelRefused(
                f"{self.remote.host} says no SHA-256 of {self.remote.files[0].name}, so nobody could tell whose layers "
                "these are: give it (--sha256), or pull the whole model"
            )
        with self._store.held(self.name) as folder:
            if (known := self.known) is not None:  # somebody else was faster
                clear(folder)
                return self._store.path_of(known)
            return await self._run(folder, tell, progress, rpc, members)

    async def _run(
        self, folder: Path, tell: Tell, progress: Progress, rpc: Rpc | None, members: Sequence[Member]
    ) -> Path:
        self._store.begin(self._entry())
        keep_headers(folder, self._looked.beginnings, self.remote.given_by)
        target = Target(folder, self.plan)
        try:
            if (kept := kept_bytes(folder, self.plan)) > TOLD_BYTES:
                tell(f"{size(kept)} are here already; they are hashed, to see that they are right")
            await target.recall()
            progress.begin(self.plan.size_bytes, sum(self.plan.blocks[one].size_bytes for one in target.suppliers))
            fetch = Fetch(self.plan, target, tell, progress.step)
            await self._fetch(fetch, target, tell, progress, rpc, members)
            keep_headers(folder, self._looked.beginnings, self.remote.given_by)
            self._checked = self._by_what(target, members)
            await asyncio.to_thread(target.sync)
        except WrongBytes:
            clear(folder)
            raise
        finally:
            target.close()
        if not self.remote.restricted and len(fetch.found) == len(self.plan.tensors):  # else it is not ours to hand on
            keep(folder, self._tensors(fetch.found, [] if fetch.distrusted else members))
        if not self.plan.is_whole:
            read_manifest(folder / self.plan.outputs[0].name)  # it is what `start` will take
        return self._store.finish(self._entry())

    async def _fetch(
        self,
        fetch: Fetch,
        target: Target,
        tell: Tell,
        progress: Progress,
        rpc: Rpc | None,
        members: Sequence[Member],
    ) -> None:
        hashes, disputes = agreed(members)
        for words in disputes if self._source is not None else []:  # (else it was told before)
            tell(words)
        sizes = [file.size_bytes for file in self.remote.files]
        peers = [] if rpc is None else [FromMember(rpc, one, hashes, self.header, sizes, self._pace) for one in members]
        own = [] if self._source is None else [self._source]
        read_before = FromHeaders(self.remote, self._looked.beginnings, is_peer=self._source is None)
        await fetch.run([read_before, *peers, *own], hashes)
        wrong = await self._wrong(target, tell)
        if wrong and self._source is not None:
            names = " and ".join(self.remote.files[index].name for index in wrong[:MAX_NAMED])
            tell(f"{names}: not with the SHA-256 that was said of it, so all of it is fetched again, once")
            await self._fetch_again(fetch, target, self._source, wrong)
            wrong = await self._wrong(target, tell)
            if not wrong:
                await self._look_again(fetch, target)
        if wrong:
            name = self.remote.files[wrong[0]].name
            given = (
                f"{self.remote.host} has given {name} twice" if own else f"members have given {name} as they signed it"
            )
            raise WrongBytes(f"{given}, and never with the SHA-256 that was said of it; it is not kept")

    async def _fetch_again(self, fetch: Fetch, target: Target, source: FromHub, wrong: Sequence[int]) -> None:
        """These files, and what lies before their tensors, too."""
        starts = file_starts([file.size_bytes for file in self.remote.files])
        blocks = self.plan.blocks
        fetch.drop([one for one in target.suppliers if bisect_right(starts, blocks[one].start) - 1 in wrong])
        source.forget()
        await fetch.run([source], dict(fetch.found))

    async def _look_again(self, fetch: Fetch, target: Target) -> None:
        """What lies before the tensors may be what was wrong: now it is right."""
        starts = file_starts([file.size_bytes for file in self.remote.files])
        path = self._store.partial(self.name) / self.plan.outputs[0].name
        header = await asyncio.to_thread(read_model, path)
        sizes = [beginning_of(header, start, end) for start, end in pairwise(starts)]
        beginnings = [target.beginning(index, size_bytes) for index, size_bytes in enumerate(sizes)]
        if header.tensors != self.header.tensors:
            fetch.found.clear()  # of other places
        self.header, self.manifest = header, manifest_of(header, self.manifest.weights_hash, path)
        self._looked = Looked(self.remote, header, beginnings, self.manifest)

    def _by_what(self, target: Target, members: Sequence[Member]) -> str:
        """Its bytes are known to be right, in words."""
        if self.plan.is_whole:
            known = self._looked.remote.weights_hash or self._looked.whole.weights_hash != NO_HASH
            return "by the SHA-256 of the whole file" if known else "by nobody: its source says no SHA-256"
        is_own = self._source is not None and any(not one.startswith(PEER) for one in target.suppliers.values())
        own = [f"as {self.remote.host} gave it"] * is_own
        makers = sorted({short_id(peer_id(one.manifest.public_key)) for one in members if one.manifest.whole})
        signed = f"by the hashes of tensors that {' and '.join(makers[:MAX_NAMED]) or 'members'} signed"
        is_signed = self._source is None or any(one.startswith(PEER) for one in target.suppliers.values())
        return "; ".join([*own, *[signed] * is_signed])

    def _tensors(self, found: Mapping[str, str], members: Sequence[Member]) -> Tensors:
        """What is here now, for others."""
        starts = file_starts([file.size_bytes for file in self.remote.files])
        places: dict[str, Place] = {}
        for index, beginning in enumerate(self._looked.beginnings):
            size_bytes = beginning_of(self.header, starts[index], starts[index + 1])
            digest = hashlib.sha256(beginning[:size_bytes]).hexdigest()
            places[BEGINNING.format(index)] = Place(f"{HEADER}{index}", 0, size_bytes, digest)
        for tensor in self.plan.tensors:
            copy = next(self.plan.within(tensor.offset, tensor.offset + tensor.size_bytes))
            file = self.plan.outputs[copy.output].name
            places[tensor.name] = Place(file, copy.offset, tensor.size_bytes, found[tensor.name])
        hashes = {name: place.sha256 for name, place in places.items()}
        signed = next((one.signed for one in members if one.manifest.whole and one.agrees(hashes)), b"")
        files = tuple((file.name, file.size_bytes, file.sha256) for file in self.remote.files)
        whole = self.plan.is_whole
        return Tensors(
            files=files, places=places, whole=whole, licence=self.remote.licence, signed=b"" if whole else signed
        )

    async def _wrong(self, target: Target, tell: Tell) -> list[int]:
        """Of a whole model: the numbers of the files that are not as was said; all, where nothing was said of each."""
        if not self.plan.is_whole:
            return []
        if self.remote.size_bytes > TOLD_BYTES:
            tell("all of it is here; it is hashed, to see that it is right")
        found = [await target.sha256_of_file(index) for index in range(len(self.remote.files))]
        weights_hash = weights_hash_of(found)
        if self.manifest.weights_hash == NO_HASH:
            self.manifest = replace(self.manifest, weights_hash=weights_hash)
            files = (replace(file, sha256=sha256) for file, sha256 in zip(self.remote.files, found, strict=True))
            self.remote = replace(self.remote, files=tuple(files))
        if weights_hash == self.manifest.weights_hash:
            return []
        return [index for index, file in enumerate(self.remote.files) if file.sha256 != found[index]]

    def _entry(self) -> Entry:
        manifest = self.manifest
        return Entry(
            name=self.name,
            source=str(self.remote.source),
            asked=self._asked,
            model=manifest.model_name,
            model_id=manifest.model_id,
            weights_hash=manifest.weights_hash,
            layers=(manifest.start, manifest.end),
            num_layers=manifest.num_layers,
            files=tuple(output.name for output in self.plan.outputs),
            size_bytes=self.plan.disk_bytes,
            licence=self.remote.licence,
            checked=self._checked,
        )


def name_of(remote: Remote, layers: tuple[int, int] | None) -> str:
    """Of a folder of the store: other bytes have another one."""
    said = "\n".join(file.sha256 or f"{file.url} {file.size_bytes} {file.etag}" for file in remote.files)
    part = "" if layers is None else f"-{layers[0]}-{layers[1]}"
    return f"{stem_of(Path(remote.files[0].name))}{part}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


@asynccontextmanager
async def pulling(
    store: Store,
    text: str,
    layers: tuple[int, int] | None,
    tell: Tell,
    *,
    weights_hash: str = "",
    bytes_per_s: float = inf,
    keep: bool = True,
    env: Mapping[str, str] = os.environ,
    limits: Limits = PATIENT,
) -> AsyncIterator[Pull]:
    """A pull of what `text` names, ready to be told of and run; with `keep`, what came of it stays in any case.

    Raises BadInput, ModelRefused, SourceFailed.
    """
    source = parse_source(text)
    web = Web(tokens(env), tell, Pace(bytes_per_s), limits)
    try:
        remote = await resolve(web, source, env)
        yield await Pull.prepare(web, store, remote, layers, text, weights_hash, keep)
    finally:
        await web.close()
