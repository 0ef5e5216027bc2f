"""Real daemons: bob's draft model has other control tokens, another template and other ends than alice's target."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dsdnode.engine.gguf_header import ARRAY, STRING, UINT32, Value, read_header
from dsdnode.engine.gguf_writer import NewTensor, write_gguf
from dsdnode.models import demo_draft
from tests.node.processes import COMMAND, STOP_TIMEOUT_S, run, swarm

pytestmark = pytest.mark.slow
ASKED = "Tom has 12 apples and buys 7 more. How many apples does he have?"


def strange(path: Path) -> Path:
    """The demo draft model: trained as ever, its control tokens by other names."""
    header = read_header(demo_draft())
    tokens = header.metadata["tokenizer.ggml.tokens"].data
    assert isinstance(tokens, tuple)
    names = [f"<|other_{token}|>".encode() if token < 5 else text for token, text in enumerate(tokens)]
    metadata = header.metadata | {
        "tokenizer.ggml.tokens": Value(ARRAY, tuple(names), STRING),
        "tokenizer.ggml.eos_token_id": Value(UINT32, 900),
        "tokenizer.ggml.eot_token_id": Value(UINT32, 901),
        "tokenizer.chat_template": Value(STRING, "<think>{{ messages[-1].content | upper }}</think>"),
    }
    with demo_draft().open("rb") as file:
        write_gguf(path, metadata, [NewTensor(t.name, t.shape, t.type, t) for t in header.tensors.values()], file)
    return path


def test_the_target_s_template_and_ends_are_those_of_the_reply(tmp_path: Path) -> None:
    common = ("--threads", "1")
    with swarm(tmp_path) as made:
        join = made.start("alice", "--role", "shard", *common).join
        path = strange(tmp_path / "strange.gguf")
        bob = made.start("bob", "--role", "drafter", "-md", str(path), "--join", join, *common)
        assert bob.ready
        assert "drafting for another tokenizer" in (log := bob.log.read_text())
        assert "0 ('<|other_0|>' and '<|endoftext|>')" in log
        drafted = ("--window", "fixed")  # also where this machine is too busy for drafting to pay
        told = json.loads(run("run", "--join", join, "--json", "--seed", "1", *drafted, ASKED).stdout)
        words = [*COMMAND, "chat", "--join", join]
        talk = subprocess.run(words, input=f"{ASKED}\n", capture_output=True, text=True, timeout=60)
        assert talk.returncode == 0 and told["text"].strip() in talk.stdout
        bob.process.terminate()
        bob.process.wait(STOP_TIMEOUT_S)
        assert made.start("dora", "--role", "drafter", "--join", join, *common).ready
        usual = json.loads(run("run", "--join", join, "--json", "--seed", "1", ASKED).stdout)
    assert (told["tokens"], told["finish_reason"]) == (usual["tokens"], "stop")
    assert told["stats"]["prompt_tokens"] == usual["stats"]["prompt_tokens"]
    assert told["stats"]["accepted"] > 0
