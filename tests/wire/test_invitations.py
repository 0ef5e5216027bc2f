"""Codes: what chat programs do to them does no harm, and what does is named. No word of a code is ever shown."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.errors import BadInput
from dsdnode.identity import Identity
from dsdnode.wire.invitations import (
    ALPHABET,
    MAX_SYMBOLS,
    Invitation,
    is_code,
    read_code,
    spell,
    split_joins,
    write_code,
)
from dsdnode.wire.messages import Contact

KEYS = [Identity(name.encode().ljust(32)).public_key for name in ("alice", "bob", "carol")]
PLACES = (
    ("tcp://192.0.2.7:29170",),
    ("tcp://198.51.100.20:1", "tcp://[2001:db8::20]:65535"),
    ("tcp://a-b.example:80",),
)
MEMBERS = tuple(Contact(*one) for one in zip(KEYS, PLACES, strict=True))
THREE = Invitation(MEMBERS, 1_800_000_000, ("00ff" * 8, "correct horse battery staple"))
CODE = write_code(THREE)
JOIN = f"dsd://192.0.2.7:29170,bob:1/{KEYS[0].hex()}"


def spoiled(code: str, place: int, symbol: str) -> str:
    return code[:place] + symbol + code[place + 1 :]


def told(text: str) -> str:
    with pytest.raises(BadInput) as error:
        read_code(text)
    words = str(error.value)
    assert not any(CODE[place : place + 8] in words for place in range(len(CODE) - 8)), "a part of the code is shown"
    return words


@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("keys", [(), ("0123",), ("012",), ("A1",), ("schlüssel", "ab" * 255), ("x" * 255,)])
def test_what_is_written_is_read(members: int, keys: tuple[str, ...]) -> None:
    invitation = Invitation(MEMBERS[:members], 0xFFFFFFFF, keys)
    assert read_code(write_code(invitation)) == invitation
    assert set(write_code(invitation)) <= set(ALPHABET)


def test_it_is_short() -> None:
    """A key is 52 characters; what is around it must not be much more."""
    alone = [Invitation((Contact(key, PLACES[0]),), 1) for key in KEYS]
    assert all(len(write_code(one)) < len(f"dsd://192.0.2.7:29170/{KEYS[0].hex()}") for one in alone)
    assert len(write_code(Invitation(tuple(Contact(key, PLACES[0]) for key in KEYS), 1, ("ab" * 16,)))) < 250


@pytest.mark.parametrize(
    "text",
    [
        CODE.upper(),
        f"  {CODE}\n",
        f'"{CODE}"',
        f"\u201c{CODE}\u201d",
        f"`{CODE}`",
        f"**{CODE}**",
        f"~~_{CODE}_~~",
        f"<{CODE}>.",
        f"\ufeff{CODE[:9]}\u200b{CODE[9:50]}\u00ad{CODE[50:]}\u2060",
        "\n".join(f"> {CODE[place : place + 60]}" for place in range(0, len(CODE), 60)),
        "\r\n".join(CODE[place : place + 1] for place in range(len(CODE))),
        CODE[:70] + "-\n" + CODE[70:],
        CODE.replace("0", "O").replace("1", "l"),
        CODE.replace("0", "o").replace("1", "I"),
    ],
    ids=range(14),
)
def test_what_people_and_programs_do_to_it_does_no_harm(text: str) -> None:
    assert is_code(text)
    assert [read_code(part) for part in split_joins(text)] == [THREE]


@pytest.mark.parametrize("place", [4, 5, 6, 30, 100, len(CODE) - 8, len(CODE) - 7, len(CODE) - 1])
def test_one_wrong_character_is_named(place: int) -> None:
    wrong = "z" if CODE[place] != "z" else "y"
    words = told(spoiled(CODE, place, wrong))
    assert f"its character {place + 1} is {wrong!r}, and {CODE[place]!r} would fit" in words


@pytest.mark.parametrize("num", [1, 3, 40])
def test_how_many_characters_are_missing_is_said(num: int) -> None:
    for text in (CODE[:-num], CODE[:40] + CODE[40 + num :]):
        assert f"not complete: {num} character{'s are' if num > 1 else ' is'} missing (at its end" in told(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (CODE[:5], "nearly all"),
        (CODE[:4], "nearly all"),
        (CODE[:3], "no code"),
        ("", "no code"),
        (CODE[1:], "no code"),
        (CODE + CODE, f"{len(CODE)} characters too many"),
        (CODE + "z", "1 character too many"),
        (CODE[:20] + CODE[21] + CODE[20] + CODE[22:], "several of its characters are wrong"),
        (spoiled(CODE, 10, "ü"), "its character 11 is 'ü', which is in no code"),
        (spoiled(CODE, 10, "u"), "its character 11 is 'u'"),
        (spoiled(CODE, 10, "\u0661"), "its character 11"),
        (spoiled(CODE, 3, "2"), "later version"),
        (CODE + "\n" * 10_000, f"at most {MAX_SYMBOLS} characters"),
    ],
)
def test_what_became_of_it_is_said(text: str, word: str) -> None:
    assert word in told(text)


PACKED = bytes(3) + b"\x01" + b"\x01" + KEYS[0] + b"\x04\xc0\x00\x02\x07\x71\xf2"


@pytest.mark.parametrize(
    ("packed", "word"),
    [
        (PACKED[:4], "0 members"),
        (PACKED[:-1], "ends too soon"),
        (PACKED + b"\x00", "section 0"),
        (PACKED + b"\x05", "section 5"),
        (PACKED[:5] + bytes(32) + PACKED[37:], "key"),
        (PACKED[:37] + b"\x05" + PACKED[38:], "address 5"),
        (PACKED[:38] + b"\xe0" + PACKED[39:], "not the address of one machine"),
        (PACKED[:-2] + b"\x00\x00", "port 0"),
        (PACKED + b"\x10\x00", "swarm key"),
        (PACKED + b"\x11\x03a\nb", "swarm key"),
        (PACKED + b"\x11\x02\xff\xff", "decode"),
        (PACKED + b"\x10\x01a" * 3, "3 swarm keys"),
        (PACKED[:4] + PACKED[4:] * 9, "9 members"),
        (PACKED + b"\x80\x05abc", "ends too soon"),
    ],
)
def test_a_code_that_was_made_wrong_is_refused(packed: bytes, word: str) -> None:
    assert read_code(spell(PACKED)).members == (MEMBERS[0],)
    assert word in told(spell(packed))


def test_what_later_versions_add_is_left_out() -> None:
    assert read_code(spell(PACKED + b"\x80\x03abc\xff\x00")) == read_code(spell(PACKED))


@pytest.mark.parametrize(
    "invitation",
    [
        Invitation(MEMBERS, 1, ("x" * 256,)),
        Invitation(MEMBERS, 1, ("",)),
        Invitation((Contact(KEYS[0]),), 1),
        Invitation(MEMBERS * 6, 1),
        Invitation(MEMBERS, 1, ("x" * 255, "y" * 255)),
    ],
)
def test_what_does_not_fit_into_a_code_is_said_to_its_maker(invitation: Invitation) -> None:
    with pytest.raises(ValueError, match="code"):
        write_code(invitation)


def test_codes_and_join_strings_stand_side_by_side() -> None:
    broken = CODE[:50] + "\n> " + CODE[50:]
    for text in (
        f"{JOIN} {CODE}",
        f"{broken}\n{JOIN}",
        f"{CODE},{CODE.upper()}",
        f"{JOIN}\n{JOIN}\n> {broken}\n{JOIN}",
    ):
        found = split_joins(text)
        assert [one for one in found if not is_code(one)] == [JOIN] * text.count(JOIN)
        codes = [read_code(one) for one in found if is_code(one)]
        assert codes == [THREE] * len(codes) and len(codes) + text.count(JOIN) == len(found) > 1


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    for one in (text, CODE[:40] + text, text + CODE):
        split_joins(one)
        with contextlib.suppress(BadInput):
            assert read_code(one) == THREE


def test_a_key_is_not_in_what_is_logged_of_an_invitation() -> None:
    assert "horse" not in repr(THREE) and "00ff" not in repr(THREE)
