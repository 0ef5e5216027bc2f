"""Alice fetches a model by the command line, looks what she has, and throws it away."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from dsdnode.cli import fetching, models
from dsdnode.client.client import Client
from dsdnode.config import NodeConfig
from dsdnode.engine.gguf import read_manifest
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.models import demo_draft, demo_target
from dsdnode.weights.store import Store
from tests.cli.conftest import Result
from tests.weights.hub import Hub, hub_of

Call = Callable[..., Result]
SOURCE = "hf:alice/demo-GGUF/demo-target.gguf"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """In a thread of its own: commands have loops of their own."""
    ready, loop, found = threading.Event(), asyncio.new_event_loop(), list[Hub]()
    ended = asyncio.Event()

    async def serve() -> None:
        async with hub_of(demo_target()) as one:
            found.append(one)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    for name, value in found[0].env.items():
        monkeypatch.setenv(name, value)
    yield found[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(30)
    loop.close()


def test_what_a_pull_takes_is_said_and_nobody_is_asked_in_a_script(call: Call, hub: Hub, tmp_path: Path) -> None:
    dry = call("pull", SOURCE, "--layers", "2-4", "--dry-run", "--data-dir", str(tmp_path))
    assert dry.code == 0 and not (tmp_path / "models").exists()
    assert [line.split()[0] for line in dry.out.splitlines()] == ["model", "from", "licence", "to", "on"]
    assert "layers 2:5 of 8" in dry.out and "@c0ffeec0ffee" in dry.out and "gemma" in dry.out
    assert max(map(len, dry.out.splitlines())) <= 80
    asked = call("pull", SOURCE, "--layers", "2:5", "--data-dir", str(tmp_path))
    assert asked.code == 2 and "nobody can be asked here: say so with --yes" in asked.err


def test_a_model_comes_and_goes(call: Call, hub: Hub, tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path))
    made = json.loads(call("pull", SOURCE, "--layers", "2:5", "--yes", "--json", *data).out)
    assert read_manifest(Path(made["path"])).start == 2 and made["licence"] == "gemma"
    assert call("models", "add", str(demo_draft()), *data).code == 0
    listed = json.loads(call("models", "list", "--json", *data).out)["models"]
    assert [one["name"] for one in listed] == ["demo-draft-098a311d", "demo-target-2-5-d011edef"]
    sent = hub.sent_bytes
    again = call("pull", SOURCE, "--layers", "2:5", *data)
    assert again.code == 0 and made["path"] in again.out and hub.sent_bytes == sent
    gone = call("models", "rm", "demo-target-2-5-d011edef", "demo-draft-098a311d", *data)
    assert gone.code == 0 and demo_draft().exists() and not Path(made["path"]).exists()
    assert "none here" in call("models", "list", *data).out
    assert call("models", "rm", "demo-target-2-5-d011edef", *data).code == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pull", "hf:alice"), 2, "names no model of a hub"),
        (("pull", "hf:alice/demo-GGUF/../secret.gguf"), 2, "names no model of a hub"),
        (("pull", "https://user:word@hub.example/a.gguf"), 2, "would end in logs"),
        (("pull", "https://hub.example/model.bin"), 2, "is not the plain name of a GGUF file"),
        (("pull", SOURCE, "--layers", "7:12", "--yes"), 2, "it has layers 0:8"),
        (("pull", "hf:alice/demo-GGUF:Q2_K"), 5, "has no Q2_K"),
        (("pull", "hf:bob/demo-GGUF"), 5, "there is alice/demo-GGUF"),
        (("pull", SOURCE, "--sha256", "ab"), 2, "64 hex digits"),
        (("models", "add", "/no/such/model.gguf"), 5, "cannot be read"),
        (("models", "--json", "list"), 2, "flags stand behind the command"),
    ],
)
def test_what_cannot_be_is_said(
    words: tuple[str, ...], code: int, said: str, call: Call, hub: Hub, tmp_path: Path
) -> None:
    data = () if words[1] == "--json" else ("--data-dir", str(tmp_path))
    result = call(*words, *data)
    assert result.code == code and said in result.err and "Traceback" not in result.err


async def test_a_model_of_the_swarm_with_another_hash_than_alice_says_is_not_fetched(tmp_path: Path) -> None:
    class Bobs:
        async def hosts(self, named: str) -> tuple[str, list[bytes]]:
            return "ab" * 32, []

    wanted, bob = models._Wanted("model", None, "AC" * 32, dry_run=False, yes=True), cast(Client, Bobs())
    with pytest.raises(ModelRefused, match="model is another model here: its SHA-256 is abababababab"):
        await models._from_members(bob, wanted, Store(tmp_path), print, 1e9)


def test_a_model_whose_name_the_store_cannot_have(call: Call, tmp_path: Path) -> None:
    """One is not UTF-8; one begins with a dot, as what is not whole does; and one is nothing but that."""
    data, odd = ("--data-dir", str(tmp_path / "data")), tmp_path / os.fsdecode(b"caf\xe9.gguf")
    for path in (odd, tmp_path / ".hidden.gguf", tmp_path / "...gguf"):
        path.symlink_to(demo_target())
    refused = call("models", "add", str(odd), *data)
    assert refused.code == 2 and "caf\\xe9.gguf: its name is not UTF-8" in refused.err
    assert call("models", "add", str(tmp_path / ".hidden.gguf"), *data).code == 0
    assert call("models", "add", str(tmp_path / "...gguf"), *data).code == 0
    listed = json.loads(call("models", "list", "--json", *data).out)
    assert [one["name"] for one in listed["models"]] == ["hidden-888fd418", "model-888fd418"]
    assert listed["unfinished"] == []


def test_what_is_left_of_a_pull_that_nobody_agreed_to(call: Call, hub: Hub, tmp_path: Path) -> None:
    """A header was kept; it is listed, and can be removed."""
    data = ("--data-dir", str(tmp_path))
    assert call("pull", SOURCE, "--layers", "2:5", *data).code == 2
    listed = call("models", "list", *data)
    assert listed.code == 0 and "demo-target-2-5-d011edef" in listed.out and "so far" in listed.out
    assert call("models", "rm", "demo-target-2-5-d011edef", *data).code == 0
    assert "none here" in call("models", "list", *data).out


def test_all_that_takes_room_in_the_store_is_listed_and_can_be_removed(call: Call, tmp_path: Path) -> None:
    """Alice has renamed a folder, and another one has lost what was said of it, with her lights."""
    data, folder = ("--data-dir", str(tmp_path)), tmp_path / "models"
    assert call("models", "add", str(demo_target()), *data).code == 0
    (folder / "demo-target-888fd418").rename(folder / "mine")
    (folder / "lost").mkdir()
    (folder / "lost" / "model.gguf").write_bytes(bytes(100_000))
    listed = call("models", "list", *data).out
    assert [line.split()[0] for line in listed.splitlines()] == ["NAME", "mine", "lost"]
    mistyped = call("models", "rm", "mine", "lots", *data)
    assert mistyped.code == 2 and "no model 'lots' here" in mistyped.err and (folder / "mine").exists()
    assert "102 kB are free again" in call("models", "rm", "mine", "lost", "lost", *data).out
    assert "none here" in call("models", "list", *data).out and not (folder / "mine").exists()


@pytest.mark.parametrize(("name", "value"), [("ALL_PROXY", "socks5://127.0.0.1:1"), ("SSL_CERT_FILE", "/nowhere")])
def test_an_environment_that_cannot_be_is_no_bug(
    name: str, value: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    result = call("pull", SOURCE, "--yes", "--data-dir", str(tmp_path))
    assert result.code == 2 and "the environment names" in result.err


def test_start_takes_its_model_from_the_hub_or_from_the_store(hub: Hub, tmp_path: Path) -> None:
    config = NodeConfig(data_dir=tmp_path, model_source=SOURCE, layers=(3, 5))
    with pytest.raises(BadInput, match="--yes"):
        asyncio.run(fetching.fetched(config, yes=False))
    fetched = asyncio.run(fetching.fetched(config, yes=True))
    assert fetched.model is not None and fetched.model_source == ""
    assert (read_manifest(fetched.model).start, read_manifest(fetched.model).end) == (3, 5)
    sent = hub.sent_bytes
    assert asyncio.run(fetching.fetched(config, yes=False)) == fetched and hub.sent_bytes == sent
    name = Store(tmp_path).entries()[0].name
    by_name = replace(config, model_source="", model=Path(name), layers=None)
    assert asyncio.run(fetching.fetched(by_name, yes=False)).model == fetched.model
