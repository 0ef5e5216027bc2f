"""Every command on every page is one that the real command line takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.commands import Command, commands, refusals
from tests.docs.pages import Place, inline_code, pages, typed_lines

pytestmark = pytest.mark.slow


def written_on(page: Path) -> list[Command]:
    inline = [one for place in inline_code(page) for one in commands(place, inline=True)]
    return inline + [one for place in typed_lines(page) for one in commands(place, inline=False)]


def test_every_command_is_taken() -> None:
    found = [command for page in pages() for command in written_on(page)]
    assert len(found) > 50
    refused = [f"{place}: {reason}" for place, reason in refusals(found)]
    assert not refused, "\n".join(["commands that are not taken:", *refused])


TAKEN = (
    "`dsdnode start --role drafter|shard|bootstrap [--detach]`",
    "`dsdnode bench ...`",
    "`dsdnode run --join ...`",
    '`dsdnode run "..."`',
    "`dsdnode split`",
    "`dsdnode status --json | jq .sessions`",
    "`DSDNODE_THREADS=4 dsdnode config show`",
    "`dsdnode bench --num-prompts N --shards N`",
    "`dsdnode hello 1\\n`",
    "`python -m tests.sim.dht --nodes N [--kill 0.5 [--gone]]`",
    "`python -m tests.sim.worlds --mutate NAME`",
    "`python -m tests.bench.accuracy --links 3`",
    "`python -m tests.measurements run --all`",
    "`./scripts/demo --shards 4`",
    "`pytest -s tests/docs/test_pages.py`",
    "`scripts/train/evaluate.py`",
    "`cd x && dsdnode version --json`",
    "```\n$ dsdnode version\ndsdnode demo target is what it said\n```",
    "```sh\ndsdnode start --role shard \\\n  --layers 0:4   # the first ones\n```",
    "```python\ndsdnode is not a command here\n```",
)
REFUSED = (
    ("`dsdnode fly`", "no such command: fly"),
    ("`dsdnode sim run|walk`", "no such command: walk"),
    ("`dsdnode start --wings`", "--wings"),
    ("`dsdnode bench ... --wings`", "--wings"),
    ("`dsdnode split FILE --layers 0:4`", "--output"),
    ("`dsdnode bench --num-prompts many`", "many"),
    ("`dsdnode version && dsdnode fly`", "no such command: fly"),
    ("```\ndsdnode split\n```", "MODEL"),
    ("`python -m tests.sim.nothing`", "there is no module tests.sim.nothing"),
    ("`python -m tests.sim.town`", "there is no module tests.sim.town"),
    ("`python -m tests.sim.dht --node 3 --wings`", "--wings"),
    ("`python -m tests.sim.worlds --mutate nobody`", "nobody"),
    ("`python -m tests.sim.planned --from`", "--from"),
    ("`pytest -s tests/docs/test_nothing.py`", "there is no tests/docs/test_nothing.py"),
    ("`scripts/fly`", "there is no scripts/fly"),
    ("`./scripts/constraints`", "there is no"),
    ("`./scripts/demo --wings`", "--wings"),
)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_what_pages_may_write(page: Path) -> None:
    page.write_text("\n\n".join(TAKEN))
    found = written_on(page)
    assert refusals(found) == []
    assert len(found) == len(TAKEN) - 2, "all but the label and what is no shell"


def test_what_is_wrong_is_told_with_its_place(page: Path) -> None:
    page.write_text("\n\n".join(text for text, _ in REFUSED))
    told = {place.line: reason for place, reason in refusals(written_on(page))}
    line = 1
    for text, reason in REFUSED:
        assert reason in told.get(line + text.startswith("```"), "taken"), text
        line += text.count("\n") + 2


def test_an_alternative_in_a_table_and_a_command_over_two_lines(page: Path) -> None:
    page.write_text(
        "| a | `--x` |\n|---|---|\n| `dsdnode sim run\\|sweep\\|fly` | b |\n\nSay `dsdnode\nversion` now.\n"
    )
    first, second = written_on(page)
    assert first.place == Place(page, 3, "dsdnode sim run|sweep|fly")
    assert second.place == Place(page, 5, "dsdnode version")
    assert refusals([first, second]) == [(first.place, "no such command: fly")]
