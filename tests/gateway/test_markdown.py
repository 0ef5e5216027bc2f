"""What the page makes of a model's words, which are a stranger's: with node in a browser's place."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dsdnode.gateway.page import FOLDER

NODE = shutil.which("node")
PROGRAM = Path(__file__).with_name("npm") / "markdown.mjs"
SPACES = 400_000 * " "
FROM_ANYWHERE = re.compile(r"/(?!\^)[^/\s][^/\n]*[+*}]\$/")
"""A pattern that is tied to the end alone."""
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs)")


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


@pytest.mark.slow
@needs_node
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
    dotted = f"http://{'.' * 1900}x"
    assert drawn(tmp_path, f"{dotted}... Yes") == [f"<p><a>{dotted}</>... Yes</>"]


@pytest.mark.slow
@needs_node
def test_long_lines_of_strangers_keep_no_browser_busy(tmp_path: Path) -> None:
    """They took minutes: for each blank all those behind it were tried again."""
    hostile = [f"a|b\n|{SPACES}x", f"a|b\n|---{SPACES}x", f"# {SPACES}x\ry", f"- {SPACES}x\ry"]
    assert len(drawn(tmp_path, *hostile)) == len(hostile)


def test_no_pattern_looks_for_the_end_of_a_run_from_each_of_its_places() -> None:
    """As one that ends in +$ and may begin anywhere does: of an address of dots it takes thousands of steps for each.
    These are seconds at most, and no test's time shows them."""
    programs = [path for path in FOLDER.iterdir() if path.suffix == ".js"]
    assert FOLDER / "markdown.js" in programs
    for path in programs:
        assert not FROM_ANYWHERE.search(path.read_text()), path.name
    assert FROM_ANYWHERE.search('mark.replace(/[.,;:!?]+$/, "")')


@pytest.mark.slow
@needs_node
def test_a_paragraph_of_many_lines_is_drawn(tmp_path: Path) -> None:
    """They were arguments of one call, of which a browser takes a hundred thousand or so."""
    [text] = drawn(tmp_path, "a\n" * 150_000 + "*end*")
    assert text.endswith("<br></><em>end</></>")
