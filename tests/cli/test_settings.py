from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dsdnode.cli import connect
from dsdnode.cli.settings import SETTINGS, resolve, user_file
from dsdnode.config import NodeConfig, write_joins
from dsdnode.errors import BadInput
from dsdnode.identity import Identity, peer_id
from dsdnode.net.handshake import swarm_names
from dsdnode.wire.joins import parse_join
from tests.cli.conftest import JOIN


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_layer_gives_way_to_the_one_above_it(tmp_path: Path) -> None:
    write(user_file(), "threads = 1\ndraft_max = 1\nmax_sessions = 1\nname = 'user'\n")
    file = write(tmp_path / "node.toml", "threads = 2\ndraft_max = 2\nmax_sessions = 2\n")
    env = {"DSDNODE_THREADS": "3", "DSDNODE_DRAFT_MAX": "3", "HOME": "/"}
    settings = resolve({"threads": "4"}, env, file)
    assert [(settings[key], settings.values[key].source) for key in ("threads", "draft_max")] == [
        (4, "--threads"),
        (3, "DSDNODE_DRAFT_MAX"),
    ]
    assert (settings["max_sessions"], settings.values["max_sessions"].source) == (2, str(file))
    assert (settings["name"], settings.values["name"].source) == ("user", str(user_file()))
    assert (settings["wire"], settings.values["wire"].source) == ("auto", "built-in")


def everything(data_dir: Path, key_file: Path) -> str:
    return f"""
        role = ["shard"]
        join = ["{JOIN}"]
        swarm_key = "@{key_file}"
        listen = "127.0.0.1:0"
        advertise = ["tcp://192.0.2.1:29170"]
        no_relay = true
        relay_rate = "5000 kbit/s"
        model = "~/model.gguf"
        model_draft = "draft.gguf"
        layers = "0-3"
        ctx_size = 4096
        threads = 2
        gpu_layers = 1
        max_sessions = 3
        max_memory = "6GB"
        max_disk = "200GB"
        max_download = "5MB/s"
        max_upload = "0"
        allow = ["{64 * "A"}", "{JOIN}"]
        block = "@{data_dir / "blocked"}"
        hours = "22:30-6:00"
        on_battery = true
        on_metered = true
        draft_max = 0
        window = "stream:2:16"
        acceptance = "relaxed"
        threshold = 0.2
        wire = "q8"
        patience = 90
        strict = true
        name = "attic"
        data_dir = "{data_dir}"
        identity = "id.key"
        api_host = "localhost"
        api_port = 8081
        api_key = "@{key_file}"
        api_origin = ["https://app.example"]
        log_level = "debug"
        log_format = "json"
        """


def test_every_setting_can_come_from_a_file_and_reaches_the_node(tmp_path: Path) -> None:
    key_file = write(tmp_path / "swarm.key", "open sesame\nnot this line\n")
    key_file.chmod(0o600)
    write(tmp_path / "blocked", f"# them:\n{64 * 'b'} # a thief\nABCDEF012345\n")
    file = write(tmp_path / "node.toml", everything(tmp_path, key_file))
    settings = resolve({}, {}, file)
    assert all(settings.values[one.key].source == str(file) for one in SETTINGS)
    assert settings.node_config() == NodeConfig(
        roles=("shard",),
        listen="tcp://127.0.0.1:0",
        advertise=("tcp://192.0.2.1:29170",),
        joins=(JOIN,),
        swarm_keys=("open sesame",),
        no_relay=True,
        relay_bits_per_s=5_000_000,
        model=Path.home() / "model.gguf",
        draft_model=Path("draft.gguf"),
        layers=(0, 4),
        context_tokens=4096,
        threads=2,
        gpu_layers=1,
        max_sessions=3,
        max_memory_bytes=6_000_000_000,
        max_disk_bytes=200_000_000_000,
        max_download_bytes_per_s=5_000_000,
        max_upload_bytes_per_s=0,
        allow=(64 * "a", peer_id(parse_join(JOIN).public_key).hex()),
        block=(64 * "b", "abcdef012345"),
        hours=(1350, 360),
        on_battery=True,
        on_metered=True,
        draft_max=0,
        window="stream:2:16",
        acceptance="relaxed",
        threshold=0.2,
        wire="q8",
        patience_s=90,
        strict=True,
        name="attic",
        data_dir=tmp_path,
        identity_path=Path("id.key"),
    )


def test_nothing_said_is_the_built_in_configuration() -> None:
    assert resolve({}, {}).node_config() == NodeConfig()


