"""How a reply is asked for: the same knobs as flags of `run` and `chat` and as `/set` in a chat."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click

from dsdnode.cli.options import chain, policy_options
from dsdnode.config import ACCEPTANCES, DEFAULT_THRESHOLD, MAX_DRAFT, parse_text, parse_threshold
from dsdnode.errors import BadInput
from dsdnode.pacing.policies import parse_window
from dsdnode.wire.numbers import parse_wire

if TYPE_CHECKING:
    from dsdnode.client.client import GenerateRequest

MAX_TOKENS = 1 << 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class ReplyFlags:
    """Greedy unless told otherwise. `seed` None: a new one each reply; None from `draft_max` on: the drafter's own."""

    model: str | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    draft_max: int | None = None
    window: str | None = None
    acceptance: str | None = None
    threshold: float | None = None
    wire: str | None = None

    def request(
        self,
        messages: Sequence[dict[str, str]] = (),
        prompt: str | None = None,
        prompt_tokens: Sequence[int] = (),
        *,
        keep: bool = False,
    ) -> GenerateRequest:
        """One of the three is given. The seed is settled here, so that it can be told."""
        from dsdnode.client.request import NEW_SEED_BELOW, GenerateRequest

        return GenerateRequest(
            messages=messages,
            prompt=prompt,
            prompt_tokens=prompt_tokens or None,
            model=self.model,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            seed=secrets.randbelow(NEW_SEED_BELOW) if self.seed is None else self.seed,
            stop=self.stop,
            draft_max=self.draft_max,
            window=self.window or "",
            threshold=self._laxity(),
            deferred=self.acceptance == "deferred",
            wire=self.wire or "",
            keep=keep,
        )

    def _laxity(self) -> float | None:
        """0: exact; None: as the drafter does."""
        if self.acceptance is None:
            return None
        return 0.0 if self.acceptance == "exact" else self.threshold or DEFAULT_THRESHOLD

    def with_text(self, name: str, text: str) -> ReplyFlags:
        """One knob turned as a user types it; an empty text puts it back. Raises BadInput."""
        if name not in KNOBS:
            raise BadInput(f"there is no {name!r} to set; there are {', '.join(KNOBS)}")
        if not text:
            return replace(self, **{name: getattr(ReplyFlags(), name)})
        if name == "threshold" and self.acceptance in (None, "exact"):
            raise BadInput("a threshold goes with acceptance relaxed or deferred: exact acceptance has none")
        value: Any = _PARSED[name](parse_text(text, name)) if name in _PARSED else _number(name, text, *_RANGES[name])
        return replace(self, **{name: value})


def _acceptance(text: str) -> str:
    if text not in ACCEPTANCES:
        raise BadInput(f"acceptance is one of {', '.join(ACCEPTANCES)}, not {text!r}")
    return text


KNOBS = tuple(one.name for one in fields(ReplyFlags))
_RANGES: dict[str, tuple[Callable[[str], float], float, float]] = {
    "max_tokens": (int, 1, MAX_TOKENS),
    "temperature": (float, 0, 100),
    "top_k": (int, 0, 1 << 24),
    "top_p": (float, 1e-6, 1),
    "min_p": (float, 0, 1),
    "seed": (int, 0, MAX_SEED),
    "draft_max": (int, 0, MAX_DRAFT),
}


def _number(name: str, text: str, kind: Callable[[str], float], low: float, high: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        span = f"a whole number from {low} to {high:,}" if kind is int else f"a number from {low:g} to {high:g}"
        raise BadInput(f"{name} is {span}, not {text!r}")
    return value


def stops(texts: Sequence[str]) -> tuple[str, ...]:
    """At most 16 texts, each of 1 to 256 characters. Raises BadInput."""
    if len(texts) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in texts):
        raise BadInput(f"at most {MAX_STOPS} --stop texts of 1 to {MAX_STOP_CHARACTERS} characters each")
    return tuple(parse_text(text, "stop") for text in texts)


reply_options = chain(
    click.option("-m", "--model", metavar="NAME", help="Which model, when the swarm serves several."),
    click.option("--max-tokens", metavar="N", help="End the reply after so many tokens (512)."),
    click.option("--temperature", metavar="T", help="0 is greedy, and so is all below 0.001 (0)."),
    click.option("--top-k", metavar="K", help="Draw among the K likeliest (0: all)."),
    click.option("--top-p", metavar="P", help="Draw among the likeliest that make up P (1: all)."),
    click.option("--min-p", metavar="P", help="Draw among those with P times the top probability (0: all)."),
    click.option("--seed", metavar="N", help="Same seed, same text, whatever the window, route or failures."),
    click.option(
        "--stop", multiple=True, metavar="TEXT", help="End the reply before this text or control token; repeatable."
    ),
    click.option(
        "--draft-max",
        "--spec-draft-n-max",
        "draft_max",
        metavar="N",
        help="Draft tokens in a round or block at most (the drafter's own; 0: plain decoding).",
    ),
    policy_options,
)


_PARSED: dict[str, Callable[[str], Any]] = {
    "model": str,
    "stop": lambda text: stops([text]),
    "window": parse_window,
    "acceptance": _acceptance,
    "threshold": parse_threshold,
    "wire": parse_wire,
}


def take(flags: dict[str, Any]) -> ReplyFlags:
    """Take the flags of `reply_options` out of a command's arguments. Raises BadInput."""
    taken = ReplyFlags(stop=stops(flags.pop("stop")))
    for name in KNOBS:
        text = flags.pop(name, None)
        if text == "":  # of a shell's variable that is not set; in a chat's /set it means the default
            raise BadInput(f"--{name.replace('_', '-')} is empty: say what it is, or leave it out")
        if text is not None:
            taken = taken.with_text(name, text)
    return taken
