"""What the doctor makes of the facts: alice's machine is well, and then one thing of it is not."""

from __future__ import annotations

import msgspec
import pytest

from dsdnode.doctor.facts import Answer, Facts, Files, Firewall, Interface, Listening, Machine, Member, ModelFile, Tried
from dsdnode.doctor.finding import Finding, Level
from dsdnode.doctor.findings import findings
from dsdnode.net.handshake import KEY_NEEDED, NO_KEY_HERE, WRONG_KEY
from dsdnode.swarm.info import AddressInfo, ReachInfo

KEY = "3b" * 32
JOIN = f"dsd://11.1.1.10:29170/{KEY}"
OWN, PUBLIC, AT_RELAY = "tcp://192.168.1.10:29170", "tcp://11.7.7.7:29170", "tcp://11.1.1.10:40001"
replace = msgspec.structs.replace
MACHINE = Machine(
    interfaces=(Interface("eth0", True, ("192.168.1.10",)),),
    route_v4="192.168.1.10",
    gateway="192.168.1.1",
    firewall=Firewall(shuts=False),
    clock_set=True,
    descriptors=4096,
    free_memory_bytes=8 << 30,
)
REACH = ReachInfo(
    addresses=(AddressInfo(OWN, False), AddressInfo(PUBLIC, True)),
    is_known=True,
    is_far=True,
    seen_at=("11.7.7.7",),
    num_peers=3,
    num_able=1,
)
BOB = Member(JOIN, KEY, tried=(Tried("tcp://11.1.1.10:29170", Answer.OPEN),), greeted=True)
WELL = Facts(
    running=False,
    listening=Listening("tcp://[::]:29170"),
    machine=MACHINE,
    files=Files("/home/alice/data", free_bytes=8 << 30, models=(ModelFile("shard", "/models/big.gguf", 4 << 30),)),
    reach=REACH,
    members=(BOB,),
)
CUT_OFF = replace(REACH, addresses=(AddressInfo(OWN, False),), is_cut_off=True, why_no_port="no router answers")


def unjoined(answer: Answer, address: str = "tcp://11.1.1.10:29170", trouble: str = "", **more: object) -> Facts:
    bob = Member(JOIN, KEY, tried=(Tried(address, answer),), trouble=trouble)
    return replace(WELL, members=(bob,), **more)


def machine(**other: object) -> Machine:
    return replace(MACHINE, **other)


def worst(facts: Facts) -> Finding:
    return findings(facts)[0]


def test_where_all_is_well_nothing_is_to_be_done_and_everything_is_told() -> None:
    found = findings(WELL)
    assert {one.level for one in found} == {Level.FINE} and not any(one.step for one in found)
    said = " ".join(one.says for one in found)
    assert {one.kind for one in found} >= {"node", "route", "interface", "join", "reached", "port-mapped", "data-dir"}
    assert PUBLIC in said and "11.7.7.7" in said


