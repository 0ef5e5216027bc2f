"""Names of schemes: what each asks the drafter for."""

from __future__ import annotations

import pytest

from dsdnode.bench.schemes import Scheme, parse_schemes
from dsdnode.errors import BadInput


def test_each_name_asks_for_what_it_says() -> None:
    names = "plain,alone,rounds-8,rounds-adaptive,stream,hedged,relaxed-0.3,deferred-.5,awc,default,stream:2:16"
    assert parse_schemes(names, "f32") == (
        Scheme("plain", "fixed", 0, "f32"),
        Scheme("alone", "alone", 0, "f32"),
        Scheme("rounds-8", "fixed", 8, "f32"),
        Scheme("rounds-adaptive", "throughput:rounds", None, "f32"),
        Scheme("stream", "throughput:stream", None, "f32"),
        Scheme("hedged", "throughput", None, "f32"),
        Scheme("relaxed-0.3", "throughput", None, "f32", 0.3),
        Scheme("deferred-.5", "throughput", None, "f32", 0.5, deferred=True),
        Scheme("awc", "awc", None, "f32"),
        Scheme("default", "", None, "f32"),
        Scheme("stream:2:16", "stream:2:16", None, "f32"),
    )


def test_plain_is_always_there_and_first_unless_named() -> None:
    assert [one.name for one in parse_schemes("stream, rounds-2", "f32")] == ["plain", "stream", "rounds-2"]
    assert [one.name for one in parse_schemes("stream,plain,stream", "f32")] == ["stream", "plain"]


def test_several_wires_cross_with_every_scheme() -> None:
    both = parse_schemes("stream", "f32,q8")
    assert [(one.name, one.wire) for one in both] == [
        ("plain@f32", "f32"),
        ("plain@q8", "q8"),
        ("stream@f32", "f32"),
        ("stream@q8", "q8"),
    ]


@pytest.mark.parametrize(
    ("names", "wires", "says"),
    [
        ("", "f32", "names none; there are plain, alone, rounds-K"),
        ("rounds", "f32", "'rounds' is no scheme"),
        ("rounds-0", "f32", "'rounds-0' is no scheme"),
        ("rounds-65", "f32", "K from 1 to 64"),
        ("relaxed-1.5", "f32", "'relaxed-1.5' is no scheme"),
        ("relaxed-0.0", "f32", "a threshold lies between 0"),
        ("stream:9:3", "f32", "no window policy"),
        ("plain", "f64", "no type for hidden states"),
    ],
)
def test_other_names_are_refused(names: str, wires: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_schemes(names, wires)
