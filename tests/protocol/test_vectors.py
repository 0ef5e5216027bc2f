"""The committed vectors are what the code gives, and what somebody gets who only has read docs/protocol.md."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from dsdnode.errors import BadInput
from dsdnode.wire.invitations import read_code
from dsdnode.wire.messages import Message
from tests.protocol import examples, plain, vectors


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = vectors.load(name)["cases"]
    return found


@pytest.mark.parametrize("name", vectors.FILES)
def test_the_committed_file_is_what_the_code_gives_now(name: str) -> None:
    """If the wire was meant to change: `python -m tests.protocol.vectors`, and a word in docs/protocol.md."""
    assert vectors.path_of(name).read_text() == vectors.spelled(name)


def test_no_other_file_lies_there() -> None:
    assert sorted(path.stem for path in vectors.FOLDER.iterdir()) == sorted(vectors.FILES)


@pytest.mark.slow
def test_a_changed_file_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Bob edits a digit by hand, and deletes another file: `--check` names both, and a new run mends them."""
    monkeypatch.setattr(vectors, "FOLDER", tmp_path)
    assert vectors.main(["--check"]) == 1
    assert vectors.main([]) == 0
    assert vectors.main(["--check"]) == 0
    vectors.path_of("dht").write_text("{}")
    vectors.path_of("noise").unlink()
    assert vectors.outdated() == ["dht", "noise"]


@pytest.mark.parametrize("case", cases("identity"), ids=lambda case: case["name"])
def test_alice_bob_and_carol_follow_from_their_seeds(case: dict[str, Any]) -> None:
    mine = plain.identity(bytes.fromhex(case["seed"]))
    assert mine == {name: case[name] for name in mine}
    if case["join"] is not None:
        hosts = ",".join(address.removeprefix("tcp://") for address in case["addresses"])
        assert case["join"] == f"dsd://{hosts}/{mine['public_key']}"


@pytest.mark.parametrize("case", cases("handshake"))
def test_bob_proves_the_swarm_key_to_alice_and_she_to_him(case: dict[str, Any]) -> None:
    whole = vectors.load("handshake")
    keys = {one["name"]: bytes.fromhex(one["public_key"]) for one in cases("identity")}
    alice, bob, nonce = keys["alice"], keys["bob"], bytes.fromhex(whole["nonce"])
    bobs, alices = plain.swarm_key(case["caller_swarm_key"]), plain.swarm_key(case["callee_swarm_key"])
    assert bobs.hex() == case["caller_derived"]
    assert plain.proof(bobs, b"hello", bob, alice, nonce).hex() == case["hello_proof"]
    if bobs == alices:
        assert plain.proof(alices, b"welcome", alice, bob, nonce).hex() == case["welcome_proof"]
    else:
        assert (case["welcome_proof"], bool(case["refused"])) == (None, True)


@pytest.mark.parametrize("case", cases("invitations"), ids=lambda case: case["what"])
def test_a_code_is_what_the_page_makes_of_it(case: dict[str, Any]) -> None:
    members = [(bytes.fromhex(key), addresses) for key, addresses in case["members"]]
    assert plain.code_of(members, case["expires_s"], case["swarm_keys"]) == case["code"]
    read = read_code(case["code"].upper())
    assert [(one.public_key, list(one.addresses)) for one in read.members] == members
    assert (read.expires_s, list(read.swarm_keys)) == (case["expires_s"], case["swarm_keys"])


@pytest.mark.parametrize("case", vectors.load("invitations")["refused"], ids=lambda case: case["what"])
def test_a_code_that_was_spoiled_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        read_code(case["code"])


def test_there_is_a_header_of_every_message() -> None:
    assert set(examples.kinds()) == set(Message.__subclasses__())
    assert [case["message"] for case in cases("headers")] == [kind.__name__ for kind in examples.kinds()]


@pytest.mark.parametrize("case", cases("headers"), ids=lambda case: case["message"])
def test_headers_are_plain_msgpack(case: dict[str, Any]) -> None:
    header = bytes.fromhex(case["header"])
    assert plain.packed(case["array"]) == header
    assert msgpack.unpackb(header) == plain.real(case["array"])
    assert len(case["array"][3]) == 1 + len(case["fields"])


