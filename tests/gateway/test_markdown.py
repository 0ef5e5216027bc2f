"""What the page makes of a model's words, which are a stranger's: with node in a browser's place."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dsdnode.gateway.page import FOLDER

NODE = shutil.which("node")
PROGRAM = Path(__file__).with_name("npm") / "markdown.mjs"
SPACES = 400_000 * " "
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs)")


def drawn(folder: Path, *texts: str) -> list[str]:
    for name in ("dom.js", "markdown.js"):
        shutil.copy(FOLDER / name, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        [str(NODE), str(PROGRAM), str(folder / "markdown.js")],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_what_models_write_is_drawn(tmp_path: Path) -> None:
    table = "| a | b |\n|:--|--:|\n| 1 | *2* |\nafter"
    assert drawn(tmp_path, "##  One ", "- a\n- b\n  - c", table, "a | b\n---", "a | b\nno rule") == [
        "<h4>One</>",
        "<ul><li>a</><li>b<ul><li>c</></></></>",
        "<div><table><thead><tr><th>a</><th>b</></></><tbody><tr><td>1</><td><em>2</></></></></></><p>after</>",
        "<p>a | b</><hr></>",
        "<p>a | b<br></>no rule</>",
    ]
    assert drawn(tmp_path, "see https://one.example/a. Yes") == ["<p>see <a>https://one.example/a</>. Yes</>"]


def test_long_lines_of_strangers_keep_no_browser_busy(tmp_path: Path) -> None:
    """They took minutes: for each blank all those behind it were tried again."""
    urls = f"http://{'.' * 2000}x " * 50
    hostile = [f"a|b\n|{SPACES}x", f"a|b\n|---{SPACES}x", f"# {SPACES}x\ry", f"- {SPACES}x\ry", urls]
    assert len(drawn(tmp_path, *hostile)) == len(hostile)


def test_a_paragraph_of_many_lines_is_drawn(tmp_path: Path) -> None:
    """They were arguments of one call, of which a browser takes a hundred thousand or so."""
    [text] = drawn(tmp_path, "a\n" * 150_000 + "*end*")
    assert text.endswith("<br></><em>end</></>")
