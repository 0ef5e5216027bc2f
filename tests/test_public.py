"""What a program finds in `import dsdnode`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dsdnode
from dsdnode import errors

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"zmq", "numpy", "msgspec", "asyncio", "structlog", "llama_cpp"}


def test_every_name_is_there() -> None:
    assert dsdnode.__all__ == sorted(dsdnode.__all__)
    for name in dsdnode.__all__:
        assert getattr(dsdnode, name).__name__ == name
        assert name in dir(dsdnode)
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        getattr(dsdnode, "Clint")  # noqa: B009 (mypy knows that it is not there)


def test_every_error_is_named() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert kinds <= set(dsdnode.__all__)


@pytest.mark.slow
def test_the_import_is_cheap_and_the_client_comes_when_asked_for() -> None:
    code = (
        "import sys, dsdnode; print(sorted(sys.modules)); from dsdnode import Client; print(Client.__module__);"
        "print('zmq' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    at_first, home, later = done.stdout.splitlines()
    assert {name for name in HEAVY if f"'{name}'" in at_first} == set()
    assert (home, later) == ("dsdnode.client.client", "True")


@pytest.mark.slow
def test_who_only_asks_waits_for_nothing_that_computes() -> None:
    """Half of a command's start it would be: numpy, templates, and what a web server or a worker needs."""
    code = "import sys, dsdnode.cli.chat, dsdnode.cli.run, dsdnode.client.client; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    idle = {"numpy", "llama_cpp", "jinja2", "starlette", "uvicorn", "llguidance", "jsonschema", "pygments"}
    assert {name for name in idle if f"'{name}'" in done.stdout} == set()


@pytest.mark.slow
def test_a_program_s_output_is_its_own() -> None:
    code = "import dsdnode, structlog; dsdnode.connect; structlog.get_logger('x').info('hello', peer='bob')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_types_are_for_users_too() -> None:
    assert (ROOT / "dsdnode" / "py.typed").exists()
