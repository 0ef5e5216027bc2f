"""A small measurement on its way from a command to the page; broken off, and gone on with."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.measurements import running
from tests.measurements.__main__ import main, run
from tests.measurements.figures import Figures, load, table
from tests.measurements.measurement import Chapter, Measurement, Step
from tests.measurements.page import page
from tests.measurements.reading import Output, found
from tests.measurements.running import Failed, Laboratory, Version, version

NOW = Version("abc1234", "2026-01-02", ())


def dice(outputs: Sequence[Output]) -> Figures:
    rows = [[output.label, int(found(r"^threw (\d+)$", output.text)[0])] for output in outputs]
    return Figures((table("who | threw", rows),), ("A fair one.",))


def thrower(*commands: str, name: str = "dice") -> Measurement:
    steps = tuple(Step(command, who) for command, who in zip(commands, ("alice", "bob"), strict=False))
    return Measurement(name, "Dice", "Thrown once each.", steps, 0.1, dice)


def throws(num: int, then: str = "") -> str:
    """And notes in the work folder that it did."""
    return f"""python -c "open('{{work}}/thrown', 'a').write('x'); print('threw {num}'); {then}" """.strip()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def laboratory(tmp_path: Path, told: list[str]) -> Laboratory:
    return Laboratory(tmp_path, tmp_path / "work", NOW, {}, told.append)


def num_thrown(laboratory: Laboratory) -> int:
    return len((laboratory.work / NOW.commit / "dice" / "thrown").read_text())


def test_from_commands_to_the_page(laboratory: Laboratory, tmp_path: Path) -> None:
    wanted, known = thrower(throws(4), throws(6)), tmp_path / "known.json"
    assert run([wanted], laboratory, known) == 0
    results = load(known)
    assert results["dice"].commit == "abc1234"
    assert results["dice"].commands[0].startswith("python -c \"open('WORK/thrown'")
    written = page(results, [Chapter("Games", "", (wanted,))])
    assert (
        "## Games\n\n### Dice\n\nThrown once each.\n\n| who | threw |\n|---|---|\n| alice | 4 |\n| bob | 6 |\n"
        in written
    )
    assert "\n- A fair one.\n" in written
    assert "\n`dice`: commit abc1234, 2026-01-02, " in written


def test_what_is_known_of_a_commit_is_not_measured_again(laboratory: Laboratory, tmp_path: Path) -> None:
    wanted, known = thrower(throws(4)), tmp_path / "known.json"
    for _ in range(2):
        assert run([wanted], laboratory, known) == 0
    assert num_thrown(laboratory) == 1
    later = Laboratory(tmp_path, laboratory.work, Version("def5678", "2026-01-03", ()), {}, print)
    assert run([wanted], later, known) == 0
    assert load(known)["dice"].commit == "def5678"


def test_a_run_that_was_broken_off_goes_on_where_it_was(
    laboratory: Laboratory, told: list[str], tmp_path: Path
) -> None:
    known, other = tmp_path / "known.json", thrower(throws(1), name="other")
    assert run([thrower(throws(4), throws(6, "exit(3)")), other], laboratory, known) == 1
    assert load(known).keys() == {"other"}, "one that fails does not keep others from being measured"
    assert "  failed: exit code 3" in told
    assert run([thrower(throws(4), throws(5)), other], laboratory, known) == 0
    assert load(known)["dice"].figures.tables[0].rows == (("alice", 4), ("bob", 5))
    assert num_thrown(laboratory) == 3, "alice threw once"


def test_output_that_reads_otherwise_is_said_and_kept(laboratory: Laboratory) -> None:
    with pytest.raises(Failed, match=r"cannot be read .* it is in .*dice"):
        laboratory.measure(thrower("python -c \"print('lost the dice')\""))


@pytest.mark.slow
def test_a_command_that_takes_too_long_is_ended(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LONGEST_S", 0.5)
    with pytest.raises(Failed, match="took longer"):
        laboratory.measure(thrower('python -c "import time; time.sleep(60)"'))


def test_files_that_commands_need(laboratory: Laboratory, tmp_path: Path) -> None:
    prompts = tmp_path / "a file.jsonl"
    prompts.write_text("threw 3\n")
    wanted = thrower('python -c "import sys; print(open(sys.argv[1]).read())" {gsm8k}')
    assert wanted.needs == {"gsm8k"}
    files = {"gsm8k": prompts}
    result = Laboratory(tmp_path, laboratory.work, NOW, files, print).measure(wanted)
    assert result.figures.tables[0].rows == (("alice", 3),)
    assert result.commands[0].endswith(" GSM8K"), "nobody's paths are published"


def commit(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)
    who = ("-c", "user.name=alice", "-c", "user.email=alice@example.org")
    for words in (("add", "."), (*who, "commit", "-q", "-m", name)):
        subprocess.run(["git", *words], cwd=root, check=True)


def test_documents_do_not_make_figures_old(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    commit(tmp_path, "code.py", "1")
    first = version(tmp_path)
    commit(tmp_path, "docs/measurements.json", "{}")
    commit(tmp_path, "README.md", "hello")
    assert version(tmp_path) == first
    (tmp_path / "code.py").write_text("2")
    assert version(tmp_path).changed == ("code.py",)
    commit(tmp_path, "code.py", "3")
    assert version(tmp_path).commit != first.commit


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "name measurements, or say --all"),
        (["run", "theory", "--all"], "name measurements, or say --all"),
        (["run", "theroy"], "no such measurement: theroy"),
        (["run", "grid"], "grid needs --gsm8k FILE"),
        (["measure"], "invalid choice"),
    ],
)
def test_what_cannot_be_run_is_refused(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["measurements", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert says in capsys.readouterr().err
