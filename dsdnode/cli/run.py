"""`dsdnode run`: one prompt, one reply."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from dsdnode.cli import connect, render, reply_flags, streams
from dsdnode.cli.lines import read_all
from dsdnode.cli.options import common_options, join_options, json_option, load, peer_options
from dsdnode.cli.settings import Settings
from dsdnode.cli.wrapping import Wrapping, wrapping
from dsdnode.config import MAX_FILE_BYTES, parse_text
from dsdnode.errors import BadInput, DsdError
from dsdnode.files import at_home, reading

if TYPE_CHECKING:
    from dsdnode.client.client import GenerateRequest, ReplyStats
    from dsdnode.wire.replies import Constraint

MAX_PROMPT_BYTES = 1 << 20
MAX_PROMPT_TOKENS = 1 << 20


@click.command(epilog='\b\nExample:\n  dsdnode run "Ben has 34 stickers. Mia gives Ben 25 more. How many now?"')
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", default="", help="What the model is told before the prompt.")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the model's chat template.")
@click.option("--prompt-tokens", metavar="1,2,3", help="Token ids in place of a text.")
@click.option("--json-schema", metavar="SCHEMA", help="Answer in JSON by this schema: its text, or @FILE.")
@click.option("--regex", metavar="REGEX", help="Answer in a text of which all matches this.")
@reply_flags.reply_options
@join_options
@peer_options
@json_option
@common_options
def run(
    prompt: str | None,
    system: str,
    raw: bool,
    prompt_tokens: str | None,
    json_schema: str | None,
    regex: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Answer PROMPT once. Without one, or with -, it is read from a pipe. The reply is printed as it comes, or as one
    JSON object."""
    wanted, constraint = reply_flags.take(flags), _constraint(json_schema, regex)
    settings = load(flags)
    if prompt is not None and prompt_tokens is not None:
        raise BadInput("give a prompt or --prompt-tokens, and not both")
    if system and (raw or prompt_tokens is not None):
        raise BadInput("--system is for the model's chat template, which --raw and --prompt-tokens do without")
    if prompt_tokens is not None:
        request = wanted.request(prompt_tokens=_ids(prompt_tokens))
    else:
        request = text_request(wanted, _text(prompt), raw, system)
    asyncio.run(reply_once(settings, replace(request, constraint=constraint), as_json))


def _constraint(json_schema: str | None, regex: str | None) -> Constraint | None:
    """Raises BadInput."""
    from dsdnode.client import constraints

    if json_schema is not None and regex is not None:
        raise BadInput("give --json-schema or --regex, and not both")
    if regex is not None:
        return constraints.regex(parse_text(regex, "--regex"))
    return None if json_schema is None else constraints.json_schema(_schema(json_schema))


def _schema(text: str) -> Any:
    data = text.encode("utf-8", "surrogateescape")
    if text.startswith("@"):
        try:
            with reading(at_home(text[1:])) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BadInput(f"--json-schema: {text[1:]} cannot be read: {error.strerror or error}") from None
        if len(data) > MAX_FILE_BYTES:
            raise BadInput(f"--json-schema: {text[1:]} has more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return msgspec.json.decode(data.decode("utf-8-sig"))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadInput(f"--json-schema is no JSON: {error}") from None


def _text(prompt: str | None) -> str:
    """What was typed, or comes through a pipe. Raises BadInput."""
    if prompt is None and sys.stdin.isatty():
        raise BadInput("give a prompt, pipe one in, or say --prompt-tokens")
    text = read_all(sys.stdin, MAX_PROMPT_BYTES) if prompt in (None, "-") else prompt or ""
    if prompt is None and not text.strip():
        raise BadInput("give a prompt: nothing came through the pipe")
    return text


def text_request(wanted: reply_flags.ReplyFlags, text: str, raw: bool, system: str = "") -> GenerateRequest:
    """A request for a text, as a chat message or raw. Raises BadInput."""
    if not text.strip():
        raise BadInput("the prompt is empty")
    if len(parse_text(text, "the prompt").encode()) > MAX_PROMPT_BYTES:
        raise BadInput(f"the prompt is longer than {MAX_PROMPT_BYTES} bytes")
    if raw:
        return wanted.request(prompt=text)
    told = [{"role": "system", "content": parse_text(system, "--system")}] if system else []
    return wanted.request(messages=[*told, {"role": "user", "content": text}])


def _ids(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not parts or len(parts) > MAX_PROMPT_TOKENS or not all(re.fullmatch("[0-9]{1,19}", part) for part in parts):
        raise BadInput(f"--prompt-tokens is a list of token ids like 1,2,3, not {text[:40]!r}")
    return [int(part) for part in parts]


@dataclass(slots=True)
class PrintedReply:
    """What has come of a reply so far; it is kept whatever ends it."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    threshold: float = 0.0
    stats: ReplyStats | None = None
    wrap: Wrapping | None = field(default_factory=wrapping)


async def reply_once(settings: Settings, request: GenerateRequest, as_json: bool) -> None:
    """Ask the swarm and print. Raises DsdError, after what was generated has been printed."""
    reply = PrintedReply()
    try:
        async with (
            connect.client(settings) as client,
            contextlib.aclosing(client.generate(request, render.tell_waiting)) as events,
        ):
            async for event in events:
                _take(reply, event, as_json)
                await streams.room()
    except DsdError as error:
        if reply.tokens:
            reply.finish_reason = "error"
            _finish(reply, request.seed, as_json, str(error))
        raise
    except asyncio.CancelledError:
        if reply.tokens:
            reply.finish_reason = "cancelled"
            _finish(reply, request.seed, as_json, None)
        raise
    _finish(reply, request.seed, as_json, None)


def _take(reply: PrintedReply, event: Any, as_json: bool) -> None:
    from dsdnode.client.client import Piece

    if not isinstance(event, Piece):
        reply.finish_reason, reply.stats = event.reason, event.stats
        return
    reply.threshold = event.threshold
    reply.tokens.extend(event.tokens)
    reply.text += event.text
    if not as_json:
        text = render.shown(event.text)
        click.echo(reply.wrap.feed(text) if reply.wrap is not None else text, nl=False)


def _finish(reply: PrintedReply, seed: int, as_json: bool, error: str | None) -> None:
    """The end of what goes to stdout, also of a reply that was cut short."""
    if as_json:
        whole: dict[str, Any] = {"text": reply.text, "tokens": reply.tokens, "finish_reason": reply.finish_reason}
        cut_short = {"threshold": reply.threshold} if reply.threshold else {}
        stats = cut_short if reply.stats is None else msgspec.to_builtins(reply.stats)
        whole |= {"stats": stats | {"seed": seed}} | ({"error": error} if error else {})
        render.print_json(whole)
        return
    if not reply.text.endswith("\n"):
        click.echo()
    if reply.stats is not None and (reply.stats.threshold or sys.stderr.isatty()):  # relaxed is never silent
        click.echo(render.fitted(render.stats_line(reply.stats), sys.stderr), err=True)
    if reply.stats is not None and sys.stderr.isatty() and (word := render.links_word(reply.stats)):
        click.echo(render.wrapped(word), err=True)
    elif reply.stats is None and reply.threshold:
        click.echo(f"{len(reply.tokens)} tok · {render.relaxed_label(reply.threshold)}", err=True)