IPV6_ONLY = Member(JOIN, KEY, tried=(Tried("tcp://[2a11:1::1]:29170", Answer.NO_WAY),))
RUNNING = replace(WELL, running=True)
BROKEN: list[tuple[str, Facts, tuple[str, ...]]] = [
    ("no-network", replace(WELL, machine=machine(interfaces=(), route_v4="")), ("Connect it",)),
    ("no-route", replace(WELL, machine=machine(route_v4=""), members=()), ("default route",)),
    ("join-refused", unjoined(Answer.REFUSED), ("11.1.1.10", "29170", "Is its node running")),
    ("join-silent", unjoined(Answer.SILENT), ("Nothing comes back", "another member")),
    ("join-name", unjoined(Answer.UNKNOWN_NAME, "tcp://bob.example:29170"), ("bob.example", "typing error")),
    ("resolver", unjoined(Answer.NO_RESOLVER, "tcp://bob.example:29170"), ("name server", "/etc/resolv.conf")),
    ("join-family", replace(WELL, members=(IPV6_ONLY,)), ("IPv6", "an IPv4 address")),
    ("join-no-way", unjoined(Answer.NO_WAY), ("No way leads",)),
    ("join-swarm-key", unjoined(Answer.OPEN, trouble=f"tcp://11.1.1.10:29170 refused: {WRONG_KEY}"), ("Compare",)),
    ("join-swarm-key", unjoined(Answer.OPEN, trouble=f"refused: {KEY_NEEDED}"), ("Ask a member for the key",)),
    ("join-swarm-key", unjoined(Answer.OPEN, trouble=f"refused: {NO_KEY_HERE}"), ("Leave --swarm-key",)),
    ("join-key", unjoined(Answer.OPEN, trouble="it does not have the key 3b3b"), ("join string of today",)),
    ("join-version", unjoined(Answer.OPEN, trouble="protocol version 3 meets version 4: ..."), ("Update the older",)),
    ("join-greeting", unjoined(Answer.OPEN), ("does not answer the greeting",)),
    ("join-greeting", unjoined(Answer.OPEN, trouble="no name server has said where monkey.example is"), ("Try again",)),
    ("join-lost", replace(WELL, members=(replace(BOB, greeted=False, named=False),)), ("join string",)),
    ("unreached", replace(WELL, reach=CUT_OFF), ("pass TCP port 29170 on to 192.168.1.10", "of 1 that could")),
    ("unreached", replace(WELL, reach=replace(CUT_OFF, num_able=0)), ("No relay is found: none of the peers",)),
    ("twin", replace(WELL, reach=replace(REACH, twin="tcp://11.3.3.3:1")), ("11.3.3.3", "--identity")),
    (
        "port-in-use",
        replace(WELL, reach=None, listening=Listening("tcp://[::]:29170", (), "port 29170 is in use", "x")),
        ("x", "--listen"),
    ),
    ("listen", replace(WELL, reach=None, listening=Listening("tcp://11.9.9.9:1", (), "no such address")), ("no such",)),
    ("data-dir", replace(WELL, files=Files("/x", "the data dir /x is another user's")), ("another user's",)),
    ("disk", replace(WELL, files=Files("/x", free_bytes=1 << 20)), ("1.0 MB are free", "--data-dir")),
    (
        "model",
        replace(WELL, files=Files("/x", models=(ModelFile("shard", "/m", trouble="/m: cut short"),))),
        ("cut short", "--model"),
    ),
    ("node-silent", replace(WELL, unanswered="it does not answer"), ("start it again",)),
]


@pytest.mark.parametrize(
    ("kind", "facts", "words"), BROKEN, ids=[f"{kind}-{i}" for i, (kind, _, _) in enumerate(BROKEN)]
)
def test_what_is_broken_comes_first_and_says_what_to_do(kind: str, facts: Facts, words: tuple[str, ...]) -> None:
    found = worst(facts)
    assert (found.kind, found.level) == (kind, Level.BROKEN)
    text = f"{found.says} {found.step}"
    assert [word for word in words if word not in text] == [], text


def test_a_firewall_of_alice_s_own_is_named_with_the_command_that_opens_it() -> None:
    behind = replace(WELL, machine=machine(firewall=Firewall("ufw", True)), reach=CUT_OFF)
    first, second = findings(behind)[:2]
    assert (first.kind, second.kind) == ("firewall", "unreached")
    assert first.step == second.step == "Let it in: sudo ufw allow 29170/tcp"
    assert worst(replace(behind, reach=REACH)).level is Level.FINE  # whatever its rules seem to say


def test_what_this_user_cannot_see_is_not_guessed() -> None:
    unseen = replace(WELL, machine=machine(firewall=Firewall()), reach=CUT_OFF)
    doubts = {one.kind: one for one in findings(unseen) if one.level is Level.DOUBT}
    assert "cannot be told" in doubts["firewall-unseen"].says and "sudo" in doubts["firewall-unseen"].step


@pytest.mark.parametrize(
    "facts",
    [
        replace(WELL, reach=replace(CUT_OFF, why_no_port="its address is 100.64.0.2: another router stands before it")),
        replace(WELL, reach=CUT_OFF, machine=machine(route_v4="100.72.0.9")),
        replace(WELL, reach=replace(CUT_OFF, addresses=(AddressInfo("tcp://11.8.8.8:29170", False),))),
    ],
    ids=["the router says so", "its own address is a carrier's", "the world sees her elsewhere"],
)
def test_a_carrier_s_router_is_told_from_alice_s_own(facts: Facts) -> None:
    found = {one.kind: one for one in findings(facts)}
    assert "your provider's" in found["carrier"].says
    assert "Ask your provider" in found["unreached"].step and "pass TCP port" not in found["unreached"].step


