"""Tools that may be called, as the dialects offer them; inside they are all as OpenAI's chat has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dsdnode.errors import BadInput

MAX_TOOLS = 512
NOT_YET = "is not supported by this server: only auto and none are"
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
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a model may call. `single`: once in a reply."""

    tools: Sequence[dict[str, Any]] = ()
    single: bool = False


def tool(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    said = {"name": name, "description": description or "", "parameters": parameters or NO_PARAMETERS}
    return {"type": "function", "function": said}


NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def chat_tools(tools: Any) -> list[dict[str, Any]]:
    """OpenAI's chat's, and Ollama's. Raises BadInput."""
    return _each(tools, lambda one: _chat_tool(_as(one, Tool).function))


def response_tools(tools: Any) -> list[dict[str, Any]]:
    """OpenAI's responses'. Raises BadInput."""
    asked = [one for one in _list(tools) if not _is_hosted(one)]
    return _each(asked, _response_tool)


def anthropic_tools(tools: Any) -> list[dict[str, Any]]:
    """Raises BadInput."""
    return _each(tools, _anthropic_tool)


def offer(tools: Sequence[dict[str, Any]], choice: Any, parallel: bool | None = None) -> Offer:
    """`choice`: as any dialect says it. Raises BadInput."""
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind in (None, "auto"):
        return Offer(tools, parallel is False)
    if kind == "none":
        return Offer()
    if kind in ("required", "any", "function", "tool") and not tools:
        raise BadInput("tool_choice wants a call, and there are no tools")
    raise BadInput(f"tool_choice {str(kind)[:40]!r} {NOT_YET}")


def _chat_tool(function: Function) -> dict[str, Any]:
    return tool(function.name, function.description, function.parameters)


def _response_tool(one: Any) -> dict[str, Any]:
    _only_functions(one, ("function",))
    return _chat_tool(_as(one, Function))


def _anthropic_tool(one: Any) -> dict[str, Any]:
    _only_functions(one, (None, "custom"))
    said = _as(one, AnthropicTool)
    return tool(said.name, said.description, said.input_schema)


def _only_functions(one: Any, kinds: Sequence[str | None]) -> None:
    kind = one.get("type") if isinstance(one, dict) else None
    if kind not in kinds:
        raise BadInput(f"a tool of type {str(kind)[:40]!r} cannot be offered here: only functions can")


def _is_hosted(one: Any) -> bool:
    kind = one.get("type") if isinstance(one, dict) else None
    return isinstance(kind, str) and any(kind == name or kind.startswith(f"{name}_2") for name in HOSTED)


def _each(tools: Any, read: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    found = [read(one) for one in _list(tools)]
    if len({one["function"]["name"] for one in found}) < len(found):
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
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for turn in turns:
        last = found[-1] if found else None
        for one in turn.get("tool_calls") or ():
            names[one["id"]] = one["function"]["name"]
        if last is not None and turn["role"] == last["role"] == "system" and len(found) == 1:
            found[-1] = {**last, "content": f"{last['content']}\n\n{turn['content']}"}
        elif last is not None and turn["role"] == last["role"] == "assistant" and turn.get("tool_calls"):
            calls = [*(last.get("tool_calls") or ()), *turn["tool_calls"]]
            content = "\n".join(text for text in (last["content"], turn["content"]) if text)
            found[-1] = {**last, "content": content, "tool_calls": calls}
        elif turn["role"] == "tool" and not turn.get("name"):
            found.append({**turn, "name": names.get(turn.get("tool_call_id", ""), "")})
        else:
            found.append(turn)
    return found
