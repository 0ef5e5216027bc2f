"""Conversations over a pipe, and at a terminal of their own (a pty) where keys matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from dsdnode.client.client import Finished, Piece
from dsdnode.errors import NoPipeline
from dsdnode.wire.replies import PlanChange
from tests.cli.conftest import JOIN, Result, Swarm
from tests.cli.known import STATS

Call = Callable[..., Result]


def reply(text: str, **stats: Any) -> list[object]:
    return [Piece((1,), text, 1), Finished("stop", replace(STATS, **stats))]


def contents(request: object) -> list[str]:
    return [f"{m['role']}: {m['content']}" for m in request.messages]  # type: ignore[attr-defined]


def test_a_conversation_remembers(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("Hello."), reply("Alice.\n")]
    result = call("chat", "--join", JOIN, stdin="I am Alice\n\nWho am I?\n")
    assert (result.code, result.out) == (0, "Hello.\nAlice.\n")
    assert contents(swarm.requests[1]) == ["user: I am Alice", "assistant: Hello.", "user: Who am I?"]
    assert result.err.count("3 tok · 8.1 tok/s") == 2


def test_three_quotes_hold_several_lines(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("ok"), reply("ok")]
    call("chat", "--join", JOIN, stdin='"""one\ntwo\n"""\n"""three"""\n')
    assert contents(swarm.requests[1]) == ["user: one\ntwo", "assistant: ok", "user: three"]


def test_settings_of_a_chat(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("a"), reply("b")]
    script = "/set temperature 0.5\n/set seed 7\n/set stop END\n/system Be short.\nhi\n/set temperature\n/show\nagain\n"
    result = call("chat", "--join", JOIN, "--draft-max", "4", stdin=script)
    first, second = swarm.requests
    assert (first.temperature, first.seed, first.stop, first.draft_max) == (0.5, 7, ("END",), 4)
    assert contents(first)[0] == "system: Be short."
    assert second.temperature == 0.0
    assert "seed         7" in result.out
    assert "system       Be short." in result.out


def test_policies_are_set_in_a_chat(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("a"), reply("b"), reply("c")]
    script = (
        "/set threshold 0.2\n/set window awc\n/set acceptance relaxed\n/set threshold 0.2\n/set wire f16\nhi\n"
        "/set acceptance exact\nhi\n/set acceptance\n/set window\n/set wire\nhi\n/set window big\n"
    )
    result = call("chat", "--join", JOIN, stdin=script)
    asked = [(one.window, one.threshold, one.wire) for one in swarm.requests]
    assert asked == [("awc", 0.2, "f16"), ("awc", 0.0, "f16"), ("", None, "")]
    assert "a threshold goes with acceptance relaxed" in result.err
    assert "'big' is no window policy: choose from throughput" in result.err


def test_a_relaxed_reply_is_labelled_however_it_ends(call: Call, swarm: Swarm) -> None:
    relaxed = replace(STATS, relaxed=3, acceptance="relaxed", threshold=0.3)
    swarm.replies = [
        [Piece((1,), "ok", 1, 0.3), Finished("stop", relaxed)],
        [Piece((1,), "It is ", 1, 0.3), NoPipeline("nobody")],
    ]
    result = call("chat", "--join", JOIN, "--acceptance", "relaxed", stdin="hi\nhi\n")
    assert "a window) · 3 relaxed (0.3)\n" in result.err
    assert "\nrelaxed (0.3)\n" in result.err


def test_mistakes_are_told_and_the_chat_goes_on(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("still here")]
    script = "/set temprature 1\n/set max 1\n/set\n/set temperature hot\n/hlep\n/set colors maybe\n/retry\n/stats\nhi\n"
    result = call("chat", "--join", JOIN, stdin=script)
    assert result.code == 0
    assert "did you mean 'temperature'?" in result.err
    assert "did you mean 'max_tokens'?" in result.err
    assert "top_k        0" in result.out
    assert "temperature is a number from 0 to 100, not 'hot'" in result.err
    assert "there is no /hlep; did you mean /help?" in result.out
    assert "colors are on or off" in result.err
    assert "nothing to answer again" in result.err
    assert "no reply yet" in result.out
    assert result.out.endswith("still here\n")


def test_retry_and_clear(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("no"), reply("yes"), reply("new")]
    call("chat", "--join", JOIN, stdin="well?\n/retry\n/clear\nhi\n")
    first, again, last = swarm.requests
    assert contents(again) == contents(first) == ["user: well?"]
    assert again.seed != first.seed
    assert contents(last) == ["user: hi"]


def test_help_peers_and_stats(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("hello")]
    result = call("chat", "--join", JOIN, stdin="/help\n/peers\nhi\n/stats\n")
    for name in ("/set", "/show", "/peers", "/stats", "/system", "/clear", "/retry", "/bye", '"""'):
        assert name in result.out
    assert "cdcdcdcdcdcd  shard  0:8" in result.out
    assert "\x1b" not in result.out
    assert "abababababab[0:8]" in result.out
    assert "3 tokens in 1 reply" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_stats_show_the_trace_of_windows_and_modes(call: Call, swarm: Swarm) -> None:
    plans = PlanChange(0, 0.0, "rounds", 8, 8), PlanChange(12, 0.8, "stream", 2, 12, 0, "long\x1b links")
    swarm.replies = [reply("hello", plans=plans, by_position=((4, 3), (3, 1)))]
    shown = call("chat", "--join", JOIN, stdin="hi\n/stats\n").out
    assert "by position              75% 33%\n" in shown
    assert "plans                    token 0 (0.00 s): rounds, block 8, window 8\n" in shown
    told = " ".join(shown.split())
    assert "token 12 (0.80 s): stream, block 2, window 12; long\N{REPLACEMENT CHARACTER} links plain" in told


