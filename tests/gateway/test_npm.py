"""The `openai` package of npm, as a page's or an editor's programs use it.

    npm install --prefix ~/.cache/dsdnode-npm openai

has it where this looks (or where DSDNODE_NPM says); without it, or without node, the test says that it was left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.gateway.conftest import Served
from tests.gateway.test_tools import BOTH, TWICE

NODE = shutil.which("node")
FOLDER = Path(os.environ.get("DSDNODE_NPM") or Path.home() / ".cache" / "dsdnode-npm")


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs, npm)")
@pytest.mark.skipif(
    not (FOLDER / "node_modules" / "openai").is_dir(), reason=f"npm install --prefix {FOLDER} openai has not been run"
)
async def test_npms_openai(served: Served, tmp_path: Path) -> None:
    served.swarm.script = TWICE
    program = tmp_path / "chat.mjs"
    shutil.copy(Path(__file__).with_name("npm") / "chat.mjs", program)
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(program), served.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, wrong = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, wrong.decode()
    told = json.loads(said)
    assert told["models"] == ["demo"] and told["error"]["status"] == 400
    for choice in (told["whole"], told["streamed"]):
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "I look.")
        calls = [one["function"] for one in choice["message"]["tool_calls"]]
        assert [(one["name"], json.loads(one["arguments"])) for one in calls] == BOTH
    message, *calls = told["response"]
    assert message["content"][0]["text"] == "I look."
    assert [(one["name"], json.loads(one["arguments"])) for one in calls] == BOTH
