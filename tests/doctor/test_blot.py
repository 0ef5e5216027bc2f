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


def test_what_a_card_and_a_house_are_known_by_is_blotted() -> None:
    own = "fd3c:9a12:77fe:0:2e0:4cff:fe68:1"
    names = ("enx00e04c680001", "wlxaabbccddeeff", "enp0s20f0u1", "eno1", "wlp3s0", "wlpeter", "ens1f0np0", "wlan0")
    interfaces = tuple(Interface(name, True, ("192.168.1.5", own)) for name in names)
    facts = replace(WELL, machine=replace(MACHINE, interfaces=interfaces))
    blotter = blotter_of(facts, HOME)
    says = " ".join(one.says for one in blotter.blot(findings(facts)))
    for secret in ("00e04c", "aabbcc", "peter", "9a12", "4cff"):
        assert secret not in says, says
    for name in ("enp0s20f0u1", "eno1", "wlp3s0", "ens1f0np0", "wlan0"):
        assert name in says, "a system's own"
    blotter = blotter_of(facts, HOME)
    assert blotter.text(f"fe80::1 {own} fe80::2e0:4cff:fe68:1 [{own}]:5, fd3c:9a12:77fe::1") == (
        "fe80::1 address-1 address-2 [address-1]:5, address-3"
    )


def test_a_host_called_by_a_word_is_blotted_where_a_host_stands_and_nowhere_else() -> None:
    for answer in (Answer.SILENT, Answer.REFUSED, Answer.UNKNOWN_NAME, Answer.NO_RESOLVER, Answer.NO_WAY):
        bob = replace(BOB, greeted=False, tried=(Tried("tcp://node:29170", answer),))
        facts = replace(WELL, members=(bob,))
        said = [one.says for one in blotter_of(facts, HOME).blot(findings(facts))]
        assert any(one.startswith("No node is running here.") for one in said)
        (of_bob,) = [one for one in said if "Member" in one]
        assert "host-1" in of_bob and "node" not in of_bob, of_bob
    whys = "node cannot be found; no name server has said yet where node is; tcp://node:1 and dsd://node:1/x, a node: 5"
    assert blotter_of(facts, HOME).text(whys) == (
        "host-1 cannot be found; no name server has said yet where host-1 is; tcp://host-1:1 and dsd://host-1:1/x, "
        "a node: 5"
    )


def test_folders_above_alice_s_own_are_blotted_and_words_that_are_folders_are_not() -> None:
    files = replace(WELL.files, data_dir="/srv/acme inc/alice/dsd", models=())
    models = tuple(replace(WELL.files.models[0], path=path) for path in ("models/a.gguf", "/mnt/bob/b/c.gguf"))
    blotter = blotter_of(replace(WELL, files=replace(files, models=models)), HOME)
    text = (
        "nothing can be written into /srv/acme inc/alice, /srv/acme inc, /mnt/bob or /mnt/bob/b, where the models are"
    )
    assert (
        blotter.text(text) == "nothing can be written into FOLDER, FOLDER, FOLDER or MODEL_FOLDER, where the models are"
    )


def test_who_lives_at_the_root_of_all_folders_has_others_blotted_all_the_same() -> None:
    """A service's user, say; and a model that lies there."""
    model = replace(ALICE.files.models[0], path="/big.gguf")
    facts = replace(ALICE, files=replace(ALICE.files, models=(model,)))
    blotter = blotter_of(facts, "/")
    text = "refused: tcp://mallory.example:9, /x and tcp://[::]:29170 (down)."
    assert blotter.text(text) == "refused: tcp://other-host-1:9, /x and tcp://[::]:29170 (down)."
    assert blotter_of(facts, "/home/alice/").text("in /home/alice/x") == "in ~/x"
