"""What people and strangers write where an address is due."""

from __future__ import annotations

import pytest

from dsdnode.addresses import Nearness, check_reachable, is_ip, may_name, nearness, network, parse_address, read_host
from dsdnode.config import parse_listen
from dsdnode.errors import BadInput
from dsdnode.wire.joins import parse_join

KEY = "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
HERE, CABLE, HOUSE, WORLD = Nearness


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", HERE),
        ("127.9.9.9", HERE),
        ("::1", HERE),
        ("::ffff:127.0.0.1", HERE),
        ("64:ff9b::7f00:1", HERE),
        ("2002:7f00:1::", HERE),
        ("localhost", HERE),
        ("a.LOCALHOST.", HERE),
        ("169.254.169.254", CABLE),
        ("::ffff:a9fe:a9fe", CABLE),
        ("fe80::1", CABLE),
        ("10.1.2.3", HOUSE),
        ("192.168.1.1", HOUSE),
        ("100.64.0.1", HOUSE),
        ("fd00::1", HOUSE),
        ("fec0::1", HOUSE),
        ("printer", HOUSE),
        ("my_box", HOUSE),
        ("nas.local", HOUSE),
        ("8.8.8.8", WORLD),
        ("2606:4700::1111", WORLD),
        ("64:ff9b::8.8.8.8", WORLD),
        ("example.org.", WORLD),
        ("0.0.0.0", None),
        ("0.1.2.3", None),
        ("::", None),
        ("224.0.0.1", None),
        ("255.255.255.255", None),
        ("240.1.1.1", None),
        ("ff02::1", None),
        ("::ffff:224.0.0.1", None),
    ],
)
def test_where_an_address_leads_to(host: str, near: Nearness | None) -> None:
    assert nearness(host) is near


@pytest.mark.parametrize("teacher", Nearness)
@pytest.mark.parametrize(
    ("host", "least"),
    [
        ("127.0.0.1", HERE),
        ("[::ffff:7f00:1]", HERE),
        ("169.254.169.254", CABLE),
        ("10.0.0.7", HOUSE),
        ("8.8.8.8", WORLD),
    ],
)
def test_nobody_names_what_is_nearer_than_himself(teacher: Nearness, host: str, least: Nearness) -> None:
    assert may_name(teacher, f"tcp://{host}:29170") == (teacher <= least)


@pytest.mark.parametrize("address", ["tcp://8.8.8.8:22", "tcp://example.org:1023", "tcp://0.0.0.0:5000", "nonsense"])
def test_nobody_names_a_machine_s_services_or_no_machine(address: str) -> None:
    assert not any(may_name(teacher, address) for teacher in Nearness)


def test_networks() -> None:
    assert network("8.8.8.8") == network("8.8.8.200") == network("::ffff:8.8.8.1") == "8.8.8.0/24"
    assert network("2606:4700:0:1::1") == "2606:4700::/56"
    assert network("a.b.Example.org.") == "example.org"
    assert [network(host) for host in ("127.0.0.1", "10.0.0.1", "my_box", "fe80::1")] == [None] * 4


@pytest.mark.parametrize("host", ["my_box", "_dmarc.example.org", "example.org.", "UPPER.Example.ORG", "a-b", "x1"])
def test_names_that_machines_have(host: str) -> None:
    assert parse_address(f"tcp://{host}:29170") == (host, 29170)
    assert parse_join(f"dsd://{host}:29170/{KEY}").addresses == (f"tcp://{host.lower()}:29170",)
    assert not is_ip(host)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.1", "neither an IP address nor a name"),
        ("2130706433", "neither an IP address nor a name"),
        ("0x7f000001", "neither an IP address nor a name"),
        ("300.1.1.1", "neither an IP address nor a name"),
        ("a..b", "no name of a host"),
        ("x" * 70 + ".org", "no name of a host"),
        ("[fe80::1%eth0]", "zone"),
        ("[fe80::1%25eth0]", "zone"),
        ("[::zz]", "IPv6|permitted|Only"),
        ("-a", "HOST:PORT"),
        ("a b", "HOST:PORT"),
    ],
)
def test_what_is_no_host_is_said_so(host: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_address(f"tcp://{host}:29170")
    for parse, text in ((parse_listen, f"{host}:29170"), (parse_join, f"dsd://{host}:29170/{KEY}")):
        with pytest.raises(BadInput):
            parse(text)


@pytest.mark.parametrize(
    ("written", "dialled"),
    [
        ("Bücher.example", "xn--bcher-kva.example"),
        ("例え.JP", "xn--r8jz45g.jp"),
        ("straße.de.", "strasse.de."),
    ],
)
def test_names_in_other_letters_are_written_in_ascii(written: str, dialled: str) -> None:
    assert read_host(written) == dialled
    assert parse_join(f"DSD://{written}:29170/{KEY.upper()}") == parse_join(f"dsd://{dialled}:29170/{KEY}")
    assert parse_listen(f"TCP://{written}:1") == f"tcp://{dialled}:1"


def test_a_name_that_cannot_be_written_so_is_refused() -> None:
    for host in ("ü" * 64 + ".example", "a\u2024.\u2024b.example"):
        with pytest.raises(BadInput, match="address"):
            parse_join(f"dsd://{host}:29170/{KEY}")


@pytest.mark.parametrize("host", ["0.0.0.0", "255.255.255.255", "224.0.0.251", "[ff02::1]", "[::]", "240.0.0.1"])
def test_nobody_is_joined_where_no_single_machine_is(host: str) -> None:
    with pytest.raises(BadInput, match="not the address of one machine"):
        parse_join(f"dsd://{host}:29170/{KEY}")
    with pytest.raises(ValueError, match="not the address of one machine"):
        check_reachable(f"tcp://{host}:29170")
