"""`--window` by name."""

from __future__ import annotations

from itertools import pairwise

import pytest
from click.testing import CliRunner

from dsdnode.bench.schemes import parse_schemes
from dsdnode.cli.main import cli
from dsdnode.cli.reply_flags import ReplyFlags
from dsdnode.cli.settings import resolve
from dsdnode.errors import BadInput
from dsdnode.pacing.awc import AdaptiveWindow, ThresholdWindow
from dsdnode.pacing.policies import POLICIES, Policy, Terms, parse_window, policy_of
from dsdnode.pacing.throughput import MODES, Throughput
from dsdnode.speculation.controller import FixedRounds
from dsdnode.speculation.plan import Plan
from tests.pacing.toy_stream import ring, run

ALLOWED = {
    "throughput": MODES,
    "throughput:rounds": ("plain", "rounds"),
    "throughput:stream": ("plain", "stream"),
    "throughput:hedged": ("plain", "stream", "hedged"),
    "throughput:model": MODES,
    "throughput:ngrams": ("plain",),
}
CPU, GPU = (14.0, 6.0, 5.0), (10.0, 0.3, 3.0)


def test_every_name_gives_its_policy() -> None:
    assert isinstance(policy_of("fixed", Terms(8)), FixedRounds)
    assert policy_of("fixed", Terms(5)).plan() == Plan("rounds", 5, 5)
    assert isinstance(policy_of("awc", Terms(8)), AdaptiveWindow)
    assert isinstance(policy_of("threshold", Terms(8)), ThresholdWindow)
    assert all(isinstance(policy_of(name, Terms(8)), Throughput) for name in ALLOWED)


def test_plans_for_experiments_are_taken_as_they_are() -> None:
    assert policy_of("stream:2:16", Terms(8)).plan() == Plan("stream", 2, 16)
    assert policy_of("hedged:2:24:1", Terms(8)).plan() == Plan("hedged", 2, 24, 1)
    assert run(ring(2, 10, CPU, 0.8), policy_of("stream:2:16", Terms(8)), 60).plans[-1].mode == "stream"


@pytest.mark.parametrize("name", [*POLICIES, "stream:2:16", "hedged:2:16:1"])
def test_no_draft_is_plain_decoding_whatever_the_name(name: str) -> None:
    result = run(ring(2, 10, CPU, 0.8), policy_of(name, Terms(0)), 40)
    assert {event.mode for event in result.events} == {"plain"}
    assert all(event.num_draft == 0 for event in result.events)


@pytest.mark.parametrize(
    "name",
    ["", "fast", "throughput:", "throughput:plain", "stream", "stream:0:4", "stream:4:2", "stream:2:65", "stream:2:4:1",
     "hedged:2:4", "hedged:2:4:0", "hedged:2:4:3", "stream:2:16 ", "stream:-1:4", "Fixed", "x" * 10_000],
)  # fmt: skip
def test_another_name_is_refused_with_what_is_allowed(name: str) -> None:
    for refuse in (parse_window, lambda text: policy_of(text, Terms(8))):
        with pytest.raises(BadInput) as refused:
            refuse(name)
        assert all(known in str(refused.value) for known in POLICIES) and len(str(refused.value)) < 500


@pytest.mark.parametrize("text", [*POLICIES, "stream:1:1", "stream:2:16", "stream:64:64", "hedged:2:8:1"])
def test_what_is_there_is_taken_as_it_is_written(text: str) -> None:
    assert parse_window(text) == text


@pytest.mark.parametrize("draft_max", [-1, 65])
def test_a_window_out_of_range_is_refused(draft_max: int) -> None:
    with pytest.raises(BadInput, match="0 \\(plain decoding\\) to 64"):
        policy_of("throughput", Terms(draft_max))


def test_a_mode_that_is_not_allowed_is_never_planned() -> None:
    for name, modes in ALLOWED.items():
        for rate in (0.0, 0.8):
            result = run(ring(4, 10, CPU, rate, 0.4), policy_of(name, Terms(8)), 150)
            assert {change.mode for change in result.plans} <= set(modes), name


def test_draft_max_caps_every_block() -> None:
    for name in ("awc", "threshold", *ALLOWED):
        result = run(ring(4, 50, (10.0, 0.3, 3.0), 0.95, 0.4), policy_of(name, Terms(3)), 150)
        assert max(change.block for change in result.plans) <= 3, name


def test_the_threshold_rule_takes_one_step_a_round() -> None:
    windows = [event.window for event in run(ring(2, 10, CPU, 0.8), policy_of("threshold", Terms(6)), 120).events]
    assert {abs(after - before) for before, after in pairwise(windows)} <= {0, 1}
    assert max(windows) == 6 and min(windows) >= 1
    hopeless = run(ring(2, 10, CPU, 0.0), policy_of("threshold", Terms(6)), 60)
    assert hopeless.plans[-1].window == 1, "it cannot switch off"


def test_without_hedges_throughput_streams_alone() -> None:
    def modes(hedges: bool = True) -> set[str]:
        result = run(ring(4, 50, GPU, 0.7), policy_of("throughput", Terms(8, hedges=hedges)), 200)
        return {change.mode for change in result.plans}

    assert "hedged" in modes()
    assert "hedged" not in modes(hedges=False)


def test_one_entry_makes_a_policy_known_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob writes a policy: files and flags, requests, bench and the help know it by its entry alone."""
    monkeypatch.setitem(
        POLICIES, "bob", Policy(lambda terms: FixedRounds(terms.draft_max // 2), "half of what is allowed")
    )
    assert policy_of("bob", Terms(8)).plan() == Plan("rounds", 4, 4)
    assert parse_window("bob") == "bob"
    assert resolve({"window": "bob"}, {}, None)["window"] == "bob"
    assert ReplyFlags().with_text("window", "bob").request(prompt="hi").window == "bob"
    assert [scheme.window for scheme in parse_schemes("bob", "f32")] == ["fixed", "bob"]
    with pytest.raises(BadInput, match="bob"):
        parse_window("alice")


def test_the_help_tells_of_every_policy() -> None:
    told = " ".join(CliRunner().invoke(cli, ["run", "--help"]).output.split())
    assert all(name in told for name in POLICIES)


def test_those_that_never_copy_say_so() -> None:
    names = [name for name in (*POLICIES, "stream:2:4") if policy_of(name, Terms(8)).may_copy]
    assert names == ["throughput", *(f"throughput:{one}" for one in ("rounds", "stream", "hedged", "ngrams"))]
    assert not policy_of("throughput", Terms(0)).may_copy
