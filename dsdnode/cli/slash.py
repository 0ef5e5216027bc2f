"""What begins with a slash in a chat, and the state that it is about."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import click
from msgspec import structs

from dsdnode.cli import render
from dsdnode.cli.reply_flags import KNOBS, ReplyFlags
from dsdnode.cli.report import models_table, peers_table
from dsdnode.config import NodeConfig
from dsdnode.errors import BadInput, DsdError

if TYPE_CHECKING:
    from dsdnode.client.client import Client, ReplyStats
    from dsdnode.wire.replies import PlanChange

SHOWN_POSITIONS = 16


@dataclass(slots=True)
class ChatState:
    """Of one conversation in a terminal."""

    client: Client
    wanted: ReplyFlags
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    colors: bool = False
    stats: ReplyStats | None = None
    """Of the last reply."""
    num_replies: int = 0
    num_tokens: int = 0
    plain_tokens_per_second: float | None = None
    """Of the last reply that was decoded without drafts: the only honest measure of a speed-up."""


class Then(Enum):
    """What the chat does after a command."""

    GO_ON = auto()
    REPLY = auto()
    LEAVE = auto()


HELP = (
    ("/set KEY VALUE", "how to reply; no value: back to the default"),
    ("", ", ".join((*KNOBS, "colors on|off"))),
    ("/show", "the settings and how long the conversation is"),
    ("/models", "which models the swarm serves"),
    ("/peers", "who is in the swarm"),
    ("/stats", "figures of the last reply, and the peers that gave it"),
    ("/system TEXT", "what the model is told first; no text: nothing"),
    ("/clear", "forget the conversation"),
    ("/retry", "answer the last question again (with another seed, unless one is set)"),
    ("/bye", "leave, as /quit, /exit and Ctrl-D do"),
    ('"""', "begins and ends an input of several lines"),
)


async def obey(state: ChatState, line: str) -> Then:
    """Carry out one command; a mistake is told, and the chat goes on."""
    name, _, rest = line[1:].strip().partition(" ")
    name = ALIASES.get(name, name)
    command = COMMANDS.get(name)
    if command is None:
        close = _close(name, COMMANDS)
        click.echo(f"there is no /{name}; " + (f"did you mean /{close[0]}?" if close else "see /help"))
        return Then.GO_ON
    try:
        return await command(state, rest.strip())
    except DsdError as error:
        render.print_error(error)
        return Then.GO_ON


def _close(typed: str, known: Iterable[str]) -> list[str]:
    """What was meant, perhaps: what begins like it, else what is spelled nearly so."""
    names = list(known)
    begins = [name for name in names if typed and name.startswith(typed)]
    return begins or difflib.get_close_matches(typed, names, n=1)


async def _help(state: ChatState, rest: str) -> Then:
    click.echo(render.named(HELP))
    return Then.GO_ON


async def _set(state: ChatState, rest: str) -> Then:
    if not rest:
        return await _show(state, rest)
    key, _, value = rest.partition(" ")
    key, value = key.replace("-", "_"), value.strip()
    if key == "colors":
        if value not in ("on", "off"):
            raise BadInput("colors are on or off")
        state.colors = value == "on"
        click.echo(f"colors: {value}")
    elif key in KNOBS:
        state.wanted = state.wanted.with_text(key, value)
        click.echo(f"{key}: {_told(state.wanted, key)}")
    else:
        close = _close(key, (*KNOBS, "colors"))
        raise BadInput(f"there is no {key!r} to set; " + (f"did you mean {close[0]!r}?" if close else "see /help"))
    return Then.GO_ON


async def _show(state: ChatState, rest: str) -> Then:
    told = {knob: _told(state.wanted, knob) for knob in KNOBS}
    told |= {"colors": "on" if state.colors else "off", "system": state.system or "nothing"}
    click.echo(render.named([*told.items(), ("messages", str(len(state.messages)))]))
    return Then.GO_ON


def _told(wanted: ReplyFlags, knob: str) -> str:
    """What a knob stands at, and what that means where nothing was set."""
    value = getattr(wanted, knob)
    if value is None or value == ():
        return UNSET[knob]
    if value == 0 and knob in ("temperature", "top_k", "min_p"):
        return {"temperature": "0 (always the likeliest token)"}.get(knob, "0 (all tokens)")
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else str(value)


