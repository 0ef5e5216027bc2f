"""What a request asks for, what it leaves to the drafter, and what no block could carry."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsdnode.config import NodeConfig
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput
from dsdnode.node.drafter.options import MAX_EXPERIENCES, Options
from dsdnode.pacing.policies import POLICIES, Terms
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.masks import MAX_VOCAB_SIZE
from dsdnode.swarm.catalogue import Model
from dsdnode.wire.codec import MAX_FRAME_BYTES
from dsdnode.wire.messages import WireAcceptance, WireSampling
from dsdnode.wire.replies import Constraint, GenerateBody


def options_of(**config: Any) -> Options:
    return Options.of(NodeConfig(data_dir=Path("nowhere"), **config))


def body(**asked: Any) -> GenerateBody:
    usual: dict[str, Any] = {"messages": (), "text": "hi", "prompt_tokens": (), "tokens": (), "model": "m"}
    usual |= {"sampling": WireSampling(), "max_tokens": 9, "stop": (), "draft_max": -1}
    return GenerateBody(**usual | asked)


VOCABULARY = Vocab([b""] * 97, frozenset({0}), False)


def model(width: int = 160, model_id: str = "m") -> Model:
    return Model(model_id, "bob's model", 8, width, 97, "t", 4096, (), 1, "")


def test_a_request_goes_before_the_drafter_s_own() -> None:
    own = options_of(window="fixed", draft_max=4, wire="q8", acceptance="deferred", threshold=0.2)
    assert own.reply(body(), model(), VOCABULARY).wire == "q8"
    assert own.reply(body(wire="f32"), model(), VOCABULARY).wire == "f32"
    assert own.reply(body(), model(), VOCABULARY).acceptance == WireAcceptance(0.2, deferred=True)
    assert own.reply(body(acceptance=WireAcceptance()), model(), VOCABULARY).acceptance == WireAcceptance()
    assert own.reply(body(), model(), VOCABULARY).window.plan().window == 4
    assert own.reply(body(draft_max=6), model(), VOCABULARY).window.plan().window == 6
    assert own.reply(body(window="stream:2:16"), model(), VOCABULARY).window.plan().mode == "stream"
    assert own.reply(body(), model(), VOCABULARY).patience_s == own.patience_s
    assert own.reply(body(patience_s=300.0), model(), VOCABULARY).patience_s == 300


def test_a_model_of_more_tokens_than_any_has_is_asked_for_free_text_alone() -> None:
    """Mallory's record says that hers has a thousand million, and that it is read as bob's."""
    own, json = options_of(), Constraint("json_schema", "{}")
    bobs, mallorys = (replace(model(), vocab_size=num) for num in (MAX_VOCAB_SIZE, 1 << 30))
    assert own.reply(body(constraint=json), bobs, VOCABULARY) and own.reply(body(), mallorys, VOCABULARY)
    with pytest.raises(BadInput, match="1073741824 tokens: too many"):
        own.reply(body(constraint=json), mallorys, VOCABULARY)


def test_a_reply_that_need_not_be_exact_copies_nothing() -> None:
    """The judge would let stand what was said before wherever it nearly agrees, and the text would go round."""
    own = options_of()
    assert own.reply(body(), model(), VOCABULARY).copies
    assert not own.reply(body(acceptance=WireAcceptance(0.3)), model(), VOCABULARY).copies
    assert not own.reply(body(draft_max=0), model(), VOCABULARY).copies


NAMED = Vocab([b""] * 97, frozenset({0}), True, {"<|end|>": 0, "<|user|>": 1, "<s>": 2, "[": 3, "<|channel|>": 4})


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (("<|user|>",), {0, 1}),
        (("<s>", "<|channel|>", "text", "["), {0, 2, 3, 4}),
        (("<|user", "user|>", "s>"), {0}),
        (("a[0]",), {0}),
        ((), {0}),
    ],
)
def test_a_control_token_that_is_named_ends_the_reply(asked: tuple[str, ...], ends: set[int]) -> None:
    """No text of a reply has it, so its id must."""
    assert options_of().reply(body(stop=asked), model(), NAMED).end_tokens == ends
    assert options_of().reply(body(stop=asked, ignore_eos=True), model(), NAMED).end_tokens == ends - {0}


@pytest.mark.parametrize(
    ("stop", "named"), [("\n<|user|>", "<|user|>"), ("<s>x", "<s>"), ("<|channel|>[", "<|channel|>")]
)
def test_a_stop_text_that_can_never_be_seen_is_refused(stop: str, named: str) -> None:
    with pytest.raises(BadInput, match=re.escape(named) + ".*name it alone"):
        options_of().reply(body(stop=(stop,)), model(), NAMED)


def test_exact_has_no_threshold() -> None:
    assert options_of(threshold=0.2).reply(body(), model(), VOCABULARY).acceptance == WireAcceptance()


def test_without_drafts_it_is_plain_decoding_whatever_the_policy() -> None:
    for window in (*POLICIES, "stream:2:16"):
        options = options_of(window=window).reply(body(draft_max=0), model(), VOCABULARY)
        assert (options.drafted, options.window.plan().mode) == (False, "plain")


def test_what_one_reply_learns_of_a_model_serves_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def policy(name: str, terms: Terms) -> FixedRounds:
        given.append(terms.experience)
        return FixedRounds(terms.draft_max)

    monkeypatch.setattr("dsdnode.node.drafter.options.policy_of", policy)
    own = options_of(window="throughput")
    for model_id in ("m", "m", "other", *map(str, range(MAX_EXPERIENCES)), "m"):
        own.reply(body(), model(model_id=model_id), VOCABULARY)
    first, again, other, *_, much_later = given
    assert first is again
    assert first is not other
    assert first is not much_later  # bounded: the one used longest ago is forgotten


@pytest.mark.parametrize("width", [16, 4096, 16384, 65536])
@pytest.mark.parametrize("draft_max", [0, 8, 64])
def test_a_block_fits_a_frame_whatever_the_width(width: int, draft_max: int) -> None:
    options = options_of(window="fixed", draft_max=draft_max).reply(body(), model(width), VOCABULARY)
    largest = options.window.plan().block
    assert options.chunk_positions >= 1
    assert largest <= draft_max
    assert (largest + options.chunk_positions) * (4 * width + 4) <= MAX_FRAME_BYTES


def test_a_plan_whose_blocks_fit_no_frame_is_refused_in_words() -> None:
    assert options_of().reply(body(window="stream:20:40"), model(4096), VOCABULARY).chunk_positions > 100
    with pytest.raises(BadInput, match="blocks of 20 hidden states of bob's model are too large: 7 at most"):
        options_of().reply(body(window="stream:20:40"), model(65536), VOCABULARY)


def test_a_strict_drafter_keeps_to_small_batches() -> None:
    """The strict setting is exact for blocks of 1 to 16 positions (dsdnode/engine): fifteen draft tokens, a given
    one."""
    assert (
        options_of(strict=True).reply(body(draft_max=32, window="fixed"), model(), VOCABULARY).window.plan().block == 15
    )
    assert options_of().reply(body(draft_max=32, window="fixed"), model(), VOCABULARY).window.plan().block == 32
