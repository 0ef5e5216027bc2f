"""Alice's own firewall, as nftables tells it: does bob get in at her port, of whom she has never heard?"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dsdnode.doctor import firewall
from dsdnode.doctor.firewall import MAX_JUMPS, legacy_shuts_out, shuts_out

PORT = 29170
ACCEPT, DROP = {"accept": None}, {"drop": None}
COUNTER = {"counter": {"packets": 0, "bytes": 0}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def dport(right: Any, protocol: str = "tcp", op: str = "==") -> dict[str, Any]:
    return match({"payload": {"protocol": protocol, "field": "dport"}}, right, op)


def meta(key: str, right: Any) -> dict[str, Any]:
    return match({"meta": {"key": key}}, right)


def state(*words: str) -> dict[str, Any]:
    return match({"ct": {"key": "state"}}, list(words), "in")


def module(name: str) -> dict[str, Any]:
    return {"xt": {"type": "match", "name": name}}


def ruleset(*rules: list[Any], policy: str = "drop", more: dict[str, list[list[Any]]] | None = None) -> str:
    """Of one chain that all pass, and of others that it may lead to."""
    of = {"family": "inet", "table": "home"}
    listed: list[Any] = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "home"}}]
    listed.append({"chain": {**of, "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": policy}})
    for name, inner in {"input": list(rules), **(more or {})}.items():
        listed += [{"chain": {**of, "name": name}}] if name != "input" else []
        listed += [{"rule": {**of, "chain": name, "expr": expression}} for expression in inner]
    return json.dumps({"nftables": listed})


USUAL = [
    [state("established", "related"), ACCEPT],
    [meta("iifname", "lo"), ACCEPT],
    [meta("l4proto", "ipv6-icmp"), ACCEPT],
    [match({"payload": {"protocol": "ip", "field": "saddr"}}, {"prefix": {"addr": "192.168.0.0", "len": 16}}), ACCEPT],
    [dport(PORT, "udp"), ACCEPT],
    [dport(22), COUNTER, ACCEPT],
]
JUMP = [{"jump": {"target": "more"}}]


@pytest.mark.parametrize(
    ("rules", "shuts"),
    [
        (ruleset(*USUAL), True),
        (ruleset(*USUAL, policy="accept"), False),
        (ruleset(*USUAL, [DROP], policy="accept"), True),
        (ruleset(*USUAL, [{"reject": {"type": "icmpx"}}], policy="accept"), True),
        (ruleset(*USUAL, [dport(PORT), COUNTER, ACCEPT]), False),
        (ruleset(*USUAL, [state("new"), dport({"set": [22, {"range": [29000, 30000]}]}), ACCEPT]), False),
        (ruleset(*USUAL, [dport({"set": [22, {"range": [30000, 31000]}]}), ACCEPT]), True),
        (ruleset(*USUAL, [meta("l4proto", {"set": ["tcp", "udp"]}), dport(PORT, "th"), ACCEPT]), False),
        (ruleset(*USUAL, [dport(22, op="!="), ACCEPT]), False),
        (ruleset([dport(PORT), DROP], [ACCEPT]), True),
        (ruleset(*USUAL, JUMP, more={"more": [[dport(PORT), ACCEPT]]}), False),
        (
            ruleset(*USUAL, JUMP, more={"more": [[module("addrtype"), {"return": None}], [DROP]]}, policy="accept"),
            False,
        ),
        (ruleset([module("conntrack"), ACCEPT], JUMP, more={"more": [[dport(22), ACCEPT]]}), True),
        (ruleset(*USUAL, [module("multiport"), ACCEPT]), None),
        (ruleset(*USUAL, [dport("@open"), ACCEPT]), None),
        (ruleset(*USUAL, [meta("iifname", "eth1"), ACCEPT]), None),
        (ruleset(JUMP, more={"more": [JUMP]}), True),
        (json.dumps({"nftables": []}), False),
        ("", None),
        ('{"nftables": [{"chain": 1}]}', None),
        ("[" * 100_000, None),
    ],
)
def test_who_is_let_in(rules: str, shuts: bool | None) -> None:
    assert shuts_out(rules, PORT) is shuts


def test_chains_that_lead_to_one_another_twice_each_take_no_time() -> None:
    assert shuts_out(ruleset(JUMP, more={"more": 9 * [JUMP]}), PORT) is None


def test_chains_that_lead_round_in_a_circle_end() -> None:
    circle = {"more": [JUMP], **{f"more{i}": [JUMP] for i in range(MAX_JUMPS)}}
    assert shuts_out(ruleset(JUMP, JUMP, more=circle, policy="accept"), PORT) is False


INPUT = "-P INPUT DROP\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-N guard\n"
ANSWERS = "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"


@pytest.mark.parametrize(
    ("listing", "shuts"),
    [
        ("-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n", False),
        (INPUT + ANSWERS, True),
        (INPUT + ANSWERS + "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n", True),
        (INPUT + ANSWERS + f"-A INPUT -p tcp -m tcp --dport {PORT} -j ACCEPT\n", False),
        (INPUT + f"-A INPUT -p udp -m udp --dport {PORT} -j ACCEPT\n", True),
        (INPUT + f"-A INPUT -p tcp -m multiport --dports 80,443,{PORT - 5}:{PORT + 5} -j ACCEPT\n", False),
        (INPUT + f"-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport {PORT} -j ACCEPT\n", True),
        (
            INPUT + f"-A INPUT -j guard\n-A guard -p tcp -m tcp --dport {PORT} -m comment --comment 'a b' -j ACCEPT\n",
            False,
        ),
        ("-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with icmp-port-unreachable\n", True),
        (f"-P INPUT ACCEPT\n-A INPUT -p tcp -m tcp ! --dport {PORT} -j DROP\n", False),
        (INPUT + "-A INPUT -p tcp -m recent --rcheck --name knock -j ACCEPT\n", None),
        ("-P INPUT DROP\n-A INPUT -p tcp --dport bob -j ACCEPT\n", None),
        ("# Warning: what is this\n", None),
    ],
)
def test_rules_of_the_older_iptables_are_read_alike(listing: str, shuts: bool | None) -> None:
    assert legacy_shuts_out(listing, "ip", PORT) is shuts


def test_a_comment_that_is_no_text_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alice wrote it on another terminal, long ago."""
    nft, rules = tmp_path / "nft", ruleset([COUNTER]).replace('"expr"', '"comment": "café", "expr"')
    nft.write_bytes(b"#!/bin/sh\necho '" + rules.encode("latin-1") + b"'\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(firewall, "LEGACY", ())
    assert firewall.look(PORT).shuts