async def _models(state: ChatState, rest: str) -> Then:
    click.echo(models_table(await state.client.models()))
    return Then.GO_ON


async def _peers(state: ChatState, rest: str) -> Then:
    click.echo(peers_table(await state.client.peers()))
    return Then.GO_ON


async def _stats(state: ChatState, rest: str) -> Then:
    if state.stats is None:
        click.echo("no reply yet")
        return Then.GO_ON
    click.echo(render.named([*_figures(state.stats), ("in this chat", _so_far(state))]))
    return Then.GO_ON


def _so_far(state: ChatState) -> str:
    return f"{state.num_tokens} tokens in {state.num_replies} {'reply' if state.num_replies == 1 else 'replies'}"


def _figures(stats: ReplyStats) -> list[tuple[str, str]]:
    """By name. `by position`: how often the first, second ... draft token after a rejection stood."""
    shares = [f"{100 * accepted / judged:.0f}%" for judged, accepted in stats.by_position]
    stages = (f"{stage.peer_id[:12]}[{render.span(stage.layers)}]" for stage in stats.pipeline)
    listed = {
        "by_position": [" ".join(shares[:SHOWN_POSITIONS] + ["..."] * (len(shares) > SHOWN_POSITIONS))],
        "plans": list(map(_plan, stats.plans)),
        "pipeline": [" -> ".join(stages)],
    }
    rows: list[tuple[str, str]] = []
    for key, value in structs.asdict(stats).items():
        known = "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        known = ("yes" if value else "no") if isinstance(value, bool) else known
        first, *more = listed.get(key, [known]) or [""]
        rows += [(key.replace("_", " "), first or "-"), *(("", text) for text in more)]
    return rows


def _plan(change: PlanChange) -> str:
    """From which token on it was followed, and why."""
    parts = [change.mode, f"block {change.block}", f"window {change.window}", f"hedges {change.hedges}"]
    plan = ", ".join(parts if change.hedges else parts[:-1])
    return f"token {change.index} ({change.at_s:.2f} s): {plan}" + (f"; {change.reason}" if change.reason else "")


async def _system(state: ChatState, rest: str) -> Then:
    state.system = rest
    click.echo("the model is told that first" if rest else "the model is told nothing first")
    return Then.GO_ON


async def _clear(state: ChatState, rest: str) -> Then:
    num_questions = sum(message["role"] == "user" for message in state.messages)
    state.messages.clear()
    told = f"forgotten: {render.count(num_questions, 'question')} and what was answered"
    click.echo(told if num_questions else "there was nothing to forget")
    return Then.GO_ON


async def _retry(state: ChatState, rest: str) -> Then:
    if state.messages and state.messages[-1]["role"] == "assistant":
        state.messages.pop()
    if not state.messages:
        raise BadInput("there is nothing to answer again")
    return Then.REPLY


async def _bye(state: ChatState, rest: str) -> Then:
    return Then.LEAVE


_OWN = NodeConfig()
UNSET = {
    "model": "the one that the swarm serves",
    "seed": "a new one for each reply",
    "stop": "nothing but the model's own end",
    "draft_max": f"the drafter's own ({_OWN.draft_max}, unless its owner says otherwise)",
    "window": f"the drafter's own ({_OWN.window}, unless its owner says otherwise)",
    "acceptance": f"the drafter's own ({_OWN.acceptance}, unless its owner says otherwise)",
    "threshold": f"the drafter's own ({_OWN.threshold}, where acceptance is not exact)",
    "wire": f"the drafter's own ({_OWN.wire}, unless its owner says otherwise)",
}
"""What holds where nothing was set."""
ALIASES = {"?": "help", "h": "help", "quit": "bye", "exit": "bye", "q": "bye"}
"""As other programs call them."""
COMMANDS: dict[str, Callable[[ChatState, str], Awaitable[Then]]] = {
    "help": _help,
    "set": _set,
    "show": _show,
    "models": _models,
    "peers": _peers,
    "stats": _stats,
    "system": _system,
    "clear": _clear,
    "retry": _retry,
    "bye": _bye,
}
