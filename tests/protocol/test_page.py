"""docs/protocol.md names every message with its tag and fields, and the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from dsdnode.errors import PeerMisbehaved
from dsdnode.net.handshake import CAPABILITIES
from dsdnode.wire import calls, logprobs, manifests, masks, messages, paths, pieces, records, replies, shaping
from dsdnode.wire.codec import decode
from tests.protocol import vectors
from tests.protocol.limits import LIMITS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
LINES = PAGE.splitlines()
MODULES = (calls, messages, replies, shaping, logprobs, masks, paths, pieces, records, manifests)
MAX_LINE = 120


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables() -> dict[str, tuple[int | None, list[str]]]:
    """Tag and fields by the name of a message or structure: rows `| **Name** tag | `field` | type | meaning |`."""
    found: dict[str, tuple[int | None, list[str]]] = {}
    fields: list[str] | None = None
    for line in LINES:
        if not line.startswith("|"):
            fields = None
            continue
        first, second = (*cells(line), "")[:2]
        named = re.fullmatch(r"\*\*(\w+)\*\*( \d+)?", first)
        if named is not None:
            assert named[1] not in found, f"{named[1]} stands twice"
            fields = []
            found[named[1]] = int(named[2]) if named[2] else None, fields
        if fields is not None and (named is not None or not first):
            fields += re.findall(r"`(\w+)`", second)
    return found


def structs() -> dict[str, type[msgspec.Struct]]:
    """Everything that travels, by its name."""
    kinds = [kind for module in MODULES for kind in vars(module).values() if isinstance(kind, type)]
    named = {kind.__name__: kind for kind in kinds if issubclass(kind, msgspec.Struct)}
    return {name: kind for name, kind in named.items() if kind is not messages.Message and not name.startswith("_")}


def tag_of(kind: type[msgspec.Struct]) -> int | None:
    tag = kind.__struct_config__.tag
    return None if tag is None else int(str(tag))


def test_what_a_peer_says_that_it_can_do_is_explained() -> None:
    told, _, of_one_connection = PAGE.partition("**Capabilities** of version")[2].partition("A reference peer")
    assert of_one_connection and set(re.findall(r"`(\w+)`", told)) == {*CAPABILITIES}


def test_the_page_names_what_travels_and_nothing_else() -> None:
    assert tables().keys() == structs().keys()


@pytest.mark.parametrize("name", structs())
def test_tag_and_fields_in_order(name: str) -> None:
    """Dave writes a message from the page: he must not put a field in another's place."""
    kind = structs()[name]
    assert tables()[name] == (tag_of(kind), list(kind.__struct_fields__))


@pytest.mark.parametrize("name", structs())
def test_what_may_be_left_out(name: str) -> None:
    """A default is written as `= x` in the column of types."""
    kind, told = structs()[name], False
    for line in LINES:
        if line.startswith("|"):
            first, field, kinds = (*cells(line), "", "")[:3]
            told = first.startswith(f"**{name}**") or (told and not first)
            for one in re.findall(r"`(\w+)`", field) if told else ():
                assert ("= " in kinds) is not is_required(kind, one), one
        else:
            told = False


def is_required(kind: type[msgspec.Struct], name: str) -> bool:
    return next(field.required for field in msgspec.structs.fields(kind) if field.name == name)


def test_the_first_tables_give_each_message_its_tag_too() -> None:
    """Those that say who sends it: `| tag | message | kind | ...`."""
    rows = re.findall(r"^\| (\d+) \| (\w+) \| \w+", PAGE, re.MULTILINE)
    numbered = {name: tag_of(kind) for name, kind in structs().items()}
    assert {name: int(tag) for tag, name in rows} == {name: tag for name, tag in numbered.items() if tag is not None}


def told_limits() -> dict[str, float]:
    _, _, appendix = PAGE.partition("## Appendix: limits")
    pairs = re.findall(r"\| `(\w+)` \| ([\d.]+) \|", appendix)
    assert len(pairs) == len(dict(pairs)), "a limit stands twice"
    return {name: float(value) for name, value in pairs}


def test_the_limits_are_those_of_the_code() -> None:
    assert told_limits() == {name: float(value) for name, value in LIMITS.items()}


def test_the_limit_that_has_no_name() -> None:
    header = msgpack.packb([0, False, 0, [4] * (int(LIMITS["header_items"]) + 1)])
    with pytest.raises(PeerMisbehaved, match=r"exceeds.*1024"):
        decode([header])


def test_every_file_of_vectors_is_named() -> None:
    assert sorted(re.findall(r"\(vectors/(\w+)\.json\)", PAGE)) == sorted(vectors.FILES)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((vectors[^)]*)\)", PAGE):
        assert (vectors.FOLDER.parent / target).exists(), target


def test_lines_are_short() -> None:
    assert [line for line in LINES if len(line) > MAX_LINE] == []


def test_sections_are_those_that_are_referred_to() -> None:
    headings = set(re.findall(r"^##+ (\d+(?:\.\d+)?)", PAGE, re.MULTILINE))
    named: list[Any] = re.findall(r"[Ss]ections? (\d+(?:\.\d+)?)(?: (?:and|to) (\d+(?:\.\d+)?))?", PAGE)
    assert {one for pair in named for one in pair if one} <= headings
