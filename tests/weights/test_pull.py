"""Alice pulls a model from a hub that behaves as hubs do: right bytes, nothing twice, and clear words."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dsdnode.engine.gguf import cut, read_manifest
from dsdnode.engine.gguf_parts import open_model
from dsdnode.errors import BadInput, DsdError, ModelRefused
from dsdnode.models import demo_target
from dsdnode.weights import plan
from dsdnode.weights import pull as pull_module
from dsdnode.weights.hub import tokens
from dsdnode.weights.pull import Pull, WrongBytes, pulling
from dsdnode.weights.store import Store
from dsdnode.weights.target import DiskTrouble
from dsdnode.weights.web import Limits, SourceChanged, SourceFailed, _next
from tests.engine.test_gguf_parts import split
from tests.weights.hub import REPO, Asked, Fault, Hub, hub_of

QUICK = Limits(connect_s=2.0, stall_s=0.3, pause_s=0.01)
SOURCE = f"hf:{REPO}"
BLOCK_BYTES = 64 * 1024
HEADER_BYTES = 256 * 1024
"""Read at first of each file."""


@dataclass
class Alice:
    """`said`: all words; `steps`: bytes by source."""

    store: Store
    said: list[str] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)

    def begin(self, num_bytes: int, num_done_bytes: int) -> None:
        self.steps = {"before": num_done_bytes}

    def step(self, source: str, num_bytes: int) -> None:
        self.steps[source] = self.steps.get(source, 0) + num_bytes

    @asynccontextmanager
    async def pulling(
        self, hub: Hub, source: str = SOURCE, layers: tuple[int, int] | None = None, weights_hash: str = ""
    ) -> AsyncIterator[Pull]:
        async with pulling(
            self.store, source, layers, self.said.append, weights_hash=weights_hash, env=hub.env, limits=QUICK
        ) as pull:
            yield pull

    async def pull(
        self, hub: Hub, source: str = SOURCE, layers: tuple[int, int] | None = None, weights_hash: str = ""
    ) -> Path:
        async with self.pulling(hub, source, layers, weights_hash) as pull:
            return await pull.run(self.said.append, self)

    @property
    def words(self) -> str:
        return "\n".join(self.said)


@pytest.fixture
def alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alice:
    monkeypatch.setattr(plan, "BLOCK_BYTES", BLOCK_BYTES)
    return Alice(Store(tmp_path / "alice"))


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with hub_of(demo_target()) as one:
        yield one


def some(number: int, every: int, change: Fault) -> Fault:
    """Every so many requests, from this one on."""

    def fault(asked: Asked) -> None:
        if asked.number >= number and (asked.number - number) % every == 0:
            change(asked)

    return fault


def once(number: int, change: Fault) -> Fault:
    return some(number, 1_000_000, change)


async def test_the_whole_file_comes_as_it_is(alice: Alice, hub: Hub) -> None:
    path = await alice.pull(hub)
    assert path.read_bytes() == demo_target().read_bytes() and path.name == "demo-target.gguf"
    assert hub.sent_bytes == demo_target().stat().st_size  # the header was not fetched twice
    assert [entry.source for entry in alice.store.entries()] == [f"{SOURCE}/demo-target.gguf@{'c0ffee' * 6}c0ff"]
    assert alice.said == [] and alice.store.unfinished() == []


@pytest.mark.parametrize("layers", [(0, 2), (3, 5), (6, 8), (0, 8)])
async def test_layers_alone_are_what_split_would_have_cut(
    layers: tuple[int, int], alice: Alice, hub: Hub, tmp_path: Path
) -> None:
    path = await alice.pull(hub, layers=layers)
    cut(demo_target(), *layers, tmp_path / "cut.gguf")
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes()
    assert hub.sent_bytes <= HEADER_BYTES + path.stat().st_size + 2 * plan.GAP_BYTES


async def test_a_model_of_five_parts_is_one(alice: Alice, tmp_path: Path) -> None:
    parts = split(demo_target(), tmp_path, [0, 3, 20, 9])
    whole, shard = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    cut(parts[0], 3, 6, shard)
    cut(demo_target(), 3, 6, whole)
    async with hub_of(*parts) as hub:
        path = await alice.pull(hub, layers=(3, 6))
        assert path.read_bytes() == shard.read_bytes()
        assert [(a, b) for a, b in zip(path.read_bytes(), whole.read_bytes(), strict=True) if a != b] != []
        ids = (read_manifest(path).weights_hash.encode(), read_manifest(whole).weights_hash.encode())
        assert path.read_bytes().replace(*ids) == whole.read_bytes()  # but for whose they are
        first = await alice.pull(hub)
        with open_model(first) as one:
            assert one.read() == b"".join(part.read_bytes() for part in parts)
        assert read_manifest(first).model_id == read_manifest(path).model_id


def short(asked: Asked) -> None:
    asked.cut_at = asked.num_bytes // 2


def silent(asked: Asked) -> None:
    asked.stalls_at = asked.num_bytes // 2


def dripping(asked: Asked) -> None:
    asked.stalls_at, asked.drips = 0, True


def whole(asked: Asked) -> None:
    asked.whole = True


def elsewhere(asked: Asked) -> None:
    asked.extra["Content-Range"] = f"bytes {asked.start + 7}-{asked.end}/{3122368}"


def busy(asked: Asked) -> None:
    asked.status, asked.extra = 429, {"Retry-After": "0"}


def broken(asked: Asked) -> None:
    asked.status = 500


def dropped(asked: Asked) -> None:
    asked.cut_at = 0


@pytest.mark.parametrize("trouble", [short, silent, whole, elsewhere, busy, broken, dropped])
async def test_one_trouble_among_many_requests(trouble: Fault, alice: Alice, hub: Hub) -> None:
    """What had come before it is not fetched again; of a server that sends all of the file, the rest is left unread."""
    hub.faults = [some(1, 3, trouble)]
    path = await alice.pull(hub)
    assert path.read_bytes() == demo_target().read_bytes()
    assert sum(alice.steps.values()) == demo_target().stat().st_size
    if trouble not in (whole, silent, elsewhere):
        assert hub.sent_bytes == demo_target().stat().st_size


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (silent, "127.0.0.1: nothing came for 0.3 s, 6 times in a row"),
        (dripping, "127.0.0.1: next to nothing came for 0.3 s, 6 times in a row"),
        (dropped, "127.0.0.1: its answer ended early, 6 times in a row"),
        (busy, "127.0.0.1: it says that we ask too much, 6 times in a row"),
        (broken, r"127.0.0.1: it fails \(500\), 6 times in a row"),
        (elsewhere, "it sent another range"),
    ],
)
async def test_what_never_ends_is_given_up_in_words(trouble: Fault, words: str, alice: Alice, hub: Hub) -> None:
    """And what has come by then is there the next time."""
    if trouble is silent:  # even the first bytes
        trouble = none
    hub.faults = [some(2, 1, trouble)]
    with pytest.raises(SourceFailed, match=words):
        await alice.pull(hub)
    hub.faults, before = [], hub.sent_bytes
    await alice.pull(hub)
    assert alice.steps["before"] > 0
    assert hub.sent_bytes - before == alice.steps["127.0.0.1"]
    assert sum(alice.steps.values()) == demo_target().stat().st_size


def none(asked: Asked) -> None:
    asked.stalls_at = 0


async def test_a_server_says_when_to_come_again(alice: Alice, hub: Hub) -> None:
    def later(asked: Asked) -> None:
        asked.status, asked.extra = 429, {"Retry-After": "7000"}

    hub.faults = [once(1, later)]
    with pytest.raises(SourceFailed, match="it says that we ask too much; it wants to be asked again in 117 min"):
        await alice.pull(hub)


async def test_links_that_expire_are_asked_for_anew(alice: Alice, hub: Hub) -> None:
    hub.link_uses = 2
    path = await alice.pull(hub)
    assert path.read_bytes() == demo_target().read_bytes()
    assert hub.sent_bytes == demo_target().stat().st_size and alice.said == []


async def test_the_token_goes_to_the_hub_alone(alice: Alice, hub: Hub) -> None:
    hub.token, hub.gated = "hf_secret", True
    await alice.pull(hub)
    assert {token for where, token in hub.seen_tokens if where == "front"} == {"hf_secret"}
    assert {token for where, token in hub.seen_tokens if where == "back"} == {""}
    kept = b"".join(file.read_bytes() for file in alice.store.folder.rglob("*") if file.is_file())
    assert b"hf_secret" not in kept


async def test_what_the_hub_refuses_is_said_with_what_to_do(alice: Alice, hub: Hub) -> None:
    env, hub.gated, hub.token = hub.env, True, "right"
    with pytest.raises(ModelRefused, match=r"is gated: accept its terms at http://127.*; no token is here \(HF_TOKEN"):
        async with pulling(alice.store, SOURCE, None, print, env=env, limits=QUICK):
            pass
    with pytest.raises(ModelRefused, match=r"has no alice/dema-GGUF, or it is private.*; there is alice/demo-GGUF"):
        await alice.pull(hub, "hf:alice/dema-GGUF")
    with pytest.raises(ModelRefused, match=r"has no Q9_9; there is demo-target\.gguf"):
        await alice.pull(hub, f"{SOURCE}:Q9_9")
    with pytest.raises(ModelRefused, match=r"has no file demo-traget.gguf; there is demo-target.gguf"):
        await alice.pull(hub, f"{SOURCE}/demo-traget.gguf")


def flipped(asked: Asked) -> None:
    asked.body = bytes([hub_byte(asked) ^ 1]) + asked.body[1:]


def hub_byte(asked: Asked) -> int:
    asked.body = demo_target().read_bytes()[asked.start : asked.end]
    return asked.body[0]


async def test_wrong_bytes_of_a_whole_file_are_found(alice: Alice, hub: Hub) -> None:
    hub.faults = [once(2, flipped)]
    path = await alice.pull(hub)
    assert path.read_bytes() == demo_target().read_bytes()
    assert "demo-target.gguf: not with the SHA-256 that was said of it" in alice.words


async def test_a_hub_that_always_gives_wrong_bytes_is_not_believed(alice: Alice, hub: Hub) -> None:
    hub.faults = [some(2, 1, flipped)]
    with pytest.raises(WrongBytes, match=r"127.0.0.1 has given demo-target.gguf twice, and never with the SHA-256"):
        await alice.pull(hub)
    assert alice.store.entries() == [] and alice.store.unfinished() == []


async def test_a_file_that_changes_meanwhile_is_not_mixed(alice: Alice, hub: Hub) -> None:
    def replaced(asked: Asked) -> None:
        hub.files["demo-target.gguf"] = hub.files["demo-target.gguf"][:-32] + bytes(64)

    hub.link_uses = 1
    hub.faults = [once(1, replaced)]
    with pytest.raises(SourceChanged, match=r"demo-target.gguf has changed at 127.0.0.1 since this pull began"):
        await alice.pull(hub)
    assert alice.store.entries() == []


async def test_another_file_than_the_swarm_s_is_refused_before_anything_is_fetched(alice: Alice, hub: Hub) -> None:
    with pytest.raises(ModelRefused, match="is another model than the one that is meant"):
        await alice.pull(hub, layers=(0, 2), weights_hash="0" * 63 + "1")
    assert hub.sent_bytes == 0


async def test_a_full_disk_loses_nothing(alice: Alice, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, room = os.pwrite, [BLOCK_BYTES * 20]

    def write(file: int, data: bytes, offset: int) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(DiskTrouble, match=r"the disk is full \(.*make room, then the same command goes on"):
        await alice.pull(hub)
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert [one.name for one in alice.store.unfinished()] == ["demo-target-d011edef"]
    monkeypatch.setattr(pull_module, "TOLD_BYTES", 0)
    path = await alice.pull(hub)
    assert [word.partition(";")[0] for word in alice.said] == ["1.3 MB are here already", "all of it is here"]
    assert path.read_bytes() == demo_target().read_bytes()
    assert BLOCK_BYTES * 19 < alice.steps["before"] <= BLOCK_BYTES * 20


async def test_too_little_room_is_said_before(alice: Alice, hub: Hub, tmp_path: Path) -> None:
    alice.store = Store(tmp_path / "small", max_bytes=1_000_000)
    with pytest.raises(
        DsdError, match=r"3.1 MB are needed on the disk, and 7\d\d kB are left, --max-disk allows 1.0 MB"
    ):
        await alice.pull(hub)
    assert hub.sent_bytes == HEADER_BYTES


async def test_what_the_disk_has_lost_is_fetched_again(alice: Alice, hub: Hub, tmp_path: Path) -> None:
    """A kill, or a loss of power, may keep a journal and lose what it tells of; and of layers no file's hash tells."""
    hub.faults = [some(3, 1, broken)]
    with pytest.raises(SourceFailed):
        await alice.pull(hub, layers=(0, 8))
    hub.faults = []
    partial = alice.store.partial("demo-target-0-8-d011edef")
    with (partial / "demo-target-0-8.gguf").open("r+b") as file:
        file.seek(BLOCK_BYTES + 5000)
        file.write(b"lost")
    with (partial / "journal").open("ab") as file:
        file.write(b"\n3 00ff\n7")  # torn
    path = await alice.pull(hub, layers=(0, 8))
    cut(demo_target(), 0, 8, tmp_path / "cut.gguf")
    assert path.read_bytes() == (tmp_path / "cut.gguf").read_bytes() and alice.steps["before"] > 0


