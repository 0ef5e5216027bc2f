"""Grammars in a model's tokens: what may come next, where a reply may end, and what is said of a bad one."""

import json
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

import pytest

from dsdnode.engine import grammars as module
from dsdnode.engine.grammars import Grammars
from dsdnode.engine.ipc import UnknownGrammar
from dsdnode.errors import BadInput
from dsdnode.speculation.masks import ANY, Masks, allows
from dsdnode.wire.replies import Constraint

PIECES = [b"", b"", *(bytes([byte]) for byte in range(256)), b'{"', b'":', b"true", b"  ", b"12"]
END, OTHER_END, BYTE, VOCAB = 0, 1, 2, len(PIECES) + 27
KEY = b"alice's reply"


@cache
def grammars() -> Grammars:
    return Grammars(PIECES, [b"<end>", b"<tool>", *([b""] * (len(PIECES) - 2))], [END])


def schema(wanted: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(wanted))


def ids(text: str) -> list[int]:
    return [BYTE + byte for byte in text.encode()]


def masks_of(constraint: Constraint, tokens: Sequence[int], first: int = 0, key: bytes = KEY) -> list[bytes]:
    grammars().open(key, constraint, VOCAB)
    names, fresh = grammars().masks(key, tokens, first)
    return [dict(fresh)[name] for name in names]


def allowed(mask: bytes) -> set[bytes]:
    return {PIECES[token] for token in range(BYTE, len(PIECES)) if allows(mask, token)}


def test_the_next_tokens_are_those_that_go_on_and_an_end_stands_where_it_is_complete() -> None:
    wanted = schema({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})
    masks = masks_of(Constraint("regex", "[ab]{2,3}"), ids("aba"))
    assert [allowed(mask) for mask in masks] == [{b"a", b"b"}, {b"a", b"b"}, {b"a", b"b"}, set()]
    assert [allows(mask, END) for mask in masks] == [False, False, True, True]
    masks = masks_of(wanted, ids('{"ok":true}'))
    assert allowed(masks[0]) == {b"{", b'{"'}
    assert {b"t", b"f", b"true", b" "} <= allowed(masks[6]) and b"1" not in allowed(masks[6])
    assert [allows(mask, END) for mask in masks] == [False] * 11 + [True]
    assert not any(allows(mask, OTHER_END) for mask in masks), "a token without a text"
    assert not any(allows(mask, token) for mask in masks for token in range(len(PIECES), VOCAB + 9)), "padding"


def test_a_path_ends_before_what_is_not_allowed_and_behind_an_end_anything_may_stand() -> None:
    assert len(masks_of(Constraint("regex", "ab*"), ids("abc"))) == 3
    assert len(masks_of(Constraint("regex", "ab*"), ids("cab"), first=1)) == 0
    grammars().open(KEY, Constraint("regex", "ab*"), VOCAB)
    assert grammars().masks(KEY, [*ids("ab"), END, END], 0)[0][3:] == [ANY]


def test_a_control_token_can_be_named_in_a_grammar() -> None:
    masks = masks_of(Constraint("lark", 'start: <tool> "{" /[0-9]+/ "}"'), [OTHER_END, *ids("{1}")])
    assert allows(masks[0], OTHER_END) and not allowed(masks[0])
    assert allowed(masks[2]) >= {b"0", b"9"} and allows(masks[-1], END)


def test_masks_depend_on_the_tokens_alone_whatever_was_asked_before() -> None:
    rng = Random(1)
    wanted = schema({"type": "array", "items": {"type": "integer"}, "maxItems": 9})
    text = ids("[1,22,-333,4]")
    alone = [masks_of(wanted, text[:length], length)[0] for length in range(len(text) + 1)]
    grammars().open(b"bob", wanted, VOCAB)
    known = Masks(VOCAB)
    for _ in range(200):
        first = rng.randrange(len(text) + 1)
        last = rng.randrange(first, len(text) + 1)
        tail = ids("x") if rng.random() < 0.3 and last < len(text) else []
        names, fresh = grammars().masks(b"bob", [*text[:last], *tail], first, again=rng.random() < 0.2)
        for name, one in fresh:
            known.put(name, one)
        assert [known.get(name) for name in names] == alone[first : last + 1]


def test_a_list_that_was_drafted_is_forgotten_when_an_object_stands_there() -> None:
    """llguidance rolled back would have the key be one of the list's texts: behind it only a comma could stand."""
    pieces = [b"", *(bytes([byte]) for byte in range(256)), b'["', b'{"', b'":']
    ours = Grammars(pieces, [b"<end>", *([b""] * (len(pieces) - 1))], [0])
    ours.open(KEY, schema({"type": "object"}), len(pieces))
    begun, a, listed, keyed, colon = [1 + byte for byte in b'{"x":[5,'], 1 + ord("a"), 257, 258, 259
    ours.masks(KEY, [*begun, listed], 0)
    names, _ = ours.masks(KEY, [*begun, keyed, a, colon], len(begun) + 1)
    assert len(names) == 3