@pytest.mark.parametrize("case", cases("frames"), ids=lambda case: case["what"])
def test_buffers_say_what_stands_beside_them(case: dict[str, Any]) -> None:
    """Lists of integers are token ids, text is UTF-8 (of a Piece), other structures msgpack, bytes themselves."""
    frames = [bytes.fromhex(frame) for frame in case["frames"]]
    assert len(msgpack.unpackb(frames[0])) == 4
    assert len(frames) == 1 + len(case["buffers"])
    for frame, meaning in zip(frames[1:], case["buffers"], strict=True):
        if isinstance(meaning, list) and all(isinstance(one, int) for one in meaning):
            assert frame == b"".join(one.to_bytes(4, "little") for one in meaning)
        elif case["message"] == "Block" and isinstance(meaning, list) and isinstance(meaning[0][0], float):
            assert frame == plain.pack(meaning, "f16")
        elif case["message"] == "HasWeights" and not isinstance(meaning, str):
            version, payload, signature = msgpack.unpackb(frame)
            assert (version, payload) == (1, plain.packed(meaning))
            VerifyKey(msgpack.unpackb(payload)[0]).verify(b"dsdnode manifest 1\n" + payload, signature)
        elif not isinstance(meaning, str):
            assert frame == plain.packed(meaning)
        elif case["message"] == "Piece":
            assert frame == meaning.encode()


def test_bob_s_session_bears_his_name() -> None:
    openings = [case for case in cases("frames") if case["message"] == "Open"]
    [bob] = [case for case in cases("identity") if case["name"] == "bob"]
    sessions = {msgpack.unpackb(bytes.fromhex(opening["frames"][0]))[3][1] for opening in openings}
    assert {session[8:] for session in sessions} == {bytes.fromhex(bob["peer_id"])[:8]}


def test_the_second_stage_differs_in_its_place_and_its_key_alone() -> None:
    openings = [case for case in cases("frames") if case["message"] == "Open"]
    one, other, _ = [msgpack.unpackb(bytes.fromhex(case["frames"][0]))[3] for case in openings]
    assert [(mine, theirs) for mine, theirs in zip(one, other, strict=True) if mine != theirs] == [
        (0, 1),
        (b"", bytes(range(16))),
    ]


@pytest.mark.parametrize("case", cases("records"), ids=lambda case: case["what"])
def test_a_record_is_signed_by_its_provider(case: dict[str, Any]) -> None:
    payload = plain.packed(case["values"])
    assert payload.hex() == case["payload"]
    signed = plain.signed_record(bytes.fromhex(case["seed"]), payload)
    assert signed.hex() == case["signed"]
    values = dict(zip(vectors.load("records")["fields"], plain.check_record(signed), strict=True))
    assert plain.model_id(values) == case["model_id"]
    names = (("model", case["model_id"]), ("tokenizer", values["tokenizer_hash"]), ("models", ""))
    assert [plain.key(kind, name).hex() for kind, name in names] == case["keys"]


def test_mallory_changes_a_letter_of_alices_record() -> None:
    signed = bytearray.fromhex(cases("records")[0]["signed"])
    signed[signed.index(b"Target")] ^= 1
    with pytest.raises(BadSignatureError):
        plain.check_record(bytes(signed))


def test_keys_and_distances() -> None:
    whole = vectors.load("dht")
    names = {"models": "", "model": whole["model_id"], "tokenizer": whole["tokenizer_hash"]}
    keys = {kind: plain.key(kind, name) for kind, name in names.items()}
    ids = {name: bytes.fromhex(peer) for name, peer in whole["ids"].items()}
    assert {kind: key.hex() for kind, key in keys.items()} == whole["keys"]
    for case in whole["distances"]:
        assert int(case["distance"], 16) == plain.distance(keys[case["key"]], ids[case["peer"]])
    for kind, order in whole["closest_first"].items():
        assert order == sorted(ids, key=lambda name: plain.distance(keys[kind], ids[name]))
    buckets = {name: plain.distance(ids["alice"], peer).bit_length() - 1 for name, peer in ids.items()}
    assert buckets == whole["buckets_of_alice"]


def test_digests() -> None:
    whole = vectors.load("digests")
    mine = plain.digests(bytes.fromhex(whole["secret"]), whole["tokens"])
    assert [one.hex() for one in mine] == whole["digests"]


@pytest.mark.parametrize("case", cases("seals"))
def test_seals(case: dict[str, Any]) -> None:
    whole = vectors.load("seals")
    key, session, digest = (bytes.fromhex(one) for one in (whole["seal_key"], whole["session"], case["digest"]))
    assert plain.seal(key, session, digest, case).hex() == case["seal"]


@pytest.mark.parametrize("case", cases("noise"))
def test_noise(case: dict[str, Any]) -> None:
    tokens = vectors.load("noise")["tokens"]
    assert [f"{plain.noise(case['seed'], case['position'], token):08x}" for token in tokens] == case["words"]