async def test_a_source_without_a_hash_gives_whole_files_alone(alice: Alice, hub: Hub) -> None:
    address = f"{hub.bytes_address}/demo-target.gguf"
    with pytest.raises(ModelRefused, match=r"says no SHA-256 .* give it \(--sha256\), or pull the whole model"):
        await alice.pull(hub, address, layers=(0, 2))
    digest = hashlib.sha256(demo_target().read_bytes()).hexdigest()
    path = await alice.pull(hub, address, layers=(0, 2), weights_hash=digest)
    assert read_manifest(path).weights_hash == digest
    assert (await alice.pull(hub, address)).read_bytes() == demo_target().read_bytes()
    assert {entry.weights_hash for entry in alice.store.entries()} == {digest}


@pytest.mark.slow
async def test_a_pull_that_is_killed_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.bytes_per_s = 4_000_000
    command = [sys.executable, "-m", "dsdnode.cli", "pull", SOURCE, "--yes", "--data-dir", str(tmp_path / "alice")]
    env = {**os.environ, **hub.env}
    journal = Store(tmp_path / "alice").partial("demo-target-d011edef") / "journal"
    killed = await asyncio.create_subprocess_exec(*command, env=env, stderr=subprocess.DEVNULL)
    while not journal.exists() or journal.stat().st_size < 40:  # noqa: ASYNC110 (a block of another process)
        await asyncio.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    hub.bytes_per_s = 0
    again = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
    out, _ = await again.communicate()
    assert again.returncode == 0 and b"demo-target-d011edef: 3.1 MB, layers 0:8 of 8" in out
    path = Store(tmp_path / "alice").folder / "demo-target-d011edef" / "demo-target.gguf"
    assert path.read_bytes() == demo_target().read_bytes()
    assert hub.sent_bytes < demo_target().stat().st_size + 4 * (1 << 20)  # what was on its way, of four requests


async def test_two_do_not_write_one_file(alice: Alice, hub: Hub) -> None:
    async with alice.pulling(hub) as one, alice.pulling(hub) as other:
        with (
            alice.store.held(one.name),
            pytest.raises(BadInput, match="another process is fetching demo-target-d011edef already"),
        ):
            await other.run(print, alice)


def test_a_token_goes_over_no_plain_connection() -> None:
    env = {"HF_ENDPOINT": "http://hub.example", "HF_TOKEN": "hf_secret"}
    with pytest.raises(BadInput, match="a token is not sent without TLS"):
        tokens(env)
    assert tokens({**env, "HF_ENDPOINT": "https://hub.example"}) == {"https://hub.example:443": "hf_secret"}


@pytest.mark.parametrize("location", ["http://cdn.example/file", "file:///etc/passwd", "ftp://cdn.example/file"])
def test_no_redirect_leads_out_of_tls(location: str) -> None:
    assert _next("https://hub.example/a/b", "/c") == "https://hub.example/c"
    with pytest.raises(SourceFailed, match="not followed"):
        _next("https://hub.example/a/b", location)
