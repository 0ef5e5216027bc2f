"""Alice posts what the doctor says: nobody learns who she is, or whom she knows, and it can still be understood."""

from __future__ import annotations

from dsdnode.doctor.blot import blotter_of
from dsdnode.doctor.facts import Answer, Interface, Tried
from dsdnode.doctor.finding import Finding, Level
from dsdnode.doctor.findings import findings
from tests.doctor.test_findings import BOB, KEY, MACHINE, WELL, replace

HOME = "/home/alice"
ALICE = replace(
    WELL,
    machine=replace(MACHINE, interfaces=(*MACHINE.interfaces, Interface("wg-acme", True, ("2a11:7::9",)))),
    members=(replace(BOB, greeted=False, tried=(Tried("tcp://bob.example.org:29170", Answer.REFUSED),)),),
)


def test_public_addresses_keys_names_and_paths_are_blotted() -> None:
    found = list(blotter_of(ALICE, HOME).blot(findings(ALICE)))
    text = "\n".join(f"{one.says} {one.step}" for one in found)
    for secret in ("alice", "bob", "11.7.7.7", "2a11", KEY[:12], "acme", "/models/big"):
        assert secret not in text, text
    assert "192.168.1.10" in text and "29170" in text
    assert [one.level for one in found] == [one.level for one in findings(ALICE)]


def test_the_same_thing_has_the_same_word_and_others_have_others() -> None:
    says = f"at tcp://11.1.1.10:1 and 11.1.1.10, not 11.1.1.11; [2a11::1]:5 not [2a11::2]; {KEY} is {KEY[:12]}…, not "
    says += "4c" * 6
    blotted = blotter_of(ALICE, HOME).text(says)
    assert blotted == (
        "at tcp://address-3:1 and address-3, not address-4; [address-1]:5 not [address-2]; key-1 is key-1…, not key-2"
    )


def test_what_strangers_say_is_blotted_too() -> None:
    said = Finding(Level.BROKEN, "x", "refused: call tcp://mallory.example:9 of 11.9.9.9, I am /home/alice/x", "")
    (one,) = blotter_of(ALICE, HOME).blot([said])
    assert one.says == "refused: call tcp://other-host-1:9 of address-1, I am ~/x"


def test_times_versions_and_words_stay() -> None:
    text = "at 12:30, version 1.2.3, 5.5 s, abcdef, port 29170, ::, tcp://[::]:29170, fe80::1, 10.0.0.1 and eth0: x"
    assert blotter_of(ALICE, HOME).text(text) == text
