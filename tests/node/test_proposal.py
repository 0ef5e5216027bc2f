"""What a newcomer would do in a swarm that it looks at: no process, no socket; files and machines as they come."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dsdnode.config import NodeConfig
from dsdnode.engine.gguf import Manifest, read_manifest
from dsdnode.engine.gguf_parts import read_model
from dsdnode.errors import DsdError, ModelRefused
from dsdnode.models import demo_draft, demo_target
from dsdnode.node import probe, proposal, targets
from dsdnode.node.engines import claim_of
from dsdnode.node.machine import Machine
from dsdnode.node.proposal import Found, Proposal, propose
from dsdnode.node.targets import Target
from dsdnode.wire.messages import Contact
from dsdnode.wire.records import NO_HASH, ProviderRecord

ROOMY = Machine(free_memory_bytes=8 << 30, free_disk_bytes=1 << 40)
SOURCE = "hf:alice/demo-GGUF/demo.gguf@" + "c0" * 20
OTHER = "5e" * 32
"""Weights of a model with the demo's tokenizer that is not bundled."""


@dataclass
class Hub:
    """What is where, by source; `asked` for."""

    models: dict[str, Manifest] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    told: bool = True
    """It says the hashes of its files."""

    given: dict[str, Manifest] = field(default_factory=dict)
    """By members, by weights hash."""

    async def among(self, peers: Sequence[bytes], weights_hash: str) -> Any:
        if weights_hash not in self.given:
            raise DsdError("nobody gives it")
        return self._pull(self.given[weights_hash], weights_hash)

    async def look(self, source: str, weights_hash: str, peers: Sequence[bytes] = ()) -> Any:
        self.asked.append(source)
        if source not in self.models:
            raise DsdError("there is no such file")
        manifest = self.models[source]
        known = manifest.weights_hash if self.told else ""
        if weights_hash and known and known != weights_hash:
            raise ModelRefused("another model")
        if not known:
            manifest = replace(manifest, weights_hash=weights_hash)
        return self._pull(manifest, known)

    def _pull(self, manifest: Manifest, known: str) -> Any:
        whole = SimpleNamespace(manifest=manifest)
        remote = SimpleNamespace(weights_hash=known, size_bytes=demo_target().stat().st_size)
        return SimpleNamespace(header=read_model(demo_target()), remote=remote, part=lambda layers: whole)


def manifest_of(weights_hash: str = "") -> Manifest:
    manifest = read_manifest(demo_target())
    return replace(manifest, weights_hash=weights_hash) if weights_hash else manifest


def member(
    who: int, layers: tuple[int, int] = (0, 8), *, weights_hash: str = "", role: str = "shard", source: str = ""
) -> ProviderRecord:
    contact = Contact(bytes([who]) * 32, (f"tcp://192.0.{who}.1:1",))
    manifest = manifest_of(weights_hash) if role == "shard" else read_manifest(demo_draft())
    whole = claim_of(NodeConfig(), manifest, contact)
    start, end = layers if role == "shard" else (0, whole.num_layers)
    more = {"role": role, "start": start, "end": end, "free_sessions": 1, "source": source}
    return msgspec.structs.replace(whole, **more)


def proposed(
    tmp_path: Path,
    *records: ProviderRecord,
    silent: tuple[int, ...] = (),
    machine: Machine = ROOMY,
    hub: Hub | None = None,
    **settings: Any,
) -> Proposal:
    rtt_s = {one.peer_id: 0.01 for one in records if one.public_key[0] not in silent}
    config = NodeConfig(data_dir=tmp_path, **settings)
    contact = Contact(bytes([99]) * 32, ())
    return asyncio.run(propose(config, contact, Found.of(records, rtt_s), machine, hub or Hub()))


def test_who_begins_a_swarm_does_all_of_it_with_the_bundled_models(tmp_path: Path) -> None:
    found = proposed(tmp_path)
    assert found.roles == ("drafter", "shard") and found.layers == (0, 8)
    assert found.disk_bytes == 0 and found.memory_bytes > 0
    assert [one.role for one in found.records] == ["shard", "drafter"]


