"""Stop strings in text that comes in pieces, and control tokens that have no text."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdnode.client.client import GenerateRequest
from dsdnode.engine.fake import FakeTextEngine, fake_text
from dsdnode.engine.tokenizer import Vocab
from dsdnode.errors import BadInput
from dsdnode.node.drafter.delivery import StopFilter
from tests.node.swarm import TARGET, fake_swarm, tokens_of

pieces = st.lists(st.text("ab\n", max_size=4), max_size=12)
stops = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@given(pieces, stops)
def test_what_is_shown_is_the_text_before_the_first_stop(parts: list[str], stop: list[str]) -> None:
    filter_ = StopFilter(stop)
    shown = ""
    for part in parts:
        shown += filter_.feed(part)
        if filter_.stopped:
            break
    shown += filter_.flush()
    text = "".join(parts)
    found = [text.find(one) for one in stop if one in text]
    assert filter_.stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # A stop seen early may hide a longer one that began before it and ended later; nothing of a stop is shown.
        assert text.startswith(shown)
        assert not any(one in shown for one in stop)
        assert any(text[len(shown) :].startswith(one) for one in stop)


def test_half_a_stop_string_is_held_back_and_given_at_the_end() -> None:
    filter_ = StopFilter(["END"])
    assert filter_.feed("the E") == "the "
    assert filter_.feed("N") == ""
    assert filter_.flush() == "EN"


@pytest.mark.parametrize(
    ("stop", "ends_before"),
    [
        (("<|user|>", "never"), "<|user|>"),
        (("<s>",), "<s>"),
        (("<|channel|>", "<s>", "<|user|>"), "<s>"),
        (("</s>", "<|channel|>"), "</s>"),  # the end of the text, that was to be ignored
    ],
)
def test_a_reply_ends_before_a_control_token_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, ...], ends_before: str
) -> None:
    """Alice writes --stop "<|user|>": no text of the reply will have it, but a token."""
    prompt = (5, 17, 42, 8)
    expected = fake_text(TARGET, prompt, 60)
    later = list(dict.fromkeys(expected[10:]))
    names = {"<s>": later[2], "<|user|>": later[8], "<|channel|>": later[14], "</s>": later[5]}
    turn = names[ends_before]

    async def vocabulary(engine: FakeTextEngine) -> Vocab:
        pieces = [b"" if token in names.values() else b"x" for token in range(engine.model.vocab_size)]
        return Vocab(pieces, frozenset({names["</s>"]}), True, names)

    monkeypatch.setattr(FakeTextEngine, "vocabulary", vocabulary)

    async def told() -> None:
        async with fake_swarm(tmp_path) as swarm:
            await swarm.add("alice", layers=(0, 4))
            await swarm.add("bob", drafts=True)
            request = GenerateRequest(prompt_tokens=prompt, max_tokens=60, ignore_eos=True, stop=stop)
            tokens, finished = await tokens_of(await swarm.client(), request)
            assert (tokens, finished.reason) == (expected[: expected.index(turn)], "stop")
            with pytest.raises(BadInput, match="name it alone"):
                await tokens_of(swarm.clients[0], replace(request, stop=("\n<|user|>",)))

    asyncio.run(told())
