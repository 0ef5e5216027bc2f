from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from dsdnode.cli import connect
from dsdnode.client.client import Finished, Piece
from dsdnode.config import DEFAULT_THRESHOLD
from dsdnode.errors import NoPipeline, PeerUnavailable
from dsdnode.identity import PeerChoice, peer_id
from dsdnode.wire.joins import parse_join
from dsdnode.wire.replies import Constraint
from tests.cli.conftest import CTRL_C, JOIN, ROOT, Result, Swarm, Words
from tests.cli.known import STATS

Call = Callable[..., Result]
RELAXED: dict[str, Any] = {"relaxed": 2, "acceptance": "relaxed", "threshold": 0.3}
REPLY = [Piece((5, 6), "It is ", 2), Piece((7,), "59.", 0), Finished("stop", STATS)]


def test_the_reply_is_all_of_stdout(call: Call, swarm: Swarm, tmp_path: Path) -> None:
    swarm.replies = [REPLY]
    key_file = tmp_path / "swarm.key"
    key_file.touch(0o600)
    key_file.write_text("correct horse battery staple")
    result = call("run", "34 plus 25?", "--join", JOIN, "--swarm-key", f"@{key_file}")
    assert (result.code, result.out, result.err) == (0, "It is 59.\n", "")
    assert (swarm.joins, swarm.swarm_keys, swarm.closed) == ((JOIN,), ("correct horse battery staple",), 1)
    assert swarm.requests[0].messages == [{"role": "user", "content": "34 plus 25?"}]


def test_json_is_one_object_with_the_seed(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY]
    assert call("run", "34 plus 25?", "--join", JOIN, "--json", "--seed", "7").out == (
        '{"text": "It is 59.", "tokens": [5, 6, 7], "finish_reason": "stop", "stats": {"prompt_tokens": 12, '
        '"prompt_tokens_reused": 0, "completion_tokens": 3, "time_to_first_token_s": 0.25, "tokens_per_second": 8.1, '
        '"drafted": 10, "judged": 0, "accepted": 7, "covered": 0, "relaxed": 0, "acceptance_rate": 0.71, '
        '"acceptance_length_mean": 3.6, "wasted_share": null, "passes": 2, "recoveries": 0, "by_position": [], '
        '"plans": [], "plain_tokens_per_second": null, "pipeline": [{"peer_id": "' + "ab" * 32 + '", "layers": [0, 8]}]'
        ', "wire": "", "links_share": null, "stop_text": "", "copied_judged": 0, "copied_accepted": 0'
        ', "acceptance": "exact", "threshold": 0.0, '
        '"waited_s": 0.25, "was_full": false, "seed": 7}}\n'
    )


def test_every_flag_reaches_the_request(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY]
    words = "--max-tokens 9 --temperature 0.8 --top-k 40 --top-p 0.9 --min-p 0.1 --seed 3 --draft-max 0 -m demo"
    call("run", "hi", "--join", JOIN, *words.split(), "--stop", "\n\n", "--stop", "###")
    asked = swarm.requests[0]
    assert (asked.max_tokens, asked.temperature, asked.top_k, asked.top_p, asked.min_p) == (9, 0.8, 40, 0.9, 0.1)
    assert (asked.seed, asked.draft_max, asked.model, asked.stop) == (3, 0, "demo", ("\n\n", "###"))


def test_what_a_text_is_to_be_reaches_the_request(call: Call, swarm: Swarm, tmp_path: Path) -> None:
    swarm.replies = [REPLY] * 3
    file = tmp_path / "schema.json"
    file.write_text('\ufeff{"type": "array"}')
    for words in (("--json-schema", '{"type": "array"}'), ("--json-schema", f"@{file}"), ("--regex", "[0-9]+")):
        assert call("run", "hi", "--join", JOIN, *words).code == 0
    assert [one.constraint for one in swarm.requests] == [
        Constraint("json_schema", '{"type":"array"}'),
        Constraint("json_schema", '{"type":"array"}'),
        Constraint("regex", "[0-9]+"),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--json-schema", "{"), "is no JSON"),
        (("--json-schema", "7"), "a JSON schema is an object"),
        (("--json-schema", "@/no/such/file"), "cannot be read: No such file"),
        (("--json-schema", "@/dev/zero"), "has more than 1 MiB"),
        (("--json-schema", "{}", "--regex", "a"), "and not both"),
        (("--regex", ""), "is empty"),
    ],
)
def test_what_no_text_can_be_is_said(call: Call, swarm: Swarm, words: tuple[str, ...], says: str) -> None:
    result = call("run", "hi", "--join", JOIN, *words)
    assert result.code == 2 and says in result.err and swarm.requests == []


