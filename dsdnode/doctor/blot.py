"""Findings that may be posted: what tells who or where somebody is stands as a word and a number, the same each time.

What means something in one house alone stays as it is: every house has a 192.168.1.2, and it says what is wrong. Pure.
"""

from __future__ import annotations

import ipaddress
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
    r"(lo|eth|en|wl|ww|usb|tun|tap|utun|docker|veth|virbr|br|wg|ppp|bridge)"
    r"([a-z]{0,2}\d{1,8}|[ops]\d{1,8}([a-z]{1,2}\d{1,4})*|-[0-9a-f]+)?"
)
"""Names that systems give to interfaces; others are people's own, or have a card's number (enx00e04c680001)."""
_WORD = re.compile(r"[A-Za-z]+")
_PLACES = (
    r"(?<=tcp://){0}(?![\w.-])",
    r"(?<![\w.-]){0}(?=:\d)",
    r"(?<=host called ){0}(?=\.)",
    r"(?<=The machine at ){0}(?= )",
    r"(?<=The name ){0}(?= )",
    r"(?<=where ){0}(?= is)",
    r"(?<![\w.-]){0}(?= cannot be found| leads to an address)",
)
"""Where a host stands that is called by a word: a machine called `node` is not every node."""
_OWN_NETWORKS = ipaddress.ip_network("fc00::/7")
"""Of houses, and each has drawn another one by chance (RFC 4193): it says which house it is."""


class Blotter:
    def __init__(self, literal: Mapping[str, str], hosts: Mapping[str, str]) -> None:
        """`literal`: texts, and what stands for each wherever it is a word of its own; `hosts`: by names, the same."""
        words = {host: word for host, word in hosts.items() if _WORD.fullmatch(host)}
        everywhere = {**hosts, **literal}
        texts = sorted((text for text in everywhere if text and text not in words), key=lambda text: -len(text))
        self._patterns = [(re.compile(rf"(?<!\w){re.escape(text)}(?!\w)"), everywhere[text]) for text in texts]
        for host, word in words.items():
            self._patterns.append((re.compile("|".join(_PLACES).replace("{0}", host)), word))
        self._known: dict[str, str] = {}
        self._num: dict[str, int] = {}

    def blot(self, found: Iterable[Finding]) -> Iterator[Finding]:
        for one in found:
            yield msgspec.structs.replace(one, says=self.text(one.says), step=self.text(one.step))

    def text(self, text: str) -> str:
        for literal, word in self._patterns:
            text = literal.sub(word, text)
        text = _KEY.sub(lambda match: self._as("key", match[0].lower()), text)
        for pattern in (_IPV6, _IPV4):
            text = pattern.sub(lambda match: self._ip(match[0]), text)
        return _HOST.sub(lambda match: self._host(match[0]), text)

    def _ip(self, text: str) -> str:
        tells = is_ip(text) and (nearness(text) is Nearness.WORLD or _is_one_house_s(ipaddress.ip_address(text)))
        return self._as("address", text) if tells else text

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


def _is_one_house_s(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Does it tell which house it is of, or which card (EUI-64: its number, ff:fe in the middle)?"""
    return ip.version == 6 and (ip in _OWN_NETWORKS or ip.packed[11:13] == b"\xff\xfe")


def blotter_of(facts: Facts, home: str) -> Blotter:
    """`home`: the user's folder."""
    own, models = home.rstrip("/"), [PurePath(model.path) for model in facts.files.models]
    above = [one for path in (PurePath(facts.files.data_dir), *models) for one in path.parents if len(one.parts) > 2]
    literal = {str(one): "FOLDER" for one in above if not (own and one.is_relative_to(own))}
    literal |= {str(path.parent): "MODEL_FOLDER" for path in models if path.is_absolute()}
    literal |= {home.rstrip("/"): "~", facts.files.data_dir: "DATA_DIR"}
    literal |= {model.path: "MODEL" for model in facts.files.models}
    named = [one.address for member in facts.members for one in member.tried]
    hosts = dict.fromkeys(parse_address(address)[0] for address in (*named, *facts.listening.advertise))
    names = [one.name for one in facts.machine.interfaces if not _USUAL.fullmatch(one.name)]
    literal |= {name: f"interface-{number}" for number, name in enumerate(names, 1)}
    literal = {text: word for text, word in literal.items() if text not in ("", "/", ".")}
    return Blotter(literal, {host: f"host-{number}" for number, host in enumerate(hosts, 1) if not is_ip(host)})
