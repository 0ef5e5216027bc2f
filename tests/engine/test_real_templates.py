"""Templates of 70 real models say here what they say in transformers, by its own code (real_templates.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment

from dsdnode.engine import template
from dsdnode.engine.template import ChatTemplate, Control
from dsdnode.errors import BadInput
from tests.engine.real_templates import CONVERSATIONS, SPECIALS, TODAY, load

REAL = load()
NAMES = [*SPECIALS.values(), "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
NAMES += ["<end_of_turn>", "<start_of_turn>", "[INST]", "[/INST]", "<|end|>", "<|user|>", "<|assistant|>", "<think>"]
CONTROLS = {name: Control(number) for number, name in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:
            return cls.fromtimestamp(TODAY.timestamp())

    monkeypatch.setattr(template, "datetime", Clock)


@pytest.mark.parametrize("name", REAL)
def test_a_real_template_gives_what_transformers_gives(name: str) -> None:
    source, expected = REAL[name]["source"], REAL[name]["rendered"]
    for controls in ({}, CONTROLS):
        ours = ChatTemplate(source, controls, SPECIALS)
        for conversation, messages in CONVERSATIONS.items():
            try:
                pieces = ours.render(messages)
            except BadInput:
                assert expected[conversation] is None, conversation
                continue
            text = "".join(NAMES[piece] if isinstance(piece, int) else piece for piece in pieces)
            assert text == expected[conversation], conversation


def test_a_template_that_looks_back_of_each_message_is_done_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 4's, of alice's long conversation: to examine what it looks at grew with the square of that."""
    num_examined = 0

    def counted(*arguments: Any) -> bool:
        nonlocal num_examined
        num_examined += 1
        return is_safe(*arguments)

    is_safe = SandboxedEnvironment.is_safe_attribute
    monkeypatch.setattr(SandboxedEnvironment, "is_safe_attribute", counted)
    gemma = ChatTemplate(REAL["google-gemma-4-31B-it"]["source"], CONTROLS, SPECIALS)
    gemma.render([("user", "And?"), ("assistant", "So.")] * 50)
    assert num_examined < 10 * 100


def test_there_are_enough_of_them() -> None:
    texts = [text for one in REAL.values() for text in one["rendered"].values()]
    assert len(REAL) >= 60 and sum(text is not None for text in texts) > 0.8 * len(texts)
