"""What is here of models' bytes, for others: by tensor, with the hash of each."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dsdnode.engine.gguf import WEIGHTS_KEY
from dsdnode.engine.gguf_header import Header, read_header
from dsdnode.engine.gguf_parts import join_parts, parts_of, stem_of
from dsdnode.errors import ModelRefused, PeerMisbehaved
from dsdnode.files import replacing, words
from dsdnode.identity import Identity
from dsdnode.weights.store import TENSORS
from dsdnode.wire.manifests import ManifestFile, ManifestTensor, WeightsManifest, open_manifest, sign_manifest
from dsdnode.wire.records import weights_hash_of

READ_BYTES = 4 << 20
MAX_KEPT_BYTES = 8 << 20
MAX_NAME_CHARACTERS = 205
BEGINNING = "#{}"
"""What is before the tensors of a file, by the file's number."""


State = tuple[int, int, int]
"""Of a file: another one as soon as it is written to."""


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A tensor, by its name in the whole model, lies here; `sha256` in hex."""

    file: str
    """In the model's folder, or a whole path."""
    offset: int
    size_bytes: int
    sha256: str


class Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """What is here of one model. `files` of the whole model: name, size, and SHA-256 in hex."""

    files: tuple[tuple[str, int, str], ...]
    places: dict[str, Place]
    whole: bool
    """All files are here, and were hashed."""
    licence: str = ""
    signed: bytes = b""
    """Else the manifest of somebody who says that he has hashed all, and who says the same of what is here."""

    @property
    def weights_hash(self) -> str:
        return weights_hash_of([sha256 for _, _, sha256 in self.files])


@dataclass(frozen=True)
class Holding:
    """`signed`: the manifest as it travels. `places` by tensor: those that are here."""

    manifest: WeightsManifest
    signed: bytes
    places: Mapping[str, Place]
    folder: Path
    states: Mapping[str, State]
    """Of each file, since when what is said of it holds."""

    def held(self) -> list[bool]:
        return [tensor.name in self.places for tensor in self.manifest.tensors]

    def read(self, tensor: str, offset: int, num_bytes: int) -> bytes:
        """Raises OSError, also for a file that was written to; fewer bytes where it has become shorter."""
        place = self.places[tensor]
        with (self.folder / place.file).open("rb") as file:
            if _state(os.fstat(file.fileno())) != self.states.get(place.file):
                raise OSError(errno.ESTALE, "it has changed since it was hashed")
            return os.pread(file.fileno(), num_bytes, place.offset + offset)

    @property
    def is_as_it_was(self) -> bool:
        return self.states == _states(self.folder, self.places)


def holding(tensors: Tensors, folder: Path, identity: Identity) -> Holding:
    """Raises ModelRefused: others would not read what we say of it, and think ill of us."""
    if tensors.signed:
        manifest = open_manifest(tensors.signed, tensors.weights_hash)
        return Holding(manifest, tensors.signed, tensors.places, folder, _states(folder, tensors.places))
    names = plain_names([name for name, _, _ in tensors.files])
    files = zip(names, tensors.files, strict=True)
    try:
        manifest = WeightsManifest(
            identity.public_key,
            tuple(ManifestFile(name, size, bytes.fromhex(sha256)) for name, (_, size, sha256) in files),
            tuple(
                ManifestTensor(name, one.size_bytes, bytes.fromhex(one.sha256)) for name, one in tensors.places.items()
            ),
            tensors.whole,
            re.sub(r"[^ -~]", "?", tensors.licence)[:64],
        )
        signed = sign_manifest(identity, manifest)
        manifest = open_manifest(signed, tensors.weights_hash)
        return Holding(manifest, signed, tensors.places, folder, _states(folder, tensors.places))
    except (ValueError, PeerMisbehaved) as error:
        raise ModelRefused(f"members could not be told of it: {error}") from None


def _states(folder: Path, places: Mapping[str, Place]) -> dict[str, State]:
    """A file that is not there has none."""
    states: dict[str, State] = {}
    for file in dict.fromkeys(place.file for place in places.values()):
        with suppress(OSError):
            states[file] = _state((folder / file).stat())
    return states


def _state(status: os.stat_result) -> State:
    return status.st_ino, status.st_size, status.st_mtime_ns


def plain_names(names: Sequence[str]) -> list[str]:
    """What the files of a model are called among members: as a manifest may say it, and so that `start` finds all parts
    of the first one. Names that are so stay as they are."""
    ends = [".gguf"] if len(names) == 1 else [f"-{one + 1:05d}-of-{len(names):05d}.gguf" for one in range(len(names))]
    stem = re.sub(r"[^A-Za-z0-9_.+ -]", "_", stem_of(Path(names[0])))[: MAX_NAME_CHARACTERS - len(ends[0])]
    return [(stem.lstrip(".+ -") or "model") + end for end in ends]


def keep(folder: Path, tensors: Tensors) -> None:
    """Beside what was pulled. Raises BadInput."""
    with words(folder / TENSORS), replacing(folder / TENSORS) as file:
        file.write(msgspec.json.encode(tensors))


def kept(folder: Path) -> Tensors | None:
    try:
        with (folder / TENSORS).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_KEPT_BYTES), type=Tensors)
    except (OSError, msgspec.DecodeError):
        return None


async def hashed(path: Path) -> Tensors:
    """A whole model that is here, in one file or several. Reads all of it. Raises ModelRefused."""
    parts = parts_of(path)
    headers = [await asyncio.to_thread(read_header, part) for part in parts]
    if WEIGHTS_KEY in join_parts(path, parts, headers).metadata:
        raise ModelRefused(f"{path}: is a shard: what its tensors are called in the whole model is not known")
    files: list[tuple[str, int, str]] = []
    places: dict[str, Place] = {}
    try:
        for index, (part, header) in enumerate(zip(parts, headers, strict=True)):
            inside = [(0, beginning_bytes(header), BEGINNING.format(index))]
            inside += [(one.offset, one.size_bytes, one.name) for one in header.tensors.values()]
            files.append((part.name, header.size_bytes, await _hash_file(part, inside, places)))
    except OSError as error:
        raise ModelRefused(f"{path}: cannot be read ({error.strerror or error})") from None
    return Tensors(files=tuple(files), places=places, whole=True)


def beginning_bytes(header: Header) -> int:
    """Of one file, before its tensors."""
    return min((tensor.offset for tensor in header.tensors.values()), default=header.size_bytes)


async def _hash_file(part: Path, inside: Sequence[tuple[int, int, str]], places: dict[str, Place]) -> str:
    """It is read once: beside its own hash those of what lies in it."""
    whole, at = hashlib.sha256(), 0
    with part.open("rb") as file:
        for offset, size_bytes, name in sorted(inside):
            await _feed(file.fileno(), at, offset, whole)
            own = hashlib.sha256()
            await _feed(file.fileno(), offset, offset + size_bytes, whole, own)
            places[name] = Place(str(part), offset, size_bytes, own.hexdigest())
            at = offset + size_bytes
        await _feed(file.fileno(), at, os.fstat(file.fileno()).st_size, whole)
    return whole.hexdigest()


async def _feed(file: int, start: int, end: int, *digests: hashlib._Hash) -> None:
    for at in range(start, end, READ_BYTES):
        await asyncio.to_thread(_feed_piece, file, at, min(READ_BYTES, end - at), digests)


def _feed_piece(file: int, offset: int, num_bytes: int, digests: Sequence[hashlib._Hash]) -> None:
    data = os.pread(file, num_bytes, offset)
    for digest in digests:
        digest.update(data)
