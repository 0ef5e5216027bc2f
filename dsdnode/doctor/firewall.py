"""This machine's own firewall: does it let a stranger in at our port? As far as can be seen, which takes root.

nftables' rules are read, which is also what ufw, firewalld and today's iptables make of theirs; and those of the older
iptables, where the kernel has any. Whom a rule names by address is no stranger; what else it asks may not be understood
here, and then it cannot be told.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from dsdnode.doctor.facts import Firewall
from dsdnode.doctor.legacy import as_nft

NFT_S = 2.0
MAX_RULES_BYTES = 8 << 20
MAX_RULES = 20_000
"""That are looked at, each as often as a chain leads to it."""
MAX_JUMPS = 16
"""From chain to chain; nftables allows as many."""
LEGACY = (
    (Path("/proc/net/ip_tables_names"), "iptables-legacy", "ip"),
    (Path("/proc/net/ip6_tables_names"), "ip6tables-legacy", "ip6"),
)
"""Where the kernel names the tables of the older iptables that it has, and what lists their rules."""
UFW = Path("/etc/ufw/ufw.conf")
_ENDS = {"accept": False, "drop": True, "reject": True}
_VERDICTS = (*_ENDS, "jump", "goto", "return", "vmap")

Chain = tuple[str, str, str]
"""Family, table and name."""
Json = Mapping[str, Any]


def look(port: int) -> Firewall:
    """Takes seconds at most."""
    listed = _list("nft", "-j", "list", "ruleset")
    said = [None if listed is None else shuts_out(listed, port)]
    for names, tool, family in LEGACY:
        with suppress(OSError):  # asking it where there are none would load it into the kernel
            if "filter" in names.read_text().split():
                listed = _list(tool, "-S")
                said.append(None if listed is None else legacy_shuts_out(listed, family, port))
    return Firewall(_tool(), True if True in said else None if None in said else False)


def _list(tool: str, *words: str) -> str | None:
    """What it prints; None: it is not there, or cannot."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    with suppress(OSError, subprocess.SubprocessError):
        found = shutil.which(tool, path=path) or tool
        done = subprocess.run([found, *words], capture_output=True, text=True, errors="replace", timeout=NFT_S)
        return None if done.returncode else done.stdout
    return None


def legacy_shuts_out(listing: str, family: str, port: int) -> bool | None:
    """The same, by what `iptables-legacy -S` says. Pure."""
    try:
        return shuts_out(json.dumps({"nftables": as_nft(listing[:MAX_RULES_BYTES], family)}), port)
    except ValueError:
        return None


def _tool() -> str:
    with suppress(OSError, UnicodeDecodeError):
        if "ENABLED=yes" in UFW.read_text().split():
            return "ufw"
    with suppress(psutil.Error):
        if any(process.info["name"] == "firewalld" for process in psutil.process_iter(["name"])):
            return "firewalld"
    return ""


def shuts_out(ruleset: str, port: int) -> bool | None:
    """Is somebody kept out who calls `port` from elsewhere, by what `nft -j list ruleset` says? None: that cannot be
    told. Pure."""
    try:
        if len(ruleset) > MAX_RULES_BYTES:
            return None
        found = json.loads(ruleset)["nftables"]
        chains: dict[Chain, Json] = {_key(one["chain"], "name"): one["chain"] for one in found if "chain" in one}
        rules: dict[Chain, list[Json]] = {}
        for one in found:
            if "rule" in one:
                rules.setdefault(_key(one["rule"], "chain"), []).append(one["rule"])
        inputs = [key for key, chain in chains.items() if chain.get("hook") == "input" and chain["type"] == "filter"]
        said = [_Reading(rules, port).of(key, chains[key].get("policy") == "drop") for key in inputs]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return True if True in said else None if None in said else False


def _key(one: Json, name: str) -> Chain:
    return str(one["family"]), str(one["table"]), str(one[name])