def test_who_would_be_the_only_drafter_drafts_without_a_draft_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None fits the model: that is no reason for nobody to be answered."""

    async def none(*_: object) -> None:
        return None

    monkeypatch.setattr(proposal, "draft_of", none)
    found = proposed(tmp_path)
    assert found.roles == ("drafter", "shard") and found.layers == (0, 8) and found.draft is None
    shard, drafter = found.records
    assert drafter.weights_hash == NO_HASH and drafter.tokenizer_hash == shard.tokenizer_hash
    assert proposed(tmp_path, member(2, role="drafter")).roles == ("shard",)


@pytest.mark.parametrize(
    ("free_mb", "others", "roles", "words"),
    [
        (245, (), ("drafter", "shard"), r"named takes 227 MB, and 220 MB are free: it drafts without one"),
        (330, (2,), ("shard",), r"named takes 227 MB beside a layer, and 297 MB are free: it does not draft"),
        (230, (2,), ("bootstrap",), r"207 MB are free; a draft model would take 227 MB: it holds"),
    ],
)
def test_a_draft_model_that_was_named_is_not_left_out_in_silence(
    tmp_path: Path, free_mb: int, others: tuple[int, ...], roles: tuple[str, ...], words: str
) -> None:
    small = Machine(free_mb * 1_000_000, 1 << 40)
    drafters = [member(who, role="drafter") for who in others]
    found = proposed(tmp_path, member(1, (0, 3)), *drafters, machine=small, draft_model=demo_draft())
    assert found.roles == roles and found.draft is None and re.search(words, found.why)
    assert "named" not in proposed(tmp_path, member(1, (0, 3)), draft_model=demo_draft()).why


def test_who_drafts_without_a_draft_model_is_not_enough(tmp_path: Path) -> None:
    """Dora has none, dave has one: carol fetches it too. Beside dave and erin she would not."""
    target = replace(manifest_of(OTHER), tokenizer_hash="77" * 32)
    draft = replace(target, weights_hash="44" * 32)
    elsewhere = SOURCE.replace("demo", "draft")
    hub = Hub({SOURCE: target, elsewhere: draft})

    def drafter(who: int, weights_hash: str, source: str) -> ProviderRecord:
        record = claim_of(NodeConfig(), draft, Contact(bytes([who]) * 32, (f"tcp://192.0.{who}.1:1",)))
        return msgspec.structs.replace(record, role="drafter", weights_hash=weights_hash, source=source)

    alice = msgspec.structs.replace(
        claim_of(NodeConfig(), target, Contact(bytes([1]) * 32, ("tcp://192.0.1.1:1",))), source=SOURCE, end=4
    )
    dora, dave, erin = drafter(2, NO_HASH, ""), *(drafter(who, draft.weights_hash, elsewhere) for who in (3, 4))
    found = proposed(tmp_path, alice, dora, dave, hub=hub)
    assert found.draft is not None and found.draft.manifest.weights_hash == draft.weights_hash
    assert proposed(tmp_path, alice, dave, erin, hub=hub).draft is None


def test_bob_takes_what_alice_lacks(tmp_path: Path) -> None:
    found = proposed(tmp_path, member(1, (0, 3)), member(2, role="drafter"))
    assert found.roles == ("drafter", "shard") and found.layers == (3, 8)
    assert found.disk_bytes > 1_000_000, "its layers are cut out"


def test_layers_of_somebody_who_does_not_answer_are_hosted_by_nobody(tmp_path: Path) -> None:
    records = member(1, (0, 3)), member(2, (3, 8))
    assert proposed(tmp_path, *records).layers == (0, 3)
    assert proposed(tmp_path, *records, silent=(2,)).layers == (3, 8)


def test_a_liar_s_model_that_lacks_almost_everything_draws_nobody(tmp_path: Path) -> None:
    """Mallory makes up a model, and that all of it but one layer is missing; alice and carol host theirs."""
    mallory = member(9, (0, 1), weights_hash=OTHER, source=SOURCE)
    hub = Hub({SOURCE: manifest_of(OTHER)})
    found = proposed(tmp_path, member(1, (0, 4)), member(2, (4, 8)), mallory, hub=hub)
    assert found.kind is not None and found.kind.model_id == manifest_of().model_id
    assert hub.asked == []


def test_what_is_not_here_comes_from_where_its_hosts_say_that_it_is(tmp_path: Path) -> None:
    hub = Hub({SOURCE: manifest_of(OTHER)})
    alice = member(1, (0, 4), weights_hash=OTHER, source=SOURCE)
    found = proposed(tmp_path, alice, hub=hub)
    assert found.roles == ("drafter", "shard") and found.layers == (4, 8)
    assert len(found.pulls) == 1 and found.disk_bytes > 1_000_000


def test_without_a_source_members_give_it(tmp_path: Path) -> None:
    """Alice has it from nowhere that anybody could go to. What mallory gives under its name is of another shape."""
    alice = member(1, (0, 4), weights_hash=OTHER)
    assert proposed(tmp_path, alice, hub=Hub(given={OTHER: manifest_of(OTHER)})).layers == (4, 8)
    wrong = replace(manifest_of(OTHER), num_layers=7, end=7)
    assert "shard" not in proposed(tmp_path, alice, hub=Hub(given={OTHER: wrong})).roles


@pytest.mark.parametrize("told", [True, False])
def test_a_record_that_names_another_file_leads_nobody_there(tmp_path: Path, told: bool) -> None:
    """Mallory hosts alice's model, and says that it lies where something else does. Her hub says no hashes."""
    elsewhere = SOURCE.replace("alice", "mallory")
    hub = Hub({elsewhere: manifest_of("66" * 32)}, told=told)
    found = proposed(tmp_path, member(9, (0, 4), weights_hash=OTHER, source=elsewhere), hub=hub)
    assert hub.asked == [elsewhere]
    assert "shard" not in found.roles and found.pulls == []
    hub.models[SOURCE], hub.told = manifest_of(OTHER), True
    both = member(9, (0, 4), weights_hash=OTHER, source=elsewhere), member(1, (4, 8), weights_hash=OTHER, source=SOURCE)
    assert proposed(tmp_path, *both, hub=hub).layers == (0, 4), "alice's is still found"


