"""What releases say on the wire: `python -m tests.protocol.releases 0.2.0` keeps today's bytes under that name.

A file of released/ is never changed: it says what a peer of that release sends, and can read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack

from dsdnode.errors import DsdError
from dsdnode.wire.codec import decode, encode, encode_body
from dsdnode.wire.messages import PROTOCOL_VERSION, Contact
from dsdnode.wire.records import ProviderRecord, open_record, pack_contacts, unpack_contacts
from tests.protocol import examples, peers, vectors

FOLDER = Path(__file__).parent / "released"
GREETINGS = ("Hello", "Welcome", "Refused")
"""Whose layout no version changes."""


def kept() -> list[dict[str, Any]]:
    """Of every release, the first one first."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def snapshot(release: str) -> dict[str, Any]:
    """As today's code has it."""
    headers = [{name: one[name] for name in ("message", "fields", "header")} for one in examples.headers()["cases"]]
    records = [{"what": one["what"], "signed": one["signed"]} for one in peers.records()["cases"]]
    whole = examples.whole_messages()["cases"]
    return {
        "release": release,
        "protocol": PROTOCOL_VERSION,
        "headers": headers,
        "frames": [{"what": one["what"], "frames": one["frames"]} for one in whole],
        "records": {"fields": list(ProviderRecord.__struct_fields__), "cases": records},
        "contacts": {
            "fields": list(Contact.__struct_fields__),
            "body": pack_contacts([peers.contact_of("alice"), peers.contact_of("bob")]).hex(),
        },
    }


def greetings(release: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in release["headers"] if one["message"] in GREETINGS]


def breaks(release: dict[str, Any]) -> Iterator[str]:
    """What today's code does not read of what a peer of that release says, or says in a way that it could not read."""
    same = release["protocol"] == PROTOCOL_VERSION
    for one in release["headers"] if same else greetings(release):
        if not _is_same([one["header"]]):
            yield one["message"]
    if same:
        yield from (one["what"] for one in release["frames"] if not _is_same(one["frames"]))
        yield from (f"the record of {one['what']}" for one in release["records"]["cases"] if not _is_record(one))
        if not _begins_so(release["contacts"]["body"], lambda data: pack_contacts(unpack_contacts(data))):
            yield "contacts"


def _is_same(spelled: Sequence[str]) -> bool:
    """Read, and said again in the same bytes?"""
    frames = [bytes.fromhex(one) for one in spelled]
    try:
        told = decode(frames)
    except DsdError:
        return False
    return encode(told.message, told.buffers, told.request_id, told.reply, told.deadline_ms) == frames


def _is_record(case: dict[str, Any]) -> bool:
    """Read, and of what is said today of the same the same to begin with: what follows an older peer ignores?"""
    signed = bytes.fromhex(case["signed"])

    def said_again(data: bytes) -> bytes:
        return encode_body(open_record(signed))

    return _begins_so(msgpack.unpackb(signed)[1].hex(), said_again)


def _begins_so(spelled: str, again: Callable[[bytes], bytes]) -> bool:
    data = bytes.fromhex(spelled)
    try:
        now = msgpack.unpackb(again(data))
    except DsdError:
        return False
    return is_prefix(msgpack.unpackb(data), now)


def is_prefix(before: Any, now: Any) -> bool:
    """Lists may have become longer, at their ends; nothing else may have changed."""
    if isinstance(before, list) and isinstance(now, list):
        return len(before) <= len(now) and all(map(is_prefix, before, now))
    return bool(before == now)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", help="its number")
    release = parser.parse_args(arguments).release
    path = FOLDER / f"{release}.json"
    if path.exists():
        parser.error(f"{path} is there, and never changes")
    path.write_text(vectors.spell(snapshot(release), 0) + "\n")
    print(f"{path} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