class _Reading:
    """Of one chain that all packets to this machine pass, and of those that it leads to."""

    def __init__(self, rules: Mapping[Chain, Sequence[Json]], port: int) -> None:
        self._rules = rules
        self._port = port
        self._num = 0
        self._perhaps = False
        """There are rules that let somebody in, and are not understood."""

    def of(self, chain: Chain, policy: bool) -> bool | None:
        """Does it shut him out? `policy`: does it shut out whom no rule is about? None: perhaps."""
        said = self._verdict(chain, MAX_JUMPS)
        shuts = policy if said is None else said
        return None if shuts and self._perhaps else shuts

    def _verdict(self, chain: Chain, jumps: int) -> bool | None:
        """None: it does not say, or there are too many jumps."""
        if chain[0] not in ("inet", "ip", "ip6") or not jumps:
            return None
        for rule in self._rules.get(chain, ()):
            self._num += 1
            if self._num > MAX_RULES:
                raise ValueError("chains that lead to one another without end")
            is_met = _is_met(rule["expr"], self._port)
            word, told = _last_word(rule["expr"])
            if is_met is False or not word:
                continue
            if word in ("jump", "goto"):
                said = self._verdict((*chain[:2], str(told["target"])), jumps - 1)
                if said is not None or (word == "goto" and is_met):
                    return said
            elif word == "return":
                return None
            elif is_met and word in _ENDS:
                return _ENDS[word]
            elif word in ("accept", "vmap"):
                self._perhaps = True
        return None


def _last_word(expression: Sequence[Json]) -> tuple[str, Any]:
    """What becomes of a packet that meets the rule, and where it goes on ("": it only counts, say)."""
    return next((item for one in expression for item in one.items() if item[0] in _VERDICTS), ("", None))


def _is_met(expression: Sequence[Json], port: int) -> bool | None:
    """By the first packet of a stranger's connection to `port`. None: perhaps."""
    met = [_is_matched(one["match"], port) for one in expression if "match" in one]
    modules = [one["xt"].get("name") for one in expression if "xt" in one and one["xt"].get("type") == "match"]
    met += [False if name == "conntrack" else None for name in modules]  # nearly always about what was begun before
    return False if False in met else None if None in met else True


def _is_matched(match: Json, port: int) -> bool | None:
    left, right, negated = match["left"], match["right"], match["op"] == "!="
    said = _is_in(left, right, port)
    return said if said is None or not negated else not said


def _is_in(left: Json, right: Any, port: int) -> bool | None:
    payload, meta = left.get("payload"), left.get("meta", {}).get("key")
    if payload is not None and payload.get("field") in ("dport", "sport"):
        if payload["protocol"] not in ("tcp", "th"):
            return False
        return _has(right, port) if payload["field"] == "dport" else None
    if payload is not None and payload.get("field") in ("saddr", "daddr"):
        return bool(payload["field"] == "daddr")  # somebody's own rule for somebody whom he knows
    if "ct" in left:
        return bool(left["ct"].get("key") == "state" and "new" in _words(right))
    if meta in ("iifname", "iif"):
        return False if _words(right) == ["lo"] else None
    if meta == "l4proto" or (payload is not None and payload.get("field") in ("protocol", "nexthdr")):
        return bool({"tcp", "6"} & set(_words(right)))
    return None


def _has(right: Any, port: int) -> bool | None:
    """`right`: a port, a range, a set of both, or the name of a set."""
    if isinstance(right, str):
        return None
    if isinstance(right, Mapping) and "range" in right:
        return bool(right["range"][0] <= port <= right["range"][1])
    if isinstance(right, Mapping):
        said = [_has(one, port) for one in right["set"]]
        return True if True in said else None if None in said else False
    return bool(right == port)


def _words(right: Any) -> list[str]:
    if isinstance(right, Mapping):
        right = right.get("set", [])
    return [str(one) for one in right] if isinstance(right, list) else [str(right)]