def test_whom_alice_blocks_is_not_asked(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY]
    assert call("run", "hi", "--join", JOIN, "--block", "0123456789AB", "--allow", 64 * "a").code == 0
    assert swarm.choice == PeerChoice((64 * "a",), ("0123456789ab",))


def test_her_own_node_is_asked_whomever_she_allows() -> None:
    own = peer_id(parse_join(JOIN).public_key)
    assert connect.of_own(JOIN, (64 * "a",), ()).takes(own)
    assert not connect.of_own(JOIN, (64 * "a",), (own.hex(),)).takes(own)
    assert connect.of_own(JOIN, (), ("ab" * 6,)) == PeerChoice((), ("ab" * 6,)), "anybody else, too"


def test_the_policies_reach_the_request(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY]
    words = "--window stream:2:16 --acceptance deferred --threshold 0.2 --wire f16"
    call("run", "hi", "--join", JOIN, *words.split())
    asked = swarm.requests[0]
    assert (asked.window, asked.threshold, asked.deferred, asked.wire) == ("stream:2:16", 0.2, True, "f16")


@pytest.mark.parametrize(
    ("flags", "threshold"), [("", None), ("--acceptance exact", 0.0), ("--acceptance relaxed", DEFAULT_THRESHOLD)]
)
def test_exact_is_not_the_same_as_not_said(call: Call, swarm: Swarm, flags: str, threshold: float | None) -> None:
    swarm.replies = [REPLY]
    call("run", "hi", "--join", JOIN, *flags.split())
    assert swarm.requests[0].threshold == threshold


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--window wide", "choose from throughput"),
        ("--acceptance lax", "exact, relaxed, deferred"),
        ("--acceptance relaxed --threshold 1", "between 0 (exact) and 1"),
        ("--threshold 0.3", "goes with acceptance relaxed or deferred"),
        ("--acceptance exact --threshold 0.3", "goes with acceptance relaxed or deferred"),
        ("--wire f8", "choose from auto, f32, f16"),
    ],
)
def test_a_policy_that_is_not_there_is_told_with_those_that_are(
    call: Call, swarm: Swarm, flags: str, says: str
) -> None:
    result = call("run", "hi", "--join", JOIN, *flags.split())
    assert (result.code, swarm.requests) == (2, [])
    assert says in result.err


def test_relaxed_tokens_are_told_also_where_nobody_watches(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[Piece((5, 6, 7), "It is 59.", 2, 0.3), Finished("stop", structs.replace(STATS, **RELAXED))]] * 2
    result = call("run", "34 plus 25?", "--join", JOIN)
    assert result.out == "It is 59.\n"
    assert result.err.endswith("· 2 relaxed (0.3)\n")
    assert json.loads(call("run", "34 plus 25?", "--join", JOIN, "--json").out)["stats"].items() >= RELAXED.items()


def test_a_relaxed_reply_that_was_cut_short_is_labelled_too(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[Piece((5, 6), "It is ", 2, 0.3), NoPipeline("nobody")]] * 2
    assert "2 tok · relaxed (0.3)\n" in call("run", "34 plus 25?", "--join", JOIN).err
    assert json.loads(call("run", "34 plus 25?", "--join", JOIN, "--json").out)["stats"]["threshold"] == 0.3


def test_the_defaults_are_greedy_and_leave_the_window_to_the_drafter(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY, REPLY]
    call("run", "hi", "--join", JOIN)
    call("run", "hi", "--join", JOIN)
    one, other = swarm.requests
    assert (one.temperature, one.draft_max, one.model) == (0.0, None, None)
    assert one.seed != other.seed


def test_prompts_come_as_text_raw_text_stdin_or_ids(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY] * 3
    call("run", "Once upon", "--raw", "--join", JOIN)
    call("run", "-", "--join", JOIN, stdin="from a pipe\n")
    call("run", "--prompt-tokens", "1, 2,3", "--join", JOIN)
    raw, piped, ids = swarm.requests
    assert (raw.prompt, raw.messages, raw.prompt_tokens) == ("Once upon", (), None)
    assert piped.messages == [{"role": "user", "content": "from a pipe\n"}]
    assert (list(ids.prompt_tokens), ids.prompt, ids.messages) == ([1, 2, 3], None, ())


