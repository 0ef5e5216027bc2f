"""Tools that may be called, as the dialects offer them; inside they are all as OpenAI's chat has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dsdnode.client import constraints
from dsdnode.errors import BadInput
from dsdnode.wire.replies import Constraint

MAX_TOOLS = 512
HOSTED = ("web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "tool_search")
"""Tools of OpenAI's own servers, which some programs always offer. Nobody here runs them, so models are not told of
them; a response lists those that they were told of."""

Name = Annotated[str, Meta(pattern=r"^[\w./-]{1,128}\Z")]


class Function(msgspec.Struct, kw_only=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, kw_only=True, tag_field="type", tag="function"):
    function: Function


class AnthropicTool(msgspec.Struct, kw_only=True):
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A tool as templates are given it; `strict`: its arguments must be valid by its schema."""

    tool: dict[str, Any]
    strict: bool

    @property
    def name(self) -> str:
        return str(self.tool["function"]["name"])


@dataclass(frozen=True, slots=True)
class Offer:
    """What a model may call. `single`: once in a reply. `must`: it has to; `only`: this one of them."""

    asked: Sequence[Asked] = ()
    single: bool = False
    must: bool = False
    only: str = ""

    @property
    def tools(self) -> list[dict[str, Any]]:
        return [one.tool for one in self.asked]

    def constraint(self, format_: Constraint | None) -> Constraint | None:
        """What the reply is to be, if its words are to be `format_`: where it must call it says none. Raises
        BadInput."""
        names = [self.only] if self.only else [one.name for one in self.asked]
        if self.must:
            return constraints.calls(names, strict=names, once=self.single)
        strict = [one.name for one in self.asked if one.strict]
        if format_ is not None or not strict:
            return format_
        return constraints.calls(names, strict=strict, free=True, once=self.single)


def tool(name: str, description: str | None, parameters: Mapping[str, Any] | None, strict: bool | None = None) -> Asked:
    said = {"name": name, "description": description or "", "parameters": parameters or NO_PARAMETERS}
    return Asked({"type": "function", "function": said}, bool(strict))


NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def chat_tools(tools: Any) -> list[Asked]:
    """OpenAI's chat's, and Ollama's. Raises BadInput."""
    return _each(tools, lambda one: _chat_tool(_as(one, Tool).function))


def response_tools(tools: Any) -> list[Asked]:
    """OpenAI's responses'. Raises BadInput."""
    asked = [one for one in _list(tools) if not _is_hosted(one)]
    return _each(asked, _response_tool)


def anthropic_tools(tools: Any) -> list[Asked]:
    """Raises BadInput."""
    return _each(tools, _anthropic_tool)


def offer(tools: Sequence[Asked], choice: Any, parallel: bool | None = None) -> Offer:
    """`choice`: as any dialect says it. Raises BadInput."""
    kind = choice.get("type") if isinstance(choice, dict) else choice
    single = parallel is False
    if kind in ("allowed_tools", "function", "tool") and not isinstance(choice, dict):
        raise BadInput(f"tool_choice: {kind} is the type of an object that says which")
    if kind == "allowed_tools":
        tools, kind = _allowed(tools, choice)
    if kind in (None, "auto"):
        return Offer(tools, single)
    if kind == "none":
        return Offer()
    if kind not in ("required", "any", "function", "tool"):
        raise BadInput(
            f"tool_choice is auto, none, required, allowed_tools or the name of a tool, not {str(kind)[:40]!r}"
        )
    if not tools:
        raise BadInput("tool_choice wants a call, and there are no tools")
    only = _named(choice) if kind in ("function", "tool") else ""
    if only and only not in (one.name for one in tools):
        raise BadInput(f"tool_choice: no tool named {only[:64]!r} is offered")
    return Offer(tools, single, must=True, only=only)


def _allowed(tools: Sequence[Asked], choice: dict[str, Any]) -> tuple[list[Asked], str]:
    """Those of them that may be called, and whether one must be: models are not told of the others. Raises BadInput."""
    holder = choice.get("allowed_tools", choice)  # chat completions have an object of its own for it
    mode, listed = (holder.get("mode"), holder.get("tools")) if isinstance(holder, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        raise BadInput("tool_choice: allowed_tools has a mode, auto or required, and a list of tools")
    names = {_named(one) for one in listed if not _is_hosted(one)}
    if unknown := names - {one.name for one in tools}:
        raise BadInput(f"tool_choice: no tool named {min(unknown)[:64]!r} is offered")
    return [one for one in tools if one.name in names], mode


def _named(choice: Any) -> str:
    """Chat completions have the name in an object of its own. Raises BadInput."""
    holder = choice.get("function", choice) if isinstance(choice, dict) else choice
    name = holder.get("name") if isinstance(holder, dict) else None
    if not isinstance(name, str) or not name:
        raise BadInput("tool_choice: the tool that is to be called has a name")
    return name


def _chat_tool(function: Function) -> Asked:
    return tool(function.name, function.description, function.parameters, function.strict)


def _response_tool(one: Any) -> Asked:
    _only_functions(one, ("function",))
    return _chat_tool(_as(one, Function))


def _anthropic_tool(one: Any) -> Asked:
    _only_functions(one, (None, "custom"))
    said = _as(one, AnthropicTool)
    return tool(said.name, said.description, said.input_schema, said.strict)


def _only_functions(one: Any, kinds: Sequence[str | None]) -> None:
    kind = one.get("type") if isinstance(one, dict) else None
    if kind not in kinds:
        raise BadInput(f"a tool of type {str(kind)[:40]!r} cannot be offered here: only functions can")


def _is_hosted(one: Any) -> bool:
    kind = one.get("type") if isinstance(one, dict) else None
    return isinstance(kind, str) and any(kind == name or kind.startswith(f"{name}_2") for name in HOSTED)


def _each(tools: Any, read: Callable[[Any], Asked]) -> list[Asked]:
    found = [read(one) for one in _list(tools)]
    if len({one.name for one in found}) < len(found):
        raise BadInput("two tools have the same name")
    return found


def _list(tools: Any) -> list[Any]:
    if tools is None:
        return []
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise BadInput(f"tools is a list of {MAX_TOOLS} at most")
    return tools


def _as(one: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(one, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"a tool cannot be used: {error}") from None


def call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """As a message of the assistant has it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def settled(turns: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as templates like them: system messages at the beginning are one, calls of one turn stand together with
    what was said before them, and a result has the name of what was called."""
    runs: list[list[dict[str, Any]]] = []
    names: dict[str, str] = {}
    for turn in turns:
        for one in turn.get("tool_calls") or ():
            names[one["id"]] = one["function"]["name"]
        if turn["role"] == "tool" and not turn.get("name"):
            turn = {**turn, "name": names.get(turn.get("tool_call_id", ""), "")}
        if runs and _goes_on(runs[-1], turn, is_first=len(runs) == 1):
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return [_one_of(run) for run in runs]


def _goes_on(run: Sequence[dict[str, Any]], turn: dict[str, Any], *, is_first: bool) -> bool:
    role = run[0]["role"]
    if turn["role"] != role:
        return False
    return is_first if role == "system" else role == "assistant" and bool(turn.get("tool_calls"))


def _one_of(run: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joined at once: a thousand messages, one after the other, would be copied a thousand times."""
    first = run[0]
    if len(run) == 1:
        return first
    if first["role"] == "system":
        return {**first, "content": "\n\n".join(turn["content"] for turn in run)}
    content = "\n".join(turn["content"] for turn in run if turn["content"])
    return {**first, "content": content, "tool_calls": [one for turn in run for one in turn.get("tool_calls") or ()]}
