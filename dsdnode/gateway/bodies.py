"""Bodies of requests: read up to a limit, decoded onto typed nouns, and what the nouns have in common."""

from __future__ import annotations

import asyncio
import codecs
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request

from dsdnode.client import constraints
from dsdnode.client.request import NEW_SEED_BELOW, GenerateRequest
from dsdnode.config import ACCEPTANCES, DEFAULT_THRESHOLD
from dsdnode.errors import BadInput
from dsdnode.wire.replies import Constraint
from dsdnode.wire.shaping import MAX_BIAS, MAX_BIASES, MAX_LOGPROBS, LastTokens, Penalty, Repetition

MAX_BODY_BYTES = 4 << 20
"""What is asked has one MiB on the wire; escapes may make three of it. While one is decoded nobody else is served."""
BODY_S = 120.0
"""A body of that size comes in this time by 35 kB/s; programs run beside us."""
MAX_REPLY_TOKENS = 1 << 20
MAX_CHOICES = 16
USUAL_TOKENS = 2048
"""Of a reply whose request does not say: what a long answer has. All the context would be held for every short one."""
LEAST_TOP_P = 1e-6
"""Programs say 0 for the likeliest token alone; on the wire it is above that."""
ANY_MODEL = ("", "default", "auto")
MAX_HALVES = 1 << 13
"""Replaced in a body: each costs, and a conversation has a few."""
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts and items by their type: what models have thought before is no part of what they are asked."""
_HALF = rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALVES = re.compile(rb"(?P<others>(?:(?:" + _PAIR + rb"|(?!" + _HALF + rb")\\.)[^\\]*+)++)|" + _HALF, re.DOTALL)
"""Escapes of JSON: a row of others, or one that names half a character alone."""

Temperature = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
TopK = Annotated[int, Meta(ge=-1, le=1 << 24)]
Bias = Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
Tokens = Annotated[int, Meta(ge=1)]
Most = Annotated[int, Meta(ge=-1)]
"""Of tokens; -1, as llama.cpp and LM Studio have it: as many as are usual."""
StopText = Annotated[str, Meta(max_length=256)]
"""An empty one stops nothing: programs send what stands in a field that nobody has filled."""
Stops = StopText | Annotated[list[StopText], Meta(max_length=16)] | None

T = TypeVar("T")


async def read(request: Request, kind: type[T]) -> T:
    """Raises BadInput, which says where in the body the fault is."""
    encoding = request.headers.get("content-encoding", "")
    if encoding.lower() not in ("", "identity"):
        raise BadInput(f"content-encoding {encoding[:40]!r}: bodies are read as they are, not compressed")
    data, num_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                num_bytes += len(part)
                if num_bytes <= MAX_BODY_BYTES:
                    data += part
    except TimeoutError:
        raise BadInput(f"the request's body had not come after {BODY_S:.0f} s") from None
    if num_bytes > MAX_BODY_BYTES:  # all of it was read: who is hung up on while he sends hears nothing
        raise BadInput(f"the request's body is longer than {MAX_BODY_BYTES >> 20} MiB")
    try:
        return _decoded(bytes(data.removeprefix(codecs.BOM_UTF8)), kind)
    except msgspec.ValidationError as error:
        raise BadInput(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the request's body is not JSON: {error}") from None


def _decoded(data: bytes, kind: type[T]) -> T:
    """Half a character, as programs leave it where they cut a text off, is replaced, as where texts are decoded. Raises
    what msgspec raises."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if rb"\ud" not in data.lower():
            raise
        whole = _HALVES.sub(lambda found: found["others"] or rb"\ufffd", data, count=MAX_HALVES)
        if whole == data:
            raise
        return msgspec.json.decode(whole, type=kind)


def refuse(asked: dict[str, bool]) -> None:
    """Raises BadInput, which names what is asked."""
    if names := [name for name, is_asked in asked.items() if is_asked]:
        raise BadInput(f"{', '.join(names)}: not supported by this server; leave it out")


def most_of(asked: int | None) -> int | None:
    """Tokens of a reply; None: as many as are usual. Raises BadInput."""
    if asked == 0:
        raise BadInput("a reply has at least one token: max_tokens is 1 or more")
    return None if asked == -1 else asked