def test_a_pipe_needs_no_dash_and_the_model_may_be_told_something_first(call: Call, swarm: Swarm) -> None:
    swarm.replies = [REPLY]
    call("run", "--system", "Be short.", "--join", JOIN, stdin="from a pipe\n")
    told, asked = swarm.requests[0].messages
    assert (told, asked["content"]) == ({"role": "system", "content": "Be short."}, "from a pipe\n")
    assert "chat template" in call("run", "x", "--raw", "--system", "Be short.", "--join", JOIN).err


def test_what_was_generated_is_kept_when_layers_are_lost(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[REPLY[0], NoPipeline("layers 3:5 are hosted by nobody")]] * 2
    result = call("run", "34 plus 25?", "--join", JOIN)
    assert (result.code, result.out) == (4, "It is \n")
    assert result.err == "error: layers 3:5 are hosted by nobody\n"
    result = call("run", "34 plus 25?", "--join", JOIN, "--json")
    assert result.code == 4
    shown = json.loads(result.out)
    assert (shown["text"], shown["tokens"], shown["finish_reason"]) == ("It is ", [5, 6], "error")
    assert shown["error"] == "layers 3:5 are hosted by nobody"
    assert swarm.closed == 2


def test_what_a_reply_waits_for_is_told_beside_the_text(call: Call, swarm: Swarm) -> None:
    words = Words("waiting for layers 4:8 (bob does not answer)\x1b[2J")
    swarm.replies = [[REPLY[0], words, *REPLY[1:]]] * 2
    for output in ((), ("--json",)):
        result = call("run", "34 plus 25?", "--join", JOIN, *output)
        assert (result.code, result.err) == (0, "\n[waiting for layers 4:8 (bob does not answer)\ufffd[2J]\n")
        assert "waiting" not in result.out


def test_nothing_generated_nothing_printed(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[NoPipeline("nobody")]]
    result = call("run", "hi", "--join", JOIN, "--json")
    assert (result.code, result.out) == (4, "")


def test_ctrl_c_keeps_what_was_generated(call: Call, swarm: Swarm) -> None:
    swarm.replies = [[REPLY[0], CTRL_C]]
    result = call("run", "34 plus 25?", "--join", JOIN, "--json")
    assert result.code == 130
    assert json.loads(result.out)["finish_reason"] == "cancelled"
    assert swarm.closed == 1


def test_an_unreachable_swarm_is_told(call: Call, swarm: Swarm) -> None:
    swarm.refuses = PeerUnavailable("none of the peers answers")
    result = call("run", "hi", "--join", JOIN)
    assert (result.code, result.err) == (1, "error: none of the peers answers\n")


def test_what_comes_on_stdin_must_be_text(call: Call, swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("run", "-", "--join", JOIN, stdin="")
    assert (result.code, result.err) == (2, "error: the prompt is empty\n")


def test_a_reader_who_leaves_is_no_bug() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "dsdnode.cli", "config", "show"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, timeout=30, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_obeys_neither_a_reply_nor_an_error(
    call: Call, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "\x1b]0;title\x07\x9b31m\u202e\u200f"
    shown = "\ufffd]0;title\ufffd\ufffd31m\ufffd\ufffd"
    swarm.replies = [[Piece((5,), words, 0), NoPipeline(words)]] * 3
    piped = call("run", "hi", "--join", JOIN)
    assert (piped.out, piped.err) == (f"{words}\n", f"error: {shown}\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call("run", "hi", "--join", JOIN).out == f"{shown}\n"
    assert call("chat", "--join", JOIN, stdin="hi\n").out == f"{shown}\n"


@pytest.mark.parametrize("flag", ["--model", "--max-tokens", "--temperature", "--seed", "--window", "--wire"])
def test_a_flag_with_nothing_behind_it_is_no_default(call: Callable[..., Result], swarm: Swarm, flag: str) -> None:
    """Alice's script says "$SEED", which is not set."""
    refused = call("run", "hello", "--join", JOIN, flag, "")
    assert (refused.code, refused.out, swarm.requests) == (2, "", [])
    assert f"{flag} is empty" in refused.err
