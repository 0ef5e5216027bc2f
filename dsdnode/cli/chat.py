"""`dsdnode chat`: a conversation in the terminal. Ctrl-C stops a reply, Ctrl-D leaves; stdin may be a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from dsdnode.cli import connect, render, reply_flags, slash, streams
from dsdnode.cli.lines import Lines, PipeLines, TerminalLines
from dsdnode.cli.options import common_options, join_options, load, peer_options
from dsdnode.cli.reply_flags import ReplyFlags
from dsdnode.cli.settings import Settings
from dsdnode.cli.slash import ChatState
from dsdnode.cli.wrapping import Wrapping, wrapping
from dsdnode.config import parse_text
from dsdnode.errors import DsdError

if TYPE_CHECKING:
    from dsdnode.client.client import Client, ReplyStats

GREEN = "\x1b[32m"


@click.command(epilog="\b\nExample:\n  dsdnode chat --join dsd://192.0.2.7:29170/KEY --temperature 0.7")
@click.option("--system", metavar="TEXT", default="", help="What the model is told before the conversation.")
@reply_flags.reply_options
@join_options
@peer_options
@common_options
def chat(system: str, **flags: Any) -> None:
    """Talk with a model of the swarm. /help lists what else can be typed."""
    wanted = reply_flags.take(flags)
    asyncio.run(converse(load(flags), wanted, parse_text(system, "--system")))


async def converse(settings: Settings, wanted: ReplyFlags, system: str = "", example: str = "") -> None:
    """Read, answer, until the input ends or /bye. On a terminal a failed reply is told and the chat goes on.

    `example`: something to ask, shown on a terminal, and asked where stdin says nothing at all.
    """
    terminal = sys.stdin.isatty()
    lines: Lines = TerminalLines(settings["data_dir"] / "history") if terminal else PipeLines(sys.stdin)
    async with connect.client(settings) as client:
        state = ChatState(client, wanted, system)
        if terminal:
            click.echo(render.fitted(await _greeting(client) + (f"\ntry: {example}" if example else "")))
        while (text := await lines.read()) is not None:
            if not text.strip():
                continue
            try:
                turn = _turn(state, text)
                if not await (_interruptible(turn) if terminal else turn):
                    return
            except DsdError as error:
                if not terminal:
                    raise
                render.print_error(error)
            await streams.room()
        if example and not (terminal or state.messages):
            click.echo(f"> {example}", err=True)
            await _turn(state, example)


async def _greeting(client: Client) -> str:
    complete = [model.name for model in await client.models() if model.complete]
    names = render.clean(", ".join(complete)) or "no model is complete yet"
    return f"{names} · /help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves"


async def _turn(state: ChatState, text: str) -> bool:
    """One line of input; False to leave."""
    if not parse_text(text, "what was typed").startswith("/"):
        if state.messages and state.messages[-1]["role"] == "user":
            state.messages.pop()  # it was never answered: two questions in a row confuse a model
        state.messages.append({"role": "user", "content": text})
    elif (again := await slash.obey(state, text)) is not slash.Then.REPLY:
        return again is slash.Then.GO_ON
    await answer(state)
    return True


async def _interruptible(turn: Coroutine[Any, Any, bool]) -> bool:
    """Run it to its end or to the first Ctrl-C, which ends no chat: a swarm may be asked for seconds, too."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(turn)
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        task.cancel()

    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped.is_set():
            raise
        return True
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


async def answer(state: ChatState) -> None:
    """Stream the reply to the messages so far; what was said stays in the conversation, however the reply ended."""
    from dsdnode.client.client import Piece

    system = [{"role": "system", "content": state.system}] if state.system else []
    text, threshold, stats, wrap = "", 0.0, None, wrapping()
    request = state.wanted.request(messages=system + state.messages, keep=True)
    try:
        async with contextlib.aclosing(state.client.generate(request, render.tell_waiting)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    text, threshold = text + event.text, event.threshold
                    show(event, state.colors, wrap)
                    await streams.room()
                else:
                    stats, threshold = event.stats, 0.0
    finally:
        if text:
            state.messages.append({"role": "assistant", "content": text})
            click.echo("" if text.endswith("\n") else "\n", nl=False)
        if threshold:  # cut short; relaxed is never silent
            _footer(render.relaxed_label(threshold))
    if stats is not None:
        _count(state, stats)
        _footer(render.stats_line(stats, state.plain_tokens_per_second))
        if word := render.links_word(stats):
            _footer(render.wrapped(word))


def _count(state: ChatState, stats: ReplyStats) -> None:
    """A reply has ended."""
    state.stats = stats
    state.num_replies += 1
    state.num_tokens += stats.completion_tokens
    if not stats.drafted:
        state.plain_tokens_per_second = stats.tokens_per_second


def show(piece: Any, colors: bool, wrap: Wrapping | None) -> None:
    """A piece of text; with colors, green when all of its tokens were drafted (a verdict's own token is not)."""
    text = render.shown(piece.text)
    text = wrap.feed(text) if wrap is not None else text
    drafted = colors and render.colors() and 0 < piece.num_accepted == len(piece.tokens)
    click.echo(f"{GREEN}{text}{render.RESET}" if drafted else text, nl=False, color=True if drafted else None)


def _footer(line: str) -> None:
    """On a terminal below the reply; otherwise where it does not mix with the text."""
    terminal = sys.stdout.isatty()
    line = render.fitted(line)
    click.echo(f"{render.DIM}{line}{render.RESET}" if terminal and render.colors() else line, err=not terminal)
