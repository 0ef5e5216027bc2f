"""Findings that may be posted: what tells who or where somebody is stands as a word and a number, the same each time.

What means something in one house alone stays as it is: every house has a 192.168.1.2, and it says what is wrong. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath

import msgspec

from dsdnode.addresses import Nearness, is_ip, nearness, parse_address
from dsdnode.doctor.facts import Facts
from dsdnode.doctor.finding import Finding

_KEY = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{12,64}(?![0-9A-Za-z])")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:)[0-9a-fA-F:.]+[0-9a-fA-F:](?!\w)")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\w)")
_HOST = re.compile(r"(?<=tcp://)[A-Za-z0-9_][A-Za-z0-9_.-]*(?=:)")
_USUAL = re.compile(
    r"(lo|eth|en|wl|ww|usb|tun|tap|utun|docker|veth|virbr|br|wg|ppp|bridge)([a-z]{0,2}\d+|[opsx]\w+|-[0-9a-f]+)?"
)
"""Names that systems give to interfaces; others are people's own."""


class Blotter:
    def __init__(self, literal: Mapping[str, str]) -> None:
        """`literal`: texts, and what stands for each wherever it is a word of its own."""
        self._literal = sorted(((text, word) for text, word in literal.items() if text), key=lambda one: -len(one[0]))
        self._known: dict[str, str] = {}
        self._num: dict[str, int] = {}

    def blot(self, found: Iterable[Finding]) -> Iterator[Finding]:
        for one in found:
            yield msgspec.structs.replace(one, says=self.text(one.says), step=self.text(one.step))

    def text(self, text: str) -> str:
        for literal, word in self._literal:
            text = re.sub(rf"(?<!\w){re.escape(literal)}(?!\w)", lambda _, word=word: word, text)  # type: ignore[misc]
        text = _KEY.sub(lambda match: self._as("key", match[0].lower()), text)
        for pattern in (_IPV6, _IPV4):
            text = pattern.sub(lambda match: self._ip(match[0]), text)
        return _HOST.sub(lambda match: self._host(match[0]), text)

    def _ip(self, text: str) -> str:
        return self._as("address", text) if is_ip(text) and nearness(text) is Nearness.WORLD else text

    def _host(self, text: str) -> str:
        """In an address that somebody else has told."""
        blotted = is_ip(text) or re.fullmatch(r"(host|address)-\d+", text)
        return text if blotted else self._as("other-host", text.lower())

    def _as(self, kind: str, text: str) -> str:
        """A key is told by its beginning, too."""
        name = text[:12] if kind == "key" else text
        if name not in self._known:
            self._num[kind] = self._num.get(kind, 0) + 1
            self._known[name] = f"{kind}-{self._num[kind]}"
        return self._known[name]


def blotter_of(facts: Facts, home: str) -> Blotter:
    """`home`: the user's folder."""
    literal = {home: "~", facts.files.data_dir: "DATA_DIR"}
    for model in facts.files.models:
        literal |= {model.path: "MODEL", str(PurePath(model.path).parent): "MODEL_FOLDER"}
    named = [one.address for member in facts.members for one in member.tried]
    hosts = dict.fromkeys(parse_address(address)[0] for address in (*named, *facts.listening.advertise))
    literal |= {host: f"host-{number}" for number, host in enumerate(hosts, 1) if not is_ip(host)}
    names = [one.name for one in facts.machine.interfaces if not _USUAL.fullmatch(one.name)]
    literal |= {name: f"interface-{number}" for number, name in enumerate(names, 1)}
    return Blotter(literal)
