"""A grid of scenarios on all cores: each cell's report becomes a line of a file, and what is there is not run again."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dsdnode.config import read_toml
from dsdnode.errors import BadInput, DsdError
from dsdnode.files import output, replacing, words
from dsdnode.sim.report import Figures
from dsdnode.sim.scenario import scenario_of
from dsdnode.sim.simulate import simulate
from dsdnode.sim.workers import workers

MAX_CELLS = 100_000
MAX_ERROR = 300


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter and its values: `links.latency_ms=1,10,50`, `peers.drafter.count=1,2` (group by name or role)."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """`table` is the whole scenario, as it would stand in a file."""

    set: dict[str, Any]
    seed: int
    table: dict[str, Any]

    @property
    def key(self) -> str:
        """What a result line must share to be this cell's."""
        return json.dumps([self.table, self.seed], sort_keys=True)


@dataclass(frozen=True, slots=True)
class Result:
    """Of one cell: `figures`, or the `error` that it failed with."""

    set: dict[str, Any]
    seed: int
    key: str
    figures: Figures | None = None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Without the key."""
        came_to = {"error": self.error} if self.figures is None else msgspec.to_builtins(self.figures)
        return {"set": self.set, "seed": self.seed, **came_to}

    def line(self) -> str:
        """Of a file of results."""
        return json.dumps(self.as_json() | {"key": self.key}, sort_keys=True)

    @classmethod
    def of_line(cls, line: str) -> Result:
        """The inverse of `line`. Raises ValueError, KeyError or TypeError."""
        raw = json.loads(line)
        figures = None if "error" in raw else msgspec.convert(raw, Figures)
        return cls(raw["set"], raw["seed"], raw["key"], figures, raw.get("error", ""))


@dataclass(frozen=True, slots=True)
class Row:
    """Of one combination: means over its seeds, of runs that did not fail; None: there is no such figure."""

    set: dict[str, Any]
    num_runs: int
    tokens_per_second: float | None
    reply_tokens_per_second: float | None
    first_token_s: float | None
    latency_p99_s: float | None
    acceptance_rate: float | None
    num_lost: int
    error: str | None


def parse_axis(text: str) -> Axis:
    """Values are TOML, or bare words. Raises BadInput."""
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise BadInput(f"{text!r} is no parameter with values: write links.latency_ms=1,10,50")
    try:
        parsed = tomllib.loads(f"values = [{values}]")["values"]
    except ValueError:
        parsed = [word.strip() for word in values.split(",")]
    return Axis(path.strip(), tuple(parsed))


def cells(scenario: Path, axes: Sequence[Axis], seeds: int) -> list[Cell]:
    """Every combination, each with every seed, all checked. Raises BadInput."""
    table = {"name": scenario.stem, **read_toml(scenario, "scenario")}
    result = []
    for combination in itertools.product(*(axis.values for axis in axes)):
        changed, chosen = deepcopy(table), dict(zip((axis.path for axis in axes), combination, strict=True))
        for path, value in chosen.items():
            put(changed, path, value)
        scenario_of(changed, f"{scenario} with {_said(chosen)}")
        result += [Cell(chosen, seed, changed) for seed in range(1, seeds + 1)]
        if len(result) > MAX_CELLS:
            raise BadInput(f"a grid of more than {MAX_CELLS} cells")
    return result


def put(table: dict[str, Any], path: str, value: Any) -> None:
    """Set one value deep in a scenario's table. Raises BadInput for a group that is not there."""
    *parents, last = path.split(".")
    place: Any = table
    for name in parents:
        place = _group(place, name) if isinstance(place, list) else place.setdefault(name, {})
        if not isinstance(place, dict | list):
            raise BadInput(f"{path}: {name} is no table")
    if not isinstance(place, dict):
        raise BadInput(f"{path}: which group? peers.NAME.{last}")
    place[last] = value


def _group(groups: list[Any], name: str) -> Any:
    for group in groups:
        if isinstance(group, dict) and name in (group.get("name"), group.get("role")):
            return group
    raise BadInput(f"no group of peers is called {name!r}")


def run(todo: Sequence[Cell], out: Path, jobs: int, told: Callable[[str], None]) -> Iterator[Result]:
    """The result of each cell, those that `out` has at once, the others as they come; `told` hears of each of these.

    Raises BadInput when the file cannot be used.
    """
    known = read_results(out)
    missing = [cell for cell in todo if cell.key not in known]
    yield from (known[cell.key] for cell in todo if cell.key in known)
    with words(out):
        _drop_half_a_line(out)
        out.open("a").close()
    with workers(jobs) as pool:
        for future in as_completed([pool.submit(run_cell, cell) for cell in missing]):
            result = future.result()
            with words(out), out.open("a") as file:  # closed at once: a full disk may say so only then
                file.write(result.line() + "\n")
            told(_said(result.set))
            yield result


def run_cell(cell: Cell) -> Result:
    """In a process of its own. A cell that fails says why, and the others go on."""
    try:
        figures = simulate(scenario_of(cell.table, "cell"), cell.seed).figures
    except (DsdError, RuntimeError) as error:
        return Result(cell.set, cell.seed, cell.key, error=f"{type(error).__name__}: {error}"[:MAX_ERROR])
    return Result(cell.set, cell.seed, cell.key, figures)


def read_results(path: Path) -> dict[str, Result]:
    """What an earlier sweep wrote, by cell; a last line that was cut off does not count. Raises BadInput."""
    if not output(path).exists():
        return {}
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the results {path}: {error}") from None
    lines, results = text.splitlines(), {}
    for number, line in enumerate(lines, 1):
        try:
            result = Result.of_line(line)
            results[result.key] = result
        except (ValueError, KeyError, TypeError):
            if number < len(lines) or not _is_cut_off(text, line):
                raise BadInput(f"{path}: line {number} is no result of a sweep: name another file") from None
    return results


def _is_cut_off(text: str, last: str) -> bool:
    """Was a sweep killed as it wrote the last line? Anything else there is somebody's, and would be lost."""
    if text.endswith("\n") or not last.startswith("{"):
        return False
    try:
        json.loads(last)
    except ValueError:
        return True
    return False


def rows_of(results: Sequence[Result]) -> list[Row]:
    """In the order of the parameters' values."""
    combinations: dict[str, list[Result]] = {}
    for one in sorted(results, key=lambda one: [_ordered(value) for value in one.set.values()]):
        combinations.setdefault(json.dumps(one.set, sort_keys=True), []).append(one)
    return [_row(ones) for ones in combinations.values()]


def _ordered(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then words."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, str(value)


def _row(ones: Sequence[Result]) -> Row:
    good = [one.figures for one in ones if one.figures is not None]
    return Row(
        set=ones[0].set,
        num_runs=len(ones),
        tokens_per_second=_mean(one.tokens_per_second for one in good),
        reply_tokens_per_second=_mean(one.p50 for one in (one.reply_tokens_per_second for one in good) if one),
        first_token_s=_mean(one.p50 for one in (one.time_to_first_token_s for one in good) if one),
        latency_p99_s=_mean(one.p99 for one in (one.latency_s for one in good) if one),
        acceptance_rate=_mean(one.acceptance_rate for one in good),
        num_lost=sum(one.lost + one.stuck for one in good),
        error=next((one.error for one in ones if one.error), None),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _drop_half_a_line(path: Path) -> None:
    """What a sweep was writing when it was killed."""
    if path.exists() and not (text := path.read_text()).endswith("\n"):
        with replacing(path) as file:
            file.write(text[: text.rfind("\n") + 1].encode())


def _said(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in chosen.items()) or "as it is"
