"""docs/protocol.md, section 15, names every frame with its tag and fields, and the limits that the code has."""

from __future__ import annotations

import re
from dataclasses import asdict

from dsdnode.net.relay.book import Limits
from dsdnode.net.relay.frames import Frame
from tests.node.mutation import ROOT

PAGE = (ROOT / "docs" / "protocol.md").read_text().partition("## 15. Relays")[2].partition("## Appendix")[0]
FRAMES, _, LIMITS = PAGE.partition("### 15.2")


def test_frames_have_their_tags_and_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|([^|]*)\|", FRAMES, re.MULTILINE)
    told = {name: (int(tag), tuple(re.findall(r"`(\w+)`", fields))) for name, tag, fields in rows}
    assert told == {
        kind.__name__.lower(): (kind.__struct_config__.tag, kind.__struct_fields__) for kind in Frame.__subclasses__()
    }


def test_the_limits_are_those_of_the_code() -> None:
    told = {name: float(value) for name, value in re.findall(r"\| `(\w+)` \| (\d+) (?=\|)", LIMITS)}
    assert told == asdict(Limits())