def test_the_example_files_are_right() -> None:
    configs = Path(__file__).resolve().parents[2] / "configs"
    for path in sorted(configs.glob("*.toml")):
        resolve({}, {}, path)
    uncommented = [line.removeprefix("# ") for line in (configs / "node.toml").read_text().splitlines()]
    keys = {line.split(" = ")[0] for line in uncommented if " = " in line}
    assert keys == {one.key for one in SETTINGS}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("thread = 2", "did you mean 'threads'"),
        ("zzzzz = 1", "known keys: role, join"),
        ("threads = 'many'", "threads: 'many' is not a whole number"),
        ("threads = true", "threads"),
        ("threads = 0", "from 1 to 1024"),
        (f"threads = 0x{5000 * 'f'}", "a number of 20000 bits is out of range"),
        ("strict = 'perhaps'", "neither true nor false"),
        ("wire = 'f8'", "f32, f16"),
        ("window = 'wide'", "choose from throughput"),
        ("window = 'stream:0:4'", "stream:BLOCK:WINDOW"),
        ("acceptance = 'lax'", "exact, relaxed, deferred"),
        ("threshold = 1.0", "between 0 (exact) and 1"),
        ("threshold = 'nan'", "between 0 (exact) and 1"),
        ("threshold = true", "a text is expected"),
        ("role = 'relay'", "unknown role relay: choose from drafter, shard, bootstrap"),
        ("max_upload = 'fast'", "is not a rate"),
        ("max_upload = 2", "at 2 bytes a second what never waits would take all of it: 10kB/s at least"),
        ("allow = ['bob']", "is not a peer: write 64 hex digits"),
        ("allow = ['0123456789ab']", "is not a peer: write 64 hex digits"),
        ("block = ['01234']", "is not a peer: write 12 to 64 hex digits"),
        ("block = ['@/nowhere/peers']", "cannot read the list of peers"),
        ("hours = 'at night'", "are no hours: write from when to when"),
        ("hours = '8:00-24:30'", "are no hours"),
        ("hours = '08:00-8:00'", "all day or never"),
        ("max_download = 0", "nothing would ever be there"),
        ("join = ['192.0.2.1:29170']", "is not a join address"),
        ("swarm_key = '@/no/such/file'", "cannot read the swarm key"),
        ("max_memory = 'lots'", "is not a size"),
        (f"max_memory = {10**18 * 10}", "a number of 64 bits is out of range"),
        (f"max_upload = '{400 * '9'}GB'", "is not a rate"),
        ("threads = ", "is not TOML"),
        ("\x80", "is not TOML"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput) as caught:
        resolve({}, {}, path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_faults_of_a_variable_or_a_flag_are_named() -> None:
    with pytest.raises(BadInput, match=r"DSDNODE_THREDS: unknown setting 'threds'; did you mean 'threads'\?"):
        resolve({}, {"DSDNODE_THREDS": "1"})
    with pytest.raises(BadInput, match="DSDNODE_LAYERS: '3' is not a layer range"):
        resolve({}, {"DSDNODE_LAYERS": "3"})
    with pytest.raises(BadInput, match="--listen: 'here' is not an address"):
        resolve({"listen": "here"}, {})
    with pytest.raises(BadInput, match="cannot read the configuration"):
        resolve({}, {}, Path("/no/such/node.toml"))


def test_lists_in_a_variable() -> None:
    other = JOIN.replace("127.0.0.1:29170", "192.0.2.1:1,192.0.2.2:2")
    settings = resolve({}, {"DSDNODE_ROLE": "shard,drafter", "DSDNODE_JOIN": f"{JOIN} {other}"})
    assert settings["role"] == ("drafter", "shard")
    assert settings["join"] == (JOIN, other)


@pytest.mark.parametrize("said", ["", " ", ",", "@"])
def test_a_list_of_friends_that_names_nobody_is_none(tmp_path: Path, said: str) -> None:
    """Alice's list has become empty, or her shell's variable is not set: she does not mean everybody. Of those whom she
    shuts out it means what it says."""
    (tmp_path / "friends").write_text("# bob has gone away\n\n")
    word = f"@{tmp_path / 'friends'}" if said == "@" else said
    for key in ("allow", "block"):
        for flags, env, told in (
            ({key: (word,)}, {}, ""),
            ({}, {f"DSDNODE_{key.upper()}": word}, ""),
            ({}, {}, f"{key} = ['{word}']"),
            ({}, {}, f"{key} = []"),
        ):
            file = write(tmp_path / "node.toml", told)
            if key == "block":
                assert resolve(flags, env, file)["block"] == ()
                continue
            with pytest.raises(BadInput, match=r"(?i)allow: it names no peer at all"):
                resolve(flags, env, file)


def test_no_friend_at_all_is_nothing_said(tmp_path: Path) -> None:
    assert resolve({"allow": ()}, {}, write(tmp_path / "node.toml", "block = []"))["block"] == ()


def test_a_false_in_a_nearer_layer_wins(tmp_path: Path) -> None:
    file = write(tmp_path / "node.toml", "strict = true")
    assert resolve({}, {"DSDNODE_STRICT": "off"}, file)["strict"] is False


def test_what_is_remembered_and_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """An earlier version, or a full disk: nobody has typed it, and nobody is told to correct it."""
    known = f"dsd://198.51.100.7:29170/{Identity(b'k' * 32).public_key.hex()}"
    write_joins(tmp_path, ("dsd://nonsense", known), ("open",))
    settings: Any = {"data_dir": tmp_path, "swarm_key": ()}
    assert connect._remembered(settings) == (known,)


def test_what_is_remembered_of_a_peer_that_is_joined_by_name_is_tried_beside_it(tmp_path: Path) -> None:
    key, other = (Identity(name * 32).public_key.hex() for name in (b"a", b"b"))
    remembered = f"dsd://11.1.1.1:29170/{key}", f"dsd://11.2.2.2:29170/{other}"
    write_joins(tmp_path, remembered, swarm_names(()))
    settings: Any = {"join": (f"dsd://alice.example:29170/{key.upper()}",), "swarm_key": (), "data_dir": tmp_path}
    joins, _, _, only_remembered = asyncio.run(connect._find(settings))
    assert joins == (*settings["join"], remembered[0]) and not only_remembered
    assert (
        asyncio.run(connect._find(settings | {"swarm_key": ("of another swarm, long enough",)}))[0] == settings["join"]
    )
