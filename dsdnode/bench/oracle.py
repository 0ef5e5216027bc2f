"""Both models whole, on this machine: what a prompt's ids are, how near a tie was, what the draft model would say."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np

from dsdnode.bench.daemons import cpu_s
from dsdnode.engine.client import WorkerEngine
from dsdnode.engine.ipc import EngineOptions
from dsdnode.engine.port import Chunk, Output
from dsdnode.models import demo_draft, demo_target
from dsdnode.speculation.sampling import Sampling

CHUNK_POSITIONS = 256


class DraftTrace(msgspec.Struct, frozen=True):
    """What the draft model makes of each token of a reply, given the right ones before it (sim/traces.py)."""

    prompt_tokens: int
    tokens: int
    accepted: list[int]
    confidence: list[float]
    entropy: list[float]
    second: list[int]


class Oracle:
    """An async context. Its workers start when they are first needed and rest while replies are measured."""

    def __init__(
        self,
        model: Path | None,
        draft_model: Path | None,
        sampling: Sampling,
        context_tokens: int,
        threads: int = 1,
    ) -> None:
        self._paths = {"target": model or demo_target(), "draft": draft_model or demo_draft()}
        self._options = EngineOptions(threads=threads, context_tokens=context_tokens, max_sequences=1)
        self._sampling = sampling
        self._engines: dict[str, WorkerEngine] = {}

    async def __aenter__(self) -> Oracle:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for engine in self._engines.values():
            await engine.close()

    async def _engine(self, role: str) -> WorkerEngine:
        if role not in self._engines:
            self._engines[role] = await WorkerEngine.start(self._paths[role], self._options)
        return self._engines[role]

    async def render(self, text: str) -> list[int]:
        """Ids of a user's message, as the drafter would make them; of the bare text where it has no chat template.
        Raises BadInput."""
        engine = await self._engine("draft")
        if not (await engine.vocabulary()).has_template:
            return await engine.tokenize(text)
        return await engine.render([("user", text)])

    async def end_tokens(self) -> frozenset[int]:
        return (await (await self._engine("draft")).vocabulary()).end_tokens

    async def cpu_s(self) -> tuple[float, float]:
        """That the target's process has spent so far."""
        pid = (await self._engine("target")).pid
        return cpu_s(pid)[1] if pid is not None else 0.0, 0.0

    async def tokens(self, prompt: Sequence[int], max_tokens: int) -> AsyncGenerator[int, None]:
        """What the target says to that by itself, as it comes."""
        engine, context = await self._engine("target"), list(prompt)
        position = 0
        try:
            while len(context) < len(prompt) + max_tokens:
                inputs = np.asarray(context[position : position + CHUNK_POSITIONS], np.int32)
                last = position + len(inputs) == len(context)
                chunk = Chunk(0, position, inputs, int(last), self._sampling)
                (output,) = await engine.forward([chunk])
                position += len(inputs)
                if last and output.tokens is not None:
                    context.append(int(output.tokens[0]))
                    yield context[-1]
        finally:  # whoever has heard an end asks for no more
            await engine.release(0)

    async def gap(self, tokens: Sequence[int]) -> float:
        """How far ahead the target's first choice after `tokens` is of its second one: the difference of logits."""
        (output,) = await self._run("target", tokens, 1, num_top=2)
        assert output.top is not None
        first, second = output.top.probabilities[0].tolist()
        return math.log(first / second) if second > 0 else math.inf

    async def trace(self, prompt: Sequence[int], tokens: Sequence[int]) -> DraftTrace:
        """Of the reply `tokens`."""
        context = [*prompt, *tokens[:-1]]
        drafted = await self._run("draft", context, len(tokens), runners_up=True)
        judged = await self._run("target", context, len(tokens), num_top=1)
        drafts = np.concatenate([one.tokens for one in drafted if one.tokens is not None])
        seconds = np.concatenate([one.runners_up for one in drafted if one.runners_up is not None])
        sure = np.concatenate([one.probabilities for one in drafted if one.probabilities is not None])
        entropies = np.concatenate([one.top.entropies for one in judged if one.top is not None])
        right = drafts == np.asarray(tokens)
        return DraftTrace(
            prompt_tokens=len(prompt),
            tokens=len(tokens),
            accepted=right.astype(int).tolist(),
            confidence=[round(value, 4) for value in sure.tolist()],
            entropy=[round(value, 4) for value in entropies.tolist()],
            second=(~right & (seconds == np.asarray(tokens))).astype(int).tolist(),
        )

    async def _run(
        self, role: str, tokens: Sequence[int], num_draws: int, *, runners_up: bool = False, num_top: int = 0
    ) -> list[Output]:
        """The outputs of the decodes that had draws: of the last `num_draws` positions of `tokens`."""
        engine, outputs = await self._engine(role), []
        first_draw = len(tokens) - num_draws
        for start in range(0, len(tokens), CHUNK_POSITIONS):
            inputs = np.asarray(tokens[start : start + CHUNK_POSITIONS], np.int32)
            draws = max(0, start + len(inputs) - max(start, first_draw))
            chunk = Chunk(0, start, inputs, draws, self._sampling, runners_up=runners_up, num_top=num_top)
            (output,) = await engine.forward([chunk])
            if draws:
                outputs.append(output)
        await engine.release(0)
        return outputs