class Sampled(msgspec.Struct, kw_only=True):
    """How a reply is drawn, in the words that all dialects share, and our own knobs. None stands for what is not said:
    many programs send null for it."""

    model: str | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    seed: int | None = None
    """Of any size: what is above 63 bits is folded."""
    window: str | None = None
    acceptance: str | None = None
    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None
    draft_max: Annotated[int, Meta(ge=0, le=64)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    repeat_penalty: Repetition | None = None
    """The same, as llama.cpp and Ollama call it."""
    repeat_last_n: LastTokens | None = None
    logit_bias: dict[str, Bias] | None = None
    regex: str | None = None
    """What all of the text is to match."""
    grammar: Any = None
    json_schema: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None
    """As llama.cpp and vLLM call it."""
    mirostat: Any = None
    typical_p: Any = None
    tfs_z: Any = None
    xtc_probability: Any = None
    dry_multiplier: Any = None
    dynatemp_range: Any = None
    top_n_sigma: Any = None
    min_tokens: Any = None
    ignore_eos: Any = None
    stop_token_ids: Any = None
    bad_words: Any = None
    allowed_token_ids: Any = None
    use_beam_search: Any = None
    chat_template: Any = None
    documents: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None
    """Of llama.cpp, Ollama and vLLM (OTHERS_KNOBS)."""

    def request(
        self,
        messages: list[dict[str, Any]] | None = None,
        prompt: str | None = None,
        prompt_tokens: list[int] | None = None,
        *,
        max_tokens: int | None = None,
        stop: Stops = None,
        choice: int = 0,
        logprobs: int = -1,
        tools: Sequence[dict[str, Any]] = (),
        constraint: Constraint | None = None,
    ) -> GenerateRequest:
        """`choice`: the how-manieth of several replies to one request, each with a seed of its own. Raises BadInput."""
        refuse({name: getattr(self, name) not in (None, *idle) for name, idle in OTHERS_KNOBS.items()})
        return GenerateRequest(
            messages=messages or (),
            tools=tools,
            prompt=prompt,
            prompt_tokens=prompt_tokens,
            model=None if self.model in (None, *ANY_MODEL) else self.model,
            max_tokens=min(max_tokens or USUAL_TOKENS, MAX_REPLY_TOKENS),
            temperature=self.temperature or 0.0,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            min_p=self.min_p or 0.0,
            seed=self._seed(choice),
            stop=tuple(one for one in ([stop] if isinstance(stop, str) else stop or ()) if one),
            draft_max=self.draft_max,
            window=self.window or "",
            threshold=self._threshold(),
            deferred=self.acceptance == "deferred",
            keep=prompt_tokens is None,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or self.repeat_penalty or 1.0,
            repeat_last_n=-1 if self.repeat_last_n is None else self.repeat_last_n,
            logit_bias=self._biases(),
            logprobs=logprobs,
            constraint=self._constraint(constraint),
        )

    def _constraint(self, other: Constraint | None) -> Constraint | None:
        if names := [name for name in OTHERS_RULES if getattr(self, name)]:
            raise BadInput(f"{', '.join(names)}: not known here; response_format and regex hold a reply to a form")
        if self.regex is None:
            return other
        if other is not None:
            raise BadInput("regex: a reply keeps to a regular expression, to a schema or to its tools, not to several")
        return constraints.regex(self.regex)

    def _biases(self) -> dict[int, float]:
        told = self.logit_bias or {}
        if len(told) > MAX_BIASES:
            raise BadInput(f"logit_bias has {len(told)} entries: {MAX_BIASES} at most")
        odd = next((key for key in told if not (key.isascii() and key.isdigit() and len(key) < 9)), None)
        if odd is not None:
            raise BadInput(f"logit_bias: a key is the id of a token, not {odd[:32]!r}")
        return {int(key): value for key, value in told.items()}

    def _seed(self, choice: int) -> int:
        if self.seed is None or self.seed == -1:
            return secrets.randbelow(NEW_SEED_BELOW)
        return ((self.seed % (1 << 64)) + choice) % (1 << 63)

    def _threshold(self) -> float | None:
        if self.threshold is not None and self.acceptance in (None, "exact"):
            raise BadInput("a threshold goes with acceptance relaxed or deferred: exact acceptance has none")
        if self.acceptance is None:
            return None
        if self.acceptance not in ACCEPTANCES:
            raise BadInput(f"acceptance is one of {', '.join(ACCEPTANCES)}, not {self.acceptance[:100]!r}")
        return 0.0 if self.acceptance == "exact" else self.threshold or DEFAULT_THRESHOLD


OTHERS_RULES = (
    "grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
)  # fmt: skip
"""A reply that is not held to one of them would look as if it were."""
OTHERS_KNOBS: Mapping[str, Sequence[Any]] = {
    **dict.fromkeys(("mirostat", "xtc_probability", "dry_multiplier", "dynatemp_range", "min_tokens"), (0,)),
    **dict.fromkeys(("ignore_eos", "use_beam_search", "continue_final_message"), (False,)),
    **dict.fromkeys(("stop_token_ids", "bad_words", "allowed_token_ids", "documents"), ([],)),
    "typical_p": (0, 1), "tfs_z": (1,), "top_n_sigma": (0, -1),
    "chat_template": ("",), "add_generation_prompt": (True,),
}  # fmt: skip
"""By name, what they do nothing with, which programs send out of habit: with any other value the text would be another
one, and is none that was asked for."""


def text_of(content: Any, where: str) -> str:
    """Of a message's content: a text, parts of which all are texts, or nothing. Raises BadInput naming other parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(_part(part, where) for part in parts)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return str(part["refusal"])
    if kind in THOUGHTS:
        return ""
    if kind in ("text", "input_text", "output_text"):
        raise BadInput(f"{where}: a part of type {kind} has a text")
    raise BadInput(f"{where}: content of type {kind!r} cannot be used: the models here read text alone")
