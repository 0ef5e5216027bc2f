"""What a bench run is told: one frozen noun, checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdnode.bench.schemes import Scheme
from dsdnode.bench.shape import LinkShape
from dsdnode.errors import BadInput

PerShard = tuple[float, ...]
"""One number for all shards, or one each."""


@dataclass(frozen=True, slots=True)
class SlowDown:
    """From token `token` of every reply on, shard `shard` takes `factor` times as long."""

    shard: int
    factor: float
    token: int


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Of every link one way, by the shard which is dialled over it; the way back is the same."""

    latency_ms: PerShard = (0.0,)
    jitter_ms: PerShard = (0.0,)
    bandwidth_mbit: PerShard = (0.0,)
    loss: PerShard = (0.0,)

    def shapes(self, num_shards: int) -> list[LinkShape]:
        """For the shards' proxies in order, and, last, the drafter's: whose links are the last shard's to it."""
        given = (self.latency_ms, self.jitter_ms, self.bandwidth_mbit, self.loss)
        each = zip(*(spread(values, num_shards) for values in given), strict=True)
        shapes = [LinkShape(latency / 1e3, jitter / 1e3, mbit, loss) for latency, jitter, mbit, loss in each]
        return [*shapes, shapes[-1]]


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """`shards` x `latencies_ms` are the cells of a grid. Engines as they are where the emulated times are None."""

    schemes: tuple[Scheme, ...]
    shards: tuple[int, ...] = (3,)
    latencies_ms: tuple[PerShard, ...] = ((10.0,),)
    jitter_ms: PerShard = (0.0,)
    bandwidth_mbit: PerShard = (0.0,)
    loss: PerShard = (0.0,)
    stage_ms: PerShard | None = None
    stage_slope_ms: PerShard | None = None
    draft_ms: float | None = None
    prompts: Path | None = None
    num_prompts: int = 8
    prompt_tokens: int | None = None
    """Every prompt is made exactly so long, out of as many texts as it takes."""
    max_tokens: int = 128
    ignore_eos: bool = False
    """Every reply is as long as that."""
    sessions: tuple[int, ...] = (1,)
    seed: int = 0
    temperature: float = 0.0
    threads: int = 1
    model: Path | None = None
    draft_model: Path | None = None
    slow_down: SlowDown | None = None
    record: Path | None = None

    def __post_init__(self) -> None:
        for name in ("jitter_ms", "bandwidth_mbit", "loss", "stage_ms", "stage_slope_ms"):
            _check_lengths(name, getattr(self, name), self.shards)
        for latency_ms in self.latencies_ms:
            _check_lengths("latency_ms", latency_ms, self.shards)
        if self.slow_down is not None:
            if self.slow_down.shard >= min(self.shards):
                raise BadInput(f"--slow-down names shard {self.slow_down.shard}; they are counted from 0")
            if self.stage_ms is None and self.stage_slope_ms is None:
                raise BadInput("--slow-down changes an emulated time: give --stage-ms or --stage-slope-ms")

    @property
    def max_sessions(self) -> int:
        return max(self.sessions)

    def links(self, latency_ms: PerShard) -> LinkOptions:
        return LinkOptions(latency_ms, self.jitter_ms, self.bandwidth_mbit, self.loss)

    def emulate_ms(self, num_shards: int) -> list[tuple[float, float]] | None:
        """Fixed and slope of each shard; None: they are what they are."""
        if self.stage_ms is None and self.stage_slope_ms is None:
            return None
        fixed, slopes = spread(self.stage_ms or (0.0,), num_shards), spread(self.stage_slope_ms or (0.0,), num_shards)
        return list(zip(fixed, slopes, strict=True))

    def as_json(self) -> dict[str, Any]:
        """With the names of the options; lists where several values were given."""
        return {
            "shards": _short(self.shards),
            "latency_ms": _short([_short(latency) for latency in self.latencies_ms]),
            "jitter_ms": _short(self.jitter_ms),
            "bandwidth_mbit": _short(self.bandwidth_mbit),
            "loss": _short(self.loss),
            "stage_ms": _short(self.stage_ms or ()),
            "stage_slope_ms": _short(self.stage_slope_ms or ()),
            "draft_ms": self.draft_ms,
            "schemes": [scheme.name for scheme in self.schemes],
            "wire": _short(list(dict.fromkeys(scheme.wire for scheme in self.schemes))),
            "prompts": self.prompts.name if self.prompts else "generated",
            "num_prompts": self.num_prompts,
            "prompt_tokens": self.prompt_tokens,
            "max_tokens": self.max_tokens,
            "ignore_eos": self.ignore_eos,
            "sessions": _short(self.sessions),
            "seed": self.seed,
            "temperature": self.temperature,
            "threads": self.threads,
            "model": self.model.name if self.model else "demo",
            "model_draft": self.draft_model.name if self.draft_model else "demo",
            "slow_down": None if self.slow_down is None else list(_fields(self.slow_down)),
        }


def spread(values: Sequence[float], num_shards: int) -> list[float]:
    """One value a shard."""
    return list(values) if len(values) > 1 else [values[0]] * num_shards


def _check_lengths(name: str, values: PerShard | None, shards: tuple[int, ...]) -> None:
    if values is not None and len(values) > 1 and set(shards) != {len(values)}:
        option = "--" + name.replace("_", "-")
        raise BadInput(f"{option} has {len(values)} values, one a shard, and --shards is {', '.join(map(str, shards))}")


def _short(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values) or None


def _fields(slow_down: SlowDown) -> tuple[int, float, int]:
    return slow_down.shard, slow_down.factor, slow_down.token
