"""Manifests of models, as whoever fetches weights gets them from members."""

from __future__ import annotations

import msgpack

from dsdnode.wire import codec, manifests
from tests.fuzz.mutate import Mutator
from tests.fuzz.parser import Case, Parser
from tests.fuzz.wire import BODY_TARGETS, MISBEHAVED
from tests.protocol import examples, peers

MANIFEST = examples.manifest()
SIGNED_SHARE = 0.7
"""Of the cases whose payload was changed before it was signed."""
_ALICE = peers.identity_of("alice")
_PAYLOAD = msgpack.unpackb(codec.encode_body(MANIFEST))
_SIGNED = msgpack.unpackb(manifests.sign_manifest(_ALICE, MANIFEST))


def _manifest(mutator: Mutator) -> Case:
    if mutator.rng.random() > SIGNED_SHARE:
        return (mutator.packed(_SIGNED),)
    payload = mutator.packed(_PAYLOAD)
    return (msgpack.packb([manifests.MANIFEST_VERSION, payload, _ALICE.sign(manifests._LABEL + payload)]),)


def _parse(case: Case) -> None:
    told = manifests.open_manifest(case[0], MANIFEST.weights_hash)
    assert told.public_key == _ALICE.public_key, "signed by somebody else"
    assert [one.sha256 for one in told.files] == [one.sha256 for one in MANIFEST.files], "another model's"
    assert all("/" not in one.name and not one.name.startswith(".") for one in told.files), "it would leave its folder"
    held = [index % 3 == 0 for index in range(len(told.tensors))]
    assert manifests.unpack_held(manifests.pack_held(held), len(held)) == held


def _fits(case: Case) -> bool:
    return len(case[0]) <= codec.MAX_BODY_BYTES


PARSERS = (
    Parser(
        "manifest", _manifest, _parse, MISBEHAVED,
        (manifests.open_manifest, manifests.WeightsManifest, manifests.unpack_held, *BODY_TARGETS), _fits,
    ),
)  # fmt: skip
