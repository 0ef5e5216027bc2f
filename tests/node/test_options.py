"""What a request asks for, what it leaves to the drafter, and what no block could carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsdnode.config import WINDOWS, NodeConfig, parse_window
from dsdnode.errors import BadInput
from dsdnode.node.drafter.options import MAX_EXPERIENCES, Choices
from dsdnode.pacing.policies import SPELLINGS, policy_of
from dsdnode.speculation.controller import Fixed
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.codec import MAX_FRAME_BYTES
from dsdnode.wire.messages import WireAcceptance, WireSampling
from dsdnode.wire.replies import GenerateBody


def choices(**config: Any) -> Choices:
    return Choices.of(NodeConfig(data_dir=Path("nowhere"), **config))


def body(**asked: Any) -> GenerateBody:
    usual: dict[str, Any] = {"messages": (), "text": "hi", "prompt_tokens": (), "tokens": (), "model": "m"}
    usual |= {"sampling": WireSampling(), "max_tokens": 9, "stop": (), "draft_max": -1}
    return GenerateBody(**usual | asked)


def model(width: int = 160, model_id: str = "m") -> Model:
    return Model(model_id, "bob's model", 8, width, 97, "t", 4096, (), 1, "")


@pytest.mark.parametrize("name", [*WINDOWS, "stream:2:16", "hedged:2:16:2"])
def test_both_ends_know_the_same_window_policies(name: str) -> None:
    assert parse_window(name) == name
    policy_of(name, 8)
    assert name.partition(":")[0] in {spelling.partition(":")[0] for spelling in SPELLINGS}


@pytest.mark.parametrize("name", ["wide", "stream:9:8", "stream:0:8", "stream:1:65", "hedged:2:16:0", "hedged:2:16:3"])
def test_and_refuse_the_same(name: str) -> None:
    for parse in (parse_window, lambda text: policy_of(text, 8)):
        with pytest.raises(BadInput):
            parse(name)


def test_a_request_goes_before_the_drafter_s_own() -> None:
    own = choices(window="fixed", draft_max=4, wire="q8", acceptance="deferred", threshold=0.2)
    assert own.wire_type(body()) == "q8"
    assert own.wire_type(body(wire="f32")) == "f32"
    assert own.rule(body()) == WireAcceptance(0.2, deferred=True)
    assert own.rule(body(acceptance=WireAcceptance())) == WireAcceptance()
    assert own.blocks(body(), model()).window.plan().window == 4
    assert own.blocks(body(draft_max=6), model()).window.plan().window == 6
    assert own.blocks(body(window="stream:2:16"), model()).window.plan().mode == "stream"


def test_exact_has_no_threshold() -> None:
    assert choices(threshold=0.2).rule(body()) == WireAcceptance()


def test_without_drafts_it_is_plain_decoding_whatever_the_policy() -> None:
    for window in (*WINDOWS, "stream:2:16"):
        blocks = choices(window=window).blocks(body(draft_max=0), model())
        assert (blocks.drafted, blocks.window.plan().mode) == (False, "plain")


def test_what_one_reply_learns_of_a_model_serves_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def policy(name: str, draft_max: int, experience: object, *, hedges: bool) -> Fixed:
        given.append(experience)
        return Fixed(draft_max)

    monkeypatch.setattr("dsdnode.node.drafter.options.policy_of", policy)
    own = choices(window="throughput")
    for model_id in ("m", "m", "other", *map(str, range(MAX_EXPERIENCES)), "m"):
        own.blocks(body(), model(model_id=model_id))
    first, again, other, *_, much_later = given
    assert first is again
    assert first is not other
    assert first is not much_later  # bounded: the one used longest ago is forgotten


@pytest.mark.parametrize("width", [16, 4096, 16384, 65536])
@pytest.mark.parametrize("draft_max", [0, 8, 64])
def test_a_block_fits_a_frame_whatever_the_width(width: int, draft_max: int) -> None:
    blocks = choices(window="fixed", draft_max=draft_max).blocks(body(), model(width))
    largest = blocks.window.plan().block
    assert blocks.chunk_positions >= 1
    assert largest <= draft_max
    assert (largest + blocks.chunk_positions) * (4 * width + 4) <= MAX_FRAME_BYTES


def test_a_plan_whose_blocks_fit_no_frame_is_refused_in_words() -> None:
    assert choices().blocks(body(window="stream:20:40"), model(4096)).chunk_positions > 100
    with pytest.raises(BadInput, match="blocks of 20 hidden states of bob's model are too large: 7 at most"):
        choices().blocks(body(window="stream:20:40"), model(65536))


def test_a_strict_drafter_keeps_to_small_batches() -> None:
    """The strict setting is exact for blocks of 1 to 16 positions (dsdnode/engine): fifteen guesses, a given one."""
    assert choices(strict=True).blocks(body(draft_max=32, window="fixed"), model()).window.plan().block == 15
    assert choices().blocks(body(draft_max=32, window="fixed"), model()).window.plan().block == 32
