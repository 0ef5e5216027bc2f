"""What a scenario file says, and what is answered to one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsdnode.errors import BadInput
from dsdnode.sim.scenario import Group, LinkTerms, NetworkTerms, layers_of, read_scenario, scenario_of

CONFIGS = Path(__file__).parents[2] / "configs" / "sim"
PEERS = [{"role": "shard"}, {"role": "drafter"}]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_those_that_come_along_can_be_read(path: Path) -> None:
    assert read_scenario(path).name == path.stem


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"peers": PEERS, "link": {}}, "unknown key 'link'; did you mean 'links'"),
        ({"peers": PEERS, "links": {"latency": 3}}, "links: unknown key 'latency'; did you mean 'latency_ms'"),
        ({"peers": PEERS, "links": {"latency_ms": "3"}}, "'3' is not a number"),
        ({"peers": PEERS, "links": {"latency_ms": -3}}, "not negative"),
        ({"peers": PEERS, "links": {"latency_ms": float("nan")}}, "nan is not finite"),
        ({"peers": PEERS, "links": {"latency_ms": 10**400}}, "a number of 1329 bits is out of range"),
        ({"peers": [{"role": "shard"}]}, "one of drafters"),
        ({"peers": [{"count": 3}]}, "role must be given"),
        ({"peers": [*PEERS, {"role": "boss"}]}, "'boss' is not one of shard, drafter, bootstrap"),
        ({"peers": PEERS, "load": {"prompt_tokens": [9, 3]}}, "prompts and replies"),
        *(({"peers": PEERS, "load": {key: 10**9}}, "are at most 100000") for key in ("users", "burst", "clients")),
        ({"peers": PEERS, "load": {"arrivals": "rain"}}, "'rain' is not one of poisson, burst, closed"),
        ({"peers": PEERS, "pair": {"acceptance": 1.5}}, "between 0 and 1"),
        ({"peers": PEERS, "policies": {"window": "widest"}}, "'widest' is no window policy"),
        ({"peers": PEERS, "partitions": [{"regions": ["mars"]}]}, "nobody is in the region 'mars'"),
        ({"peers": PEERS, "partitions": [{"regions": [""], "for_s": 0}]}, "for_s positive"),
        ({"peers": [{"role": "shard", "churn": {"mean_s": 9, "gone": 2}}]}, "crashes and gone are shares"),
        ({"peers": [{**one, "relay_mbit": 20} for one in PEERS]}, "somebody must be called without a relay"),
        ({}, "peers must be given"),
    ],
)
def test_a_mistake_is_named(table: dict[str, object], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        scenario_of(table, "x.toml")


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        read_scenario(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(BadInput, match="not TOML"):
        read_scenario(tmp_path / "bad.toml")


def test_links_between_regions_hold_both_ways() -> None:
    links = {"latency_ms": 80, "between": {"eu-us": {"latency_ms": 40}, "eu-eu": {"latency_ms": 5}}}
    scenario = scenario_of({"peers": PEERS, "links": links}, "x")
    pairs = (("eu", "us"), ("us", "eu"), ("eu", "eu"), ("us", "us"))
    assert [scenario.links.of(*pair).latency_s for pair in pairs] == [0.04, 0.04, 0.005, 0.08]


def test_handling_comes_on_top_of_every_way() -> None:
    links = NetworkTerms(latency_ms=10, handling_ms=1.5, between={"eu-eu": LinkTerms(0.0)})
    assert links.of("eu", "us").latency_s == pytest.approx(0.0115) and links.of("eu", "eu").latency_s == 0.0015
    with pytest.raises(ValueError, match="handling"):
        NetworkTerms(handling_ms=-1)


def test_members_of_a_group_share_the_layers() -> None:
    group = Group("shard", 8, stages=4)
    assert [layers_of(group, i, 10) for i in range(5)] == [(0, 2), (2, 5), (5, 7), (7, 10), (0, 2)]
    with pytest.raises(BadInput, match="no range"):
        layers_of(Group("shard", layers="4:20"), 0, 10)