def test_bye_leaves_at_once(call: Call, swarm: Swarm) -> None:
    result = call("chat", "--join", JOIN, stdin="/bye\nnever asked\n")
    assert (result.code, swarm.requests, swarm.closed) == (0, [], 1)


@pytest.mark.parametrize("word", ["/quit", "/exit", "/q"])
def test_whoever_comes_from_another_chat_finds_the_way_out(call: Call, swarm: Swarm, word: str) -> None:
    assert call("chat", "--join", JOIN, stdin=f"{word}\nnever asked\n").code == 0
    assert swarm.requests == []
    assert "/set KEY VALUE" in call("chat", "--join", JOIN, stdin="/?\n").out


def test_a_command_says_what_it_did(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("ok")]
    script = "/set temperature 0.5\n/set temperature\n/set seed\nhi\n/clear\n/system Be short.\n/models\n/show\n"
    out = call("chat", "--join", JOIN, stdin=script).out
    for said in (
        "temperature: 0.5\n",
        "temperature: 0 (always the likeliest token)\n",
        "seed: a new one for each reply\n",
        "forgotten: 1 question and what was answered\n",
        "the model is told that first\n",
        "demo-target  efefefefefef",
        "draft_max    the drafter's own (8, unless its owner says otherwise)",
    ):
        assert said in out


def test_a_speed_up_is_claimed_once_plain_decoding_was_measured(call: Call, swarm: Swarm) -> None:
    swarm.replies = [reply("a"), reply("b", drafted=0, tokens_per_second=4.05), reply("c")]
    result = call("chat", "--join", JOIN, stdin="1\n/set draft-max 0\n2\n/set draft-max 8\n3\n")
    lines = [line for line in result.err.splitlines() if "tok/s" in line]
    assert ["plain" in line for line in lines] == [False, False, True]
    assert lines[2].endswith("· 2.0x plain")


def test_in_a_pipe_a_lost_pipeline_ends_the_chat_with_its_code(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[Piece((1,), "It is ", 1), NoPipeline("layers 3:5 are hosted by nobody")]]
    result = call("chat", "--join", JOIN, stdin="hi\nmore\n")
    assert (result.code, result.out) == (4, "It is \n")
    assert "layers 3:5" in result.err
