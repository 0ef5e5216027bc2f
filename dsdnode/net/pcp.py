"""What is said to a home's router to be given one of its ports, to the byte: PCP (RFC 6887), NAT-PMP (RFC 6886). Pure.

Both come to the router's port 5351, and each tells the other's answers apart by the version in front.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import Enum

SERVER_PORT = 5351
ANNOUNCE_PORT, ANNOUNCE_GROUP = 5350, "224.0.0.1"
"""Where a router says that it has started."""
MAX_ANSWER_BYTES = 1100
"""Of any answer (RFC 6887, 7)."""
NONCE_BYTES = 12
_TCP = 6
_PCP_VERSION, _PMP_VERSION = 2, 0
_PCP_MAP = 1
_PMP_ADDRESS, _PMP_MAP_TCP = 0, 2
_ANSWER = 128
_OTHER_VERSION = 1
_OTHER_OPERATION = 4
"""A PCP result. (Of NAT-PMP, 4 is another one.)"""
_SWITCHED_OFF = "it maps no ports: switch on UPnP, NAT-PMP or PCP in its settings"
ANOTHER_ROUTER = "another router stands"
"""In the words for why there is no port: the provider's, most often."""
_PCP_REFUSALS = {
    2: _SWITCHED_OFF,
    8: "it has no port to give",
    11: "it cannot give such an address",
    12: f"{ANOTHER_ROUTER} between us and it",
    13: "it gives us no more ports",
}
_PMP_REFUSALS = {2: _SWITCHED_OFF, 3: "it has no outside address yet", 4: "it has no port to give"}


class Protocol(Enum):
    PCP = "PCP"
    PMP = "NAT-PMP"


@dataclass(frozen=True, slots=True)
class Answer:
    """`epoch_s`: how long the router has kept its mappings. `host`: "" where none is told, and so is `port` 0.

    `unspoken`: the router says that it does not know this protocol. `refusal`: why not, in words.
    """

    protocol: Protocol
    epoch_s: int = 0
    host: str = ""
    port: int = 0
    lifetime_s: int = 0
    is_map: bool = False
    unspoken: bool = False
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """For a TCP port of ours. `own_ip`: where the router sees us come from; `nonce`: what nobody can guess."""

    own_ip: str
    port: int
    nonce: bytes

    def pcp_map(self, lifetime_s: float, host: str, port: int) -> bytes:
        """`host` and `port`: those that we would like; a lifetime of 0 removes."""
        fields = (self.nonce, _TCP, self.port, port, _in_16_bytes(host))
        return _pcp_head(_PCP_MAP, lifetime_s, self.own_ip) + struct.pack(">12sB3xHH16s", *fields)

    def pmp_map(self, lifetime_s: float, port: int) -> bytes:
        return struct.pack(">BBHHHI", _PMP_VERSION, _PMP_MAP_TCP, 0, self.port, port, int(lifetime_s))

    def pcp_look(self) -> bytes:
        """Its clock alone (ANNOUNCE)."""
        return _pcp_head(0, 0.0, self.own_ip)

    def pmp_look(self) -> bytes:
        """Its outside address, and its clock."""
        return bytes((_PMP_VERSION, _PMP_ADDRESS))

    def read(self, data: bytes) -> Answer | None:
        """None: no answer to any of these, or not to ours."""
        if not 8 <= len(data) <= MAX_ANSWER_BYTES or data[1] < _ANSWER:
            return None
        if data[0] == _PCP_VERSION:
            return self._read_pcp(data)
        return self._read_pmp(data) if data[0] == _PMP_VERSION else None

    def _read_pcp(self, data: bytes) -> Answer | None:
        if len(data) < 24 or len(data) % 4:
            return None
        result, lifetime_s, epoch_s = struct.unpack(">BII", data[3:12])
        if data[1] == _ANSWER:
            return None if result else Answer(Protocol.PCP, epoch_s)
        if data[1] != _ANSWER + _PCP_MAP or len(data) < 60:
            return None
        nonce, protocol, inside, port, host = struct.unpack(">12sB3xHH16s", data[24:60])
        if (nonce, protocol, inside) != (self.nonce, _TCP, self.port):
            return None
        if result in (_OTHER_VERSION, _OTHER_OPERATION):
            return Answer(Protocol.PCP, epoch_s, is_map=True, unspoken=True)
        if result:
            refusal = _PCP_REFUSALS.get(result, f"it says no (PCP, result {result})")
            return Answer(Protocol.PCP, epoch_s, is_map=True, refusal=refusal)
        ip = ipaddress.IPv6Address(host)
        return Answer(Protocol.PCP, epoch_s, str(ip.ipv4_mapped or ip), port, lifetime_s, is_map=True)

    def _read_pmp(self, data: bytes) -> Answer | None:
        operation = data[1] - _ANSWER
        result, epoch_s = struct.unpack(">HI", data[2:8])
        if result == _OTHER_VERSION:
            return Answer(Protocol.PCP, epoch_s, unspoken=True)
        if operation not in (_PMP_ADDRESS, _PMP_MAP_TCP):
            return None
        is_map = operation == _PMP_MAP_TCP
        if result:
            refusal = _PMP_REFUSALS.get(result, f"it says no (NAT-PMP, result {result})")
            return Answer(Protocol.PMP, epoch_s, is_map=is_map, refusal=refusal)
        if not is_map:
            host = str(ipaddress.IPv4Address(data[8:12])) if len(data) == 12 else ""
            return Answer(Protocol.PMP, epoch_s, host) if host else None
        if len(data) != 16:
            return None
        inside, port, lifetime_s = struct.unpack(">HHI", data[8:16])
        return Answer(Protocol.PMP, epoch_s, "", port, lifetime_s, is_map=True) if inside == self.port else None


def has_started_again(before: tuple[float, float], now: tuple[float, float]) -> bool:
    """By its clock and ours (RFC 6887, 8.5), each time (epoch of the router, time of ours), in seconds."""
    theirs, ours = now[0] - before[0], now[1] - before[1]
    return theirs < -1 or ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16


def _pcp_head(operation: int, lifetime_s: float, own_ip: str) -> bytes:
    return struct.pack(">BBHI16s", _PCP_VERSION, operation, 0, int(lifetime_s), _in_16_bytes(own_ip))


def _in_16_bytes(host: str) -> bytes:
    ip = ipaddress.ip_address(host)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