@pytest.mark.parametrize("case", cases("shaping"), ids=lambda case: case["what"])
def test_shaping(case: dict[str, Any]) -> None:
    """From the page alone, in dave's own words."""
    for index, row in enumerate(case["shaped"]):
        reply = [*case["reply"], *case["draft"][:index]]
        line = [*case["prompt"], *reply]
        last = line if case["last_tokens"] < 0 else line[-case["last_tokens"] :]
        own = [np.float32(value) for value in case["logits"]]
        for token, value in case["bias"]:
            own[token] += np.float32(value)
        by = np.float32(case["repetition"])
        own = [(value / by if value > 0 else value * by) if token in last else value for token, value in enumerate(own)]
        for token in set(reply):
            times = np.float32(reply.count(token))
            own[token] -= np.float32(case["frequency"]) * times + np.float32(case["presence"])
        assert own == row


def test_log_probabilities() -> None:
    told = vectors.load("shaping")["logprobs"]
    total = math.log(math.fsum(map(math.exp, told["logits"])))
    assert told["values"] == pytest.approx([value - total for value in told["logits"]], abs=1e-4)
    verdict = told["verdict"]
    data, width = bytes.fromhex(verdict["buffer"]), 1 + verdict["num_logprobs"]
    num = len(data) // (8 * width)
    numbers = struct.unpack(f"<{num * width}i{num * width}f", data)
    for index, (token, logprob, top) in enumerate(verdict["rows"]):
        ids, values = numbers[index * width :][:width], numbers[(num + index) * width :][:width]
        assert list(zip(ids, values, strict=True)) == [(token, logprob), *map(tuple, top)]


@pytest.mark.parametrize("case", cases("draws"), ids=lambda case: case["what"])
def test_draws(case: dict[str, Any]) -> None:
    """Carol's program throws the same dice as the judge."""
    logits, first = [float(value) for value in case["logits"]], case["first_position"]
    mine = [plain.draw(logits, first + offset, case) for offset in range(len(case["tokens"]))]
    assert mine == case["tokens"]


@pytest.mark.parametrize("wire", ["f32", "f16", "q8"])
def test_states(wire: str) -> None:
    whole = vectors.load("states")
    values = whole["values"]
    assert plain.pack(values, wire).hex() == whole["packed"][wire]
    mine = plain.unpack(bytes.fromhex(whole["packed"][wire]), len(values), len(values[0]), wire)
    assert mine == whole["unpacked"][wire]
    if wire == "f32":
        assert mine == values


@pytest.mark.parametrize("case", cases("acceptance"), ids=lambda case: case["what"])
def test_the_judge_is_lax_as_far_as_it_may(case: dict[str, Any]) -> None:
    bitmap = bytes.fromhex(vectors.load("acceptance")["key_tokens"])
    rule = plain.Relaxed(case["threshold"], case["deferred"], bitmap)
    for asked in case["asked"]:
        found = rule.accept(asked["start"], asked["draft"], asked["own"])
        assert found == (asked["count"], asked["relaxed"])


def test_key_tokens_beyond_the_bitmap_must_match_too() -> None:
    whole = vectors.load("key_tokens")
    rule = plain.Relaxed(0.3, False, bytes.fromhex(whole["bitmap"]))
    assert {token: rule.is_key(int(token)) for token in whole["strict"]} == whole["strict"]


def test_what_a_relay_is_told_is_framed_signed_and_proven_as_the_page_says() -> None:
    keys = {one["name"]: bytes.fromhex(one["public_key"]) for one in cases("identity")}
    derived = plain.swarm_key(vectors.load("relays")["swarm_key"])
    values = {case["frame"]: plain.real(case["values"]) for case in cases("relays")}
    for tag, case in enumerate(cases("relays"), start=1):
        assert plain.relay_frame(tag, case["values"]).hex() == case["bytes"]
    challenge, token, relay = values["challenge"][1], values["incoming"][0], keys["alice"]
    signed = {
        "reserve": ("bob", plain.relay_signed(b"reserve", relay, challenge, keys["bob"])),
        "accept": ("bob", plain.relay_signed(b"accept", relay, token)),
    }
    for case in cases("relays"):
        signer, message = signed.get(case["frame"], ("", b""))
        assert case["signed"] == message.hex()
        if signer:
            [signature] = [one for one in values[case["frame"]] if isinstance(one, bytes) and len(one) == 64]
            VerifyKey(keys[signer]).verify(message, signature)
    assert values["reserve"][2] == [plain.relay_proof(derived, signed["reserve"][1])]
