from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dsdnode.cli.peer_lists import read_peers
from dsdnode.config import (
    MAX_FILE_BYTES,
    MAX_JOINS,
    NodeConfig,
    parse_layers,
    parse_listen,
    parse_rate,
    parse_roles,
    parse_size,
    parse_threshold,
    read_joins,
    read_toml,
    swarm_file,
    write_joins,
)
from dsdnode.errors import BadInput


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("6GB", 6_000_000_000), ("512 MiB", 512 << 20), ("1.5G", 1_500_000_000), ("1000", 1000), ("2kb", 2000)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "6 apples", "-1GB", "0", "GB", "9" * 30, "9" * 400])
def test_no_sizes(text: str) -> None:
    with pytest.raises(BadInput):
        parse_size(text)


def test_layers_are_half_open_with_a_colon_and_inclusive_with_a_dash() -> None:
    assert parse_layers("0:16") == (0, 16)
    assert parse_layers("0-15") == (0, 16)
    assert parse_layers("3-3") == (3, 4)


@pytest.mark.parametrize("text", ["4:4", "5:4", "0:", "all", "-1:3", "0:9999", "0:1:2"])
def test_no_layers(text: str) -> None:
    with pytest.raises(BadInput):
        parse_layers(text)


def test_listen_addresses() -> None:
    assert parse_listen("127.0.0.1:0") == "tcp://127.0.0.1:0"
    assert parse_listen("tcp://[::1]:29170") == "tcp://[::1]:29170"
    for text in ("127.0.0.1", "tcp://x:99999", "udp://127.0.0.1:1", "tcp://:5", "a b:1"):
        with pytest.raises(BadInput):
            parse_listen(text)


def test_thresholds_lie_between_exact_and_anything_goes() -> None:
    assert parse_threshold("0.3") == 0.3
    for text in ("0", "1", "-0.1", "nan", "inf", "much"):
        with pytest.raises(BadInput):
            parse_threshold(text)


def test_roles_come_once_and_in_one_order() -> None:
    assert parse_roles(("shard", "drafter", "shard")) == ("drafter", "shard")
    for names in (("relay",), ()):
        with pytest.raises(BadInput):
            parse_roles(names)


def test_a_swarm_key_is_never_shown() -> None:
    assert "opensesame" not in repr(NodeConfig(swarm_keys=("opensesame",)))


def test_a_swarm_is_remembered_for_its_user_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "place"
    write_joins(data_dir, ("dsd://a", "dsd://b"), ("ours",))
    assert read_joins(data_dir, ("new", "ours")) == ("dsd://a", "dsd://b")
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_memories_are_bounded_and_rubbish_is_none(tmp_path: Path) -> None:
    write_joins(tmp_path, ("dsd://a",) * 1000, ("open",))
    assert len(read_joins(tmp_path, ("open",))) == MAX_JOINS
    for rubbish in (b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'[1, null, "dsd://a"]'):
        swarm_file(tmp_path).write_bytes(rubbish)
        assert set(read_joins(tmp_path, ("open",))) <= {"dsd://a"}
    swarm_file(tmp_path).write_text('["dsd://a"]')  # as earlier versions wrote it
    assert read_joins(tmp_path, ("ours",)) == ("dsd://a",)
    assert read_joins(tmp_path / "nowhere", ("open",)) == ()


def test_members_of_another_swarm_are_not_told(tmp_path: Path) -> None:
    """Alice's node was in an open swarm, or had another key: who was in there is not to be greeted with this one."""
    write_joins(tmp_path, ("dsd://a",), ("old", "new"))
    assert read_joins(tmp_path, ("new",)) == read_joins(tmp_path, ("other", "old")) == ("dsd://a",)
    for others in (("open",), ("other",), ()):
        assert read_joins(tmp_path, others) == ()
    for rubbish in ('{"joins": ["dsd://a"]}', '{"swarms": 1, "joins": ["dsd://a"]}', '{"swarms": [[], "new"]}', "{}"):
        swarm_file(tmp_path).write_text(rubbish)
        assert read_joins(tmp_path, ("new",)) == ()


@pytest.mark.parametrize("text", [5000 * "[" + 5000 * "]", 5000 * "{a=", "\0", "\ud800"])
def test_a_table_that_cannot_be_read_is_refused_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.toml").write_bytes(f"x = {text}".encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInput, match="is not TOML"):
        read_toml(tmp_path / "node.toml", "configuration")


def test_the_end_of_a_long_file_does_not_go_unread(tmp_path: Path) -> None:
    """Whom alice blocks in its last line would not be blocked."""
    (tmp_path / "node.toml").write_bytes(b"#" * MAX_FILE_BYTES + b"\nthreads = 4")
    with pytest.raises(BadInput, match=r"the configuration .* has more than 1 MiB"):
        read_toml(tmp_path / "node.toml", "configuration")
    with pytest.raises(BadInput, match=r"the list of peers .* has more than 1 MiB"):
        read_peers(f"@{tmp_path / 'node.toml'}", 64, may_be_empty=True)


@pytest.mark.parametrize(
    ("text", "bits_per_s"),
    [("20Mbit/s", 20_000_000), ("1500 kbit", 1_500_000), ("1.5g", 1_500_000_000), ("8000000", 8_000_000)],
)
def test_rates(text: str, bits_per_s: int) -> None:
    assert parse_rate(text) == bits_per_s


@pytest.mark.parametrize("text", ["", "20 MB/s", "-1Mbit/s", "0", "999 kbit/s", "1000Gbit/s", "9" * 400])
def test_no_rates(text: str) -> None:
    with pytest.raises(BadInput):
        parse_rate(text)


@pytest.mark.parametrize(
    ("max_upload", "no_relay", "bits_per_s"),
    [(None, False, 20e6), (0, False, 20e6), (1_000_000, False, 4e6), (100_000_000, False, 20e6), (200_000, False, 0),
     (1_000_000, True, 0)],
)  # fmt: skip
def test_half_of_what_may_be_sent_is_relayed_or_nothing(
    max_upload: int | None, no_relay: bool, bits_per_s: float
) -> None:
    """At less than a relay can do with, circuits that wait for their turns are given up by their ends."""
    config = NodeConfig(max_upload_bytes_per_s=max_upload, no_relay=no_relay)
    assert config.relaying_bits_per_s == bits_per_s
