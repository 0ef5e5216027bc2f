"""The rules of the older iptables (iptables-legacy), which nftables does not list, in the words of `nft -j`. Pure.

What `iptables-legacy -S` prints is read: a policy, a chain or a rule a line. A rule that asks what is not known here is
one that a stranger may meet, or not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]
TABLE = "legacy filter"
_ENDS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}
_QUIET = "-m", "--comment", "--reject-with", "--log-prefix", "--log-level"
"""Words that ask nothing."""


def as_nft(listing: str, family: str) -> list[Json]:
    """Chains and rules. Raises ValueError for what is no such listing."""
    found: list[Json] = []
    for line in listing.splitlines():
        words = shlex.split(line)
        if not words:
            continue
        what, *rest = words
        if what == "-P" and len(rest) >= 2:
            hook = {"hook": "input", "type": "filter"} if rest[0] == "INPUT" else {}
            found.append({"chain": _named(family, name=rest[0], policy=rest[1].lower(), **hook)})
        elif what == "-N" and rest:
            found.append({"chain": _named(family, name=rest[0])})
        elif what == "-A" and rest:
            found.append({"rule": _named(family, chain=rest[0], expr=list(_expression(rest[1:])))})
        else:
            raise ValueError(f"no line of a listing: {line[:40]!r}")
    return found


def _named(family: str, **more: Any) -> Json:
    return {"family": family, "table": TABLE, **more}


def _expression(words: list[str]) -> Iterator[Json]:
    """Of one rule, in its order."""
    negated, rest = False, list(words)
    while rest:
        word = rest.pop(0)
        if word == "!":
            negated = True
            continue
        value = rest.pop(0) if rest and not (rest[0].startswith("-") or rest[0] == "!") else ""
        if word in ("-j", "-g", "--jump", "--goto"):
            yield _target(value, "goto" if word in ("-g", "--goto") else "jump")
        elif word not in _QUIET:
            yield {"match": {"op": "!=" if negated else "==", **_match(word, value)}}
        negated = False


def _target(name: str, how: str) -> Json:
    if name in _ENDS:
        return {_ENDS[name]: None}
    return {"counter": None} if name in ("LOG", "NFLOG", "") else {how: {"target": name}}


def _match(word: str, value: str) -> Json:
    if word in ("--dport", "--dports", "--destination-port", "--destination-ports"):
        return {"left": {"payload": {"protocol": "th", "field": "dport"}}, "right": _ports(value)}
    if word in ("-s", "--source"):
        return {"left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": value}
    if word in ("-d", "--destination"):
        return {"left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": value}
    if word in ("-i", "--in-interface"):
        return {"left": {"meta": {"key": "iifname"}}, "right": value}
    if word in ("-p", "--protocol"):
        return {"left": {"meta": {"key": "l4proto"}}, "right": value}
    if word in ("--state", "--ctstate"):
        return {"left": {"ct": {"key": "state"}}, "right": value.lower().split(",")}
    return {"left": {word: value}, "right": value}


def _ports(value: str) -> Json:
    """Raises ValueError."""
    found: list[Any] = []
    for one in value.split(","):
        first, colon, last = one.partition(":")
        found.append({"range": [int(first or 0), int(last or 65535)]} if colon else int(one))
    return {"set": found}