def test_a_relay_is_enough_and_the_direct_way_is_told_all_the_same() -> None:
    relay = AddressInfo(AT_RELAY, True, KEY)
    found = findings(replace(WELL, reach=replace(CUT_OFF, addresses=(AddressInfo(OWN, False), relay))))
    assert Level.BROKEN not in {one.level for one in found}
    relayed = next(one for one in found if one.kind == "relayed")
    assert AT_RELAY in relayed.says and "pass TCP port" in relayed.step


def test_how_the_router_takes_ports_is_told_and_what_is_reached_by_some_alone_is_doubtful() -> None:
    seen = replace(CUT_OFF, addresses=(AddressInfo(OWN, False), AddressInfo(PUBLIC, True)), seen=PUBLIC, nat="same")
    found = {one.kind: one for one in findings(replace(WELL, reach=seen))}
    assert "the same port" in found["nat"].says and PUBLIC in found["nat"].says
    assert found["reached-some"].level is Level.DOUBT and "pass TCP port" in found["reached-some"].step
    assert "port-none" in found and "port-mapped" not in found
    is_open = replace(seen, is_cut_off=False)
    assert {one.level for one in findings(replace(WELL, reach=is_open))} == {Level.FINE}


def test_an_address_that_is_advertised_in_vain_is_broken_and_one_nobody_tries_is_doubtful() -> None:
    said = Listening("tcp://[::]:29170", (PUBLIC,))
    vain = replace(CUT_OFF, addresses=(AddressInfo(PUBLIC, False),))
    assert worst(replace(WELL, listening=said, reach=vain)).kind == "advertise"
    untried = replace(REACH, addresses=(AddressInfo(PUBLIC, None), AddressInfo("tcp://11.7.7.8:29170", True)))
    found = findings(replace(WELL, listening=said, reach=untried))
    assert (found[0].level, found[0].kind) == (Level.DOUBT, "advertise-untried")


def test_one_member_that_answers_makes_the_others_doubtful_only() -> None:
    gone = replace(BOB, greeted=False, tried=(Tried("tcp://11.2.2.2:1", Answer.REFUSED),))
    found = worst(replace(WELL, members=(BOB, gone)))
    assert (found.level, found.kind) == (Level.DOUBT, "join-refused")


def test_a_network_without_a_way_out_is_no_harm_where_somebody_in_it_answers() -> None:
    assert worst(replace(WELL, machine=machine(route_v4=""))).level is Level.DOUBT


def test_of_a_machine_without_a_network_that_alone_is_told_as_broken() -> None:
    alone = unjoined(Answer.NO_WAY, machine=machine(interfaces=(), route_v4=""))
    found = findings(alone)
    assert [one.kind for one in found if one.level is Level.BROKEN] == ["no-network"]
    assert [one.kind for one in found if one.level is Level.DOUBT] == ["join-no-way"]


def test_neighbours_alone_do_not_prove_that_the_world_gets_through() -> None:
    near = replace(REACH, addresses=(AddressInfo(OWN, True),), is_far=False, seen_at=("192.168.1.10",))
    found = worst(replace(WELL, reach=near))
    assert (found.level, found.kind) == (Level.DOUBT, "reached-near")


def test_limits_of_the_machine_are_told_before_they_hurt() -> None:
    small = replace(WELL, machine=machine(descriptors=256, free_memory_bytes=1 << 30))
    small = replace(small, files=replace(WELL.files, free_bytes=1 << 30))
    assert [one.kind for one in findings(small) if one.level is Level.DOUBT] == ["disk", "descriptors", "memory"]
    assert worst(replace(WELL, troubles=("the shard's engine is not offered: it rests",))).kind == "engine"


def test_each_address_of_alice_s_is_told_of_and_why_others_are_not_told_some() -> None:
    two = (
        Interface("eth0", True, ("192.168.1.10",)),
        Interface("docker0", True, ("172.17.0.1",)),
        Interface("wlan0", False),
    )
    facts = replace(WELL, machine=machine(interfaces=two, not_told=(("172.17.0.1", "it leads to her containers"),)))
    said = [one.says for one in findings(facts) if one.kind == "interface"]
    assert said == [
        "eth0: 192.168.1.10 (told to others; others do not reach it).",
        "docker0: 172.17.0.1 (not told: it leads to her containers).",
        "wlan0: not at work (down).",
    ]
