"""The `dsdnode` command: its subcommands, and the one place where errors become words and exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from dsdnode.cli import render, streams, swarm_keys
from dsdnode.cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, Invocation
from dsdnode.config import default_data_dir
from dsdnode.errors import BadInput, DsdError
from dsdnode.files import check_own, replacing

click.Context.formatter_class = render.HelpFormatter

COMMANDS = {
    "start": "start",
    **dict.fromkeys(("stop", "status", "peers"), "report"),
    **dict.fromkeys(("models", "pull"), "models"),
    **dict.fromkeys(("identity", "config", "version"), "about"),
    **dict.fromkeys(("pause", "resume"), "volunteering"),
    "split": "shards",
    **{name: name for name in ("invite", "doctor", "chat", "run", "serve", "demo", "sim", "bench", "service")},
}
"""Where each command is; a module is imported when its command is asked for, since all of them take half a second."""

THE_SYSTEM_S = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.ESTALE),
)
"""What it refuses because of rights, disks, memory and names that are the user's: no bug of ours, wherever it comes."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:  # all of them: which one was meant?
                self.add_command(getattr(importlib.import_module(f"dsdnode.cli.{COMMANDS[name]}"), name), name)
        return super().get_command(ctx, cmd_name)


def _print_version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        import importlib.metadata

        click.echo(f"dsdnode {importlib.metadata.version('dsdnode')}")
        context.exit()


@click.group(
    cls=_Commands,
    epilog="\b\nExample (here, then there):\n  dsdnode start --detach && dsdnode invite\n  dsdnode start --join CODE",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Its number.")
def cli() -> None:
    """Run large language models nobody could run alone, together: shards, drafters, speculation.

    `start` a node on each machine, then `chat` from any of them. There is no public swarm to join: somebody begins one.
    """


@click.command(epilog="\b\nExample:\n  dsdnode help start")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(context: click.Context, words: Sequence[str]) -> None:
    """Show what a command is for, as its --help does."""
    command: click.Command = cli
    parent = context.parent
    for word in words:
        found = command.get_command(context, word) if isinstance(command, click.Group) else None
        if found is None:
            raise BadInput(f"there is no command {' '.join(words)!r}; `dsdnode help` lists what there is")
        command, parent = found, click.Context(found, info_name=word, parent=parent)
    click.echo(command.get_help(parent or context))


cli.add_command(help_, "help")


def call(argv: Sequence[str]) -> int:
    """Run one command line; its exit code. Expected errors are one line on stderr, never a traceback."""
    invocation = Invocation(argv=list(argv))
    try:
        result = cli.main(args=list(argv), prog_name="dsdnode", standalone_mode=False, obj=invocation)
        streams.finish()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except DsdError as error:
        render.print_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough
        return EXIT_FAILURE
    except Exception as error:
        if isinstance(error, OSError) and _stands_nowhere(error):
            render.print_error(BadInput("the folder that this was called in is gone: go to another one (cd)"))
            return EXIT_USAGE
        return _unexpected(error, invocation)


def _unexpected(error: Exception, invocation: Invocation) -> int:
    """A bug: say so in a line, keep the traceback where it can be found."""
    trace = traceback.format_exc()
    if invocation.verbose:
        click.echo(trace, err=True)
    try:
        path = (invocation.data_dir or default_data_dir()) / "crash.log"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(path.parent)
        with replacing(path) as file:
            file.write(trace.encode("utf-8", "backslashreplace"))
        where = f"the traceback is in {path}"
    except (OSError, DsdError):
        where = "-v shows the traceback"
    if words := _the_system_s(error):
        render.print_error(f"{words} ({where})")
    else:
        render.print_error(f"unexpected {type(error).__name__}: {error} (this is a bug; {where})")
    return EXIT_FAILURE


def _the_system_s(error: Exception) -> str:
    """Its words, where it is what refuses; "": it is not."""
    if isinstance(error, MemoryError):
        return os.strerror(errno.ENOMEM)
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "the system allows no more threads, or has no memory for them"
    if isinstance(error, OSError) and error.errno in THE_SYSTEM_S:
        about = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{about}{error.strerror}"
    return ""


def _stands_nowhere(error: OSError) -> bool:
    """A path was to be made whole, and the folder that we were called in has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return error.errno == errno.ENOENT and error.filename is None
    return False


def main() -> NoReturn:
    swarm_keys.hide_from_ps()
    streams.take_over()
    try:
        code = call(sys.argv[1:])
    except SystemExit:  # told to leave at once
        streams.forget()
        raise
    finally:
        streams.leave()
    sys.exit(code)