def test_nothing_runs_on_in_white_space() -> None:
    masks = masks_of(schema({"type": "object"}), ids("{" + "\n" + " " * 20))
    assert {b" ", b"\n"} <= allowed(masks[1]) and b" " in allowed(masks[21])
    assert not {b" ", b"\n", b"  "} & allowed(masks[-1])
    assert not {b" ", b"\n", b"  "} & allowed(masks_of(schema({"type": "object"}), ids("{ "))[-1])


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (schema({"type": "array", "uniqueItems": True}), 'JSON schema .*Unimplemented keys: \\["uniqueItems"\\]'),
        (schema({"type": "strin"}), "JSON schema .*Invalid type: strin"),
        (schema({"type": "integer", "minimum": 5, "maximum": 2}), "minimum .* is greater"),
        (schema({"$ref": "http://bob.example/schema"}), "JSON schema .*does not fetch"),
        (Constraint("json_schema", "no JSON"), "JSON schema cannot be used"),
        (Constraint("json_schema", '{"items":' * 2000 + "{}" + "}" * 2000), "recursion limit"),
        (Constraint("regex", "(a"), "regular expression .*unclosed group"),
        (Constraint("lark", "start: nothing"), 'grammar .*unknown name: "nothing"'),
    ],
)
def test_a_bad_one_is_refused_in_words(constraint: Constraint, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        grammars().open(KEY, constraint, VOCAB)


def test_what_no_token_can_say_is_refused() -> None:
    few = Grammars([b"", b"a"], [b"<end>", b""], [0])
    with pytest.raises(BadInput, match="no token"):
        few.open(KEY, Constraint("regex", "b"), 2)
    with pytest.raises(BadInput, match="no token that ends"):
        Grammars([b"a"], [b""], [])


def test_a_text_that_the_model_cannot_write_is_a_dead_end_and_no_other_text() -> None:
    few = Grammars([b"", *(bytes([byte]) for byte in b'"{}:,lightredcolsz')], [b"<end>", *([b""] * 18)], [0])
    few.open(
        KEY, schema({"type": "object", "properties": {"c": {"enum": ["red", "light blue"]}}, "required": ["c"]}), 19
    )
    path = [1 + b'"{}:,lightredcolsz'.index(byte) for byte in b'{"c":"light']
    with pytest.raises(BadInput, match="no token"):
        few.masks(KEY, path, len(path))
    names, _ = few.masks(KEY, path, 0)
    assert len(names) == len(path), "drafted, it ends before its last token"
    assert len(few.masks(KEY, path[:5], 5)[0]) == 1, "and nothing is the worse for it"


def test_one_that_turns_out_to_be_too_large_ends_in_words() -> None:
    grammars().open(KEY, Constraint("lark", "start: " + " | ".join(f'"a{n}" start' for n in range(3000))), VOCAB)
    first, _ = grammars().masks(KEY, ids("a17a"), 0)
    assert 0 < len(first) < 5, "drafted"
    with pytest.raises(BadInput, match=r"grammar .*max is 2000"):
        grammars().masks(KEY, ids("a17a"), len(first))


def test_what_was_drafted_does_not_count_to_what_a_reply_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob's grammar remembers, of all that it was asked, more than alice's line would have it remember."""
    monkeypatch.setitem(module.LIMITS, "max_lexer_states", 100)
    wanted, rng = Constraint("regex", "(x|y)*x(x|y){12}z"), Random(2)
    line = ids("xyyyyyyyyyyyyyy")
    num_begun, begin = 0, Grammars._begin

    def counted(self: Grammars, grammar: Any) -> None:
        nonlocal num_begun
        num_begun += 1
        begin(self, grammar)

    monkeypatch.setattr(Grammars, "_begin", counted)
    grammars().open(KEY, wanted, VOCAB)
    for length in range(len(line)):
        drafted = ids("".join(rng.choice("xy") for _ in range(20)))
        names, _ = grammars().masks(KEY, [*line[:length], *drafted], length)
        assert len(names) == len(drafted) + 1, "nor do drafts end where others have been"
    assert num_begun > 2


def test_of_many_grammars_those_used_last_stay_open() -> None:
    for number in range(40):
        grammars().open(bytes([number]), Constraint("regex", "a"), VOCAB)
    assert grammars().masks(bytes([39]), [], 0)[0]
    with pytest.raises(UnknownGrammar):
        grammars().masks(bytes([0]), [], 0)


def test_where_memory_is_short_all_are_forgotten_before_another_one_is_read() -> None:
    """Mallory's keep a hundred times what others do: the process would end in the middle of bob's reply."""
    is_full = False
    ours = Grammars([b"", b"a"], [b"<end>", b""], [0], is_full=lambda: is_full)
    ours.open(b"mallory", Constraint("regex", "a*"), 2)
    is_full = True
    ours.open(b"bob", Constraint("regex", "a"), 2)
    assert ours.masks(b"bob", [1], 0)[0]
    with pytest.raises(UnknownGrammar):
        ours.masks(b"mallory", [], 0)