def test_the_same_bytes_under_another_shape_are_another_model(tmp_path: Path) -> None:
    """Mallory's record has the hash of the file, and makes up the number of its layers."""
    hub = Hub({SOURCE: replace(manifest_of(OTHER), num_layers=7, end=7)})
    found = proposed(tmp_path, member(9, (0, 4), weights_hash=OTHER, source=SOURCE), hub=hub)
    assert hub.asked == [SOURCE] and "shard" not in found.roles


def test_sources_that_lead_nowhere_are_tried_a_few_times(tmp_path: Path) -> None:
    liars = [member(who, (0, 4), weights_hash=OTHER, source=SOURCE.replace("alice", f"m{who}")) for who in range(1, 40)]
    hub = Hub()
    proposed(tmp_path, *liars, hub=hub)
    assert len(hub.asked) == 4


@pytest.mark.parametrize(
    ("free_mb", "roles", "words"),
    [
        (8000, ("drafter", "shard"), "hosted by nobody"),
        (330, ("shard",), "hosted by nobody"),
        (230, ("bootstrap",), "its layers take 216 MB at least, and 207 MB are free; a draft model would take 227 MB"),
    ],
)
def test_a_small_machine_takes_what_fits_it_and_says_so(
    tmp_path: Path, free_mb: int, roles: tuple[str, ...], words: str
) -> None:
    small = Machine(free_mb * 1_000_000, 1 << 40)
    found = proposed(tmp_path, member(1, (0, 3)), member(2, role="drafter"), machine=small)
    assert found.roles == roles and words in found.why


def test_layers_that_have_to_stay_together_and_do_not_fit_leave_what_a_small_machine_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "fits_header", lambda header: lambda start, end: (start, end) == (0, 8))
    small = Machine(245_000_000, 1 << 40)
    found = proposed(tmp_path, member(2, role="drafter"), member(3, (0, 8)), machine=small)
    assert found.roles == ("bootstrap",) and "have to stay together" in found.why


def test_a_machine_that_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(DsdError, match=r"cannot be measured.*No such file.*TMPDIR"):
        asyncio.run(probe.sample_cost(NodeConfig(data_dir=tmp_path), 64, 1000))


def test_a_stranger_s_file_that_is_smaller_than_its_layers_are_many_is_reckoned_with() -> None:
    odd = Target(replace(manifest_of(OTHER), end=512, num_layers=512), read_model(demo_target()), 100)
    assert odd.layer_bytes == 1


def test_a_limit_counts_as_the_machine_does(tmp_path: Path) -> None:
    assert proposed(tmp_path, member(1, (0, 3)), max_memory_bytes=100_000_000).roles == ("bootstrap",)
    with pytest.raises(ModelRefused, match="not one layer"):
        proposed(tmp_path, member(1, (0, 3)), max_memory_bytes=100_000_000, roles=("shard",))


def test_what_is_told_is_done(tmp_path: Path) -> None:
    found = proposed(tmp_path, member(1, (0, 3)), roles=("shard",), layers=(2, 4))
    assert (found.roles, found.layers) == (("shard",), (2, 4))
    assert proposed(tmp_path, roles=("bootstrap",)).records == ()
    assert proposed(tmp_path, roles=("drafter",)).layers is None
