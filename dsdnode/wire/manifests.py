"""Manifests of models (docs/protocol.md, section 18): which hash each tensor has.

One says the hash of each tensor, by somebody's word: of a model's id only the hashes of whole files are part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from dsdnode.errors import PeerMisbehaved
from dsdnode.identity import LABEL, Identity, verify
from dsdnode.wire.codec import MAX_BODY_BYTES, decode_body, encode_body
from dsdnode.wire.messages import Bytes32
from dsdnode.wire.pieces import Bytes, TensorName
from dsdnode.wire.records import weights_hash_of

MANIFEST_VERSION = 1
MAX_FILES = 512
MAX_TENSORS_TOLD = 8192
"""With names as they are in files, a body holds so many."""
_LABEL = LABEL + b"manifest 1\n"


class ManifestFile(msgspec.Struct, frozen=True, array_like=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}\.gguf\Z")]
    size_bytes: Bytes
    sha256: Bytes32


class ManifestTensor(msgspec.Struct, frozen=True, array_like=True):
    """`name` `#0`, `#1` ...: all that is before the tensors of the first file, the second ..."""

    name: TensorName
    size_bytes: Bytes
    sha256: Bytes32


class WeightsManifest(msgspec.Struct, frozen=True, array_like=True):
    """Who says it has hashed all files (`whole`), or had these tensors alone from a source that it believes."""

    public_key: Bytes32
    files: Annotated[tuple[ManifestFile, ...], Meta(min_length=1, max_length=MAX_FILES)]
    tensors: Annotated[tuple[ManifestTensor, ...], Meta(min_length=1, max_length=MAX_TENSORS_TOLD)]
    whole: bool
    licence: Annotated[str, Meta(pattern=r"^[ -~]{0,64}\Z")] = ""

    @property
    def weights_hash(self) -> str:
        return weights_hash_of([file.sha256.hex() for file in self.files])


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=MANIFEST_VERSION, le=MANIFEST_VERSION)]
    payload: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


def sign_manifest(identity: Identity, manifest: WeightsManifest) -> bytes:
    """As it travels. Raises ValueError for one that is too large to."""
    payload = encode_body(manifest)
    return encode_body(_Signed(MANIFEST_VERSION, payload, identity.sign(_LABEL + payload)))


def open_manifest(data: bytes, weights_hash: str) -> WeightsManifest:
    """The verified manifest of just this model. Raises PeerMisbehaved for anything else."""
    if len(data) > MAX_BODY_BYTES:
        raise PeerMisbehaved(f"a manifest of {len(data)} bytes; at most {MAX_BODY_BYTES}")
    signed = decode_body(data, _Signed)
    manifest = decode_body(signed.payload, WeightsManifest)
    if manifest.weights_hash != weights_hash:
        raise PeerMisbehaved("a manifest of another model than was asked for")
    if len({one.name for one in manifest.tensors}) < len(manifest.tensors):
        raise PeerMisbehaved("a manifest that has a tensor twice")
    if not verify(manifest.public_key, _LABEL + signed.payload, signed.signature):
        raise PeerMisbehaved("a manifest with a wrong signature")
    return manifest


def pack_held(held: Sequence[bool]) -> bytes:
    """Buffer 1 of HasWeights."""
    packed = bytearray(-(-len(held) // 8))
    for index, one in enumerate(held):
        packed[index // 8] |= one << index % 8
    return bytes(packed)


def unpack_held(data: bytes, num_tensors: int) -> list[bool]:
    """Raises PeerMisbehaved."""
    if len(data) != -(-num_tensors // 8):
        raise PeerMisbehaved(f"a bitmap of {len(data)} bytes for {num_tensors} tensors")
    return [bool(data[index // 8] >> index % 8 & 1) for index in range(num_tensors)]
