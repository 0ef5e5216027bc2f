"""What the programs that people have get of a gateway before real daemons: `python -m tests.gateway.clients`.

The packages of OpenAI, Anthropic and Ollama as they are installed, unpatched, each with each feature: a table of what
came of it. A swarm of the demo pair is started for it, or `--url` names a gateway of one that runs already: what is
answered is what that pair answers. Exit code 1: something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dsdnode.cli import render
from tests.node.processes import swarm

ASKED: Any = [
    {"role": "user", "content": "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?"}
]
ANSWER = "34 + 25 = 59"
SCHEMA: Any = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}, "unit": {"enum": ["stickers", "pens"]}},
    "required": ["sum", "unit"],
    "additionalProperties": False,
}
NAMES = ("add", "subtract")
MOST = 1500
"""Tokens: where several may be called, the demo pair sees no end of it before the grammar does."""
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
FLAT: Any = [{"type": "function", "strict": True, "name": name, "parameters": SCHEMA} for name in NAMES]
ANTHROPICS: Any = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
NAMED: Any = {"type": "function", "function": {"name": "subtract"}}
ALLOWED: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
Features = dict[str, Callable[[], object]]


def called(calls: list[tuple[str, Any]], *names: str) -> None:
    """Some of these, with valid arguments."""
    import jsonschema

    assert calls and all(name in names for name, _ in calls), calls
    for _, arguments in calls:
        jsonschema.validate(json.loads(arguments) if isinstance(arguments, str) else arguments, SCHEMA)


def offered(text: str, calls: list[tuple[str, Any]], num_prompt: int, num_without: int) -> None:
    """Tools that may be called, and need not: the model was told of them, and answers or calls."""
    assert num_prompt > num_without, f"{num_prompt} tokens with tools, {num_without} without"
    if calls:
        called(calls, *NAMES)
    else:
        held(ANSWER in text, True)


def held(found: object, expected: object) -> None:
    assert found == expected, f"{found!r}, not {expected!r}"


def openai_chat(url: str) -> Features:
    import openai

    client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

    def ask(**more: Any) -> Any:
        asked = {"model": "default", "messages": ASKED, "max_tokens": MOST, "temperature": 0, **more}
        return client.chat.completions.create(**asked)

    def streamed(**more: Any) -> list[Any]:
        return list(ask(stream=True, **more))

    def calls(answer: Any) -> list[tuple[str, Any]]:
        found = answer.choices[0].message.tool_calls
        held(answer.choices[0].finish_reason, "tool_calls" if found else "stop")
        return [(one.function.name, one.function.arguments) for one in found or ()]

    def may() -> None:
        answer = ask(tools=TOOLS)
        offered(text(answer), calls(answer), answer.usage.prompt_tokens, ask().usage.prompt_tokens)

    def delta_calls() -> list[tuple[str, Any]]:
        found: dict[int, list[str]] = {}
        for chunk in streamed(tools=TOOLS, tool_choice="required"):
            for part in chunk.choices[0].delta.tool_calls or ():
                said = found.setdefault(part.index, ["", ""])
                said[0], said[1] = said[0] + (part.function.name or ""), said[1] + part.function.arguments
        return [(name, arguments) for name, arguments in found.values()]

    def fails() -> None:
        try:
            ask(model="nobody's")
        except openai.NotFoundError:
            return
        raise AssertionError("no NotFoundError")

    def text(answer: Any) -> str:
        return str(answer.choices[0].message.content)

    schema = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
    return {
        "chat": lambda: held(ANSWER in text(ask()), True),
        "stream": lambda: held(ANSWER in "".join(one.choices[0].delta.content or "" for one in streamed()), True),
        "usage": lambda: held(streamed(stream_options={"include_usage": True})[-1].usage.completion_tokens > 9, True),
        "stop": lambda: held(ANSWER in text(ask(stop=["59"])), False),
        "seed": lambda: held(text(ask(temperature=0.8, seed=7)), text(ask(temperature=0.8, seed=7))),
        "logprobs": lambda: held(len(ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content) > 9, True),
        "JSON schema": lambda: called([("add", text(ask(response_format=schema)))], "add"),
        "tools": may,
        "required": lambda: called(calls(ask(tools=TOOLS, tool_choice="required")), *NAMES),
        "named": lambda: called(calls(ask(tools=TOOLS, tool_choice=NAMED, parallel_tool_calls=False)), "subtract"),
        "allowed": lambda: called(calls(ask(tools=TOOLS, tool_choice=ALLOWED)), "subtract"),
        "required, stream": lambda: called(delta_calls(), *NAMES),
        "errors": fails,
    }


def openai_responses(url: str) -> Features:
    import openai

    client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

    def ask(**more: Any) -> Any:
        asked = {"model": "default", "input": ASKED, "max_output_tokens": MOST, "temperature": 0, **more}
        return client.responses.create(**asked)

    def calls(answer: Any) -> list[tuple[str, Any]]:
        held([one.type for one in answer.output if one.type != "function_call"], [])
        return [(one.name, one.arguments) for one in answer.output]

    def may() -> None:
        answer = ask(tools=FLAT)
        held(answer.status, "completed")
        found = [(one.name, one.arguments) for one in answer.output if one.type == "function_call"]
        offered(answer.output_text, found, answer.usage.input_tokens, ask().usage.input_tokens)

    def streamed(**more: Any) -> Any:
        *_, last = ask(stream=True, **more)
        held(last.type, "response.completed")
        return last.response

    named = {"type": "function", "name": "subtract"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    form = {"format": {"type": "json_schema", "name": "sum", "schema": SCHEMA}}
    return {
        "chat": lambda: held(ANSWER in ask().output_text, True),
        "stream": lambda: held(ANSWER in streamed().output_text, True),
        "usage": lambda: held(ask().usage.output_tokens > 9, True),
        "JSON schema": lambda: called([("add", ask(text=form).output_text)], "add"),
        "tools": may,
        "required": lambda: called(calls(ask(tools=FLAT, tool_choice="required")), *NAMES),
        "named": lambda: called(calls(ask(tools=FLAT, tool_choice=named)), "subtract"),
        "allowed": lambda: called(calls(ask(tools=FLAT, tool_choice=allowed)), "subtract"),
        "required, stream": lambda: called(calls(streamed(tools=FLAT, tool_choice="required")), *NAMES),
    }


def anthropic_messages(url: str) -> Features:
    import anthropic

    client: Any = anthropic.Anthropic(base_url=url, api_key="any", max_retries=0)

    def ask(**more: Any) -> Any:
        return client.messages.create(**{"model": "default", "max_tokens": MOST, "messages": ASKED, **more})

    def streamed(**more: Any) -> Any:
        with client.messages.stream(model="default", max_tokens=MOST, messages=ASKED, **more) as stream:
            return stream.get_final_message()

    def calls(answer: Any) -> list[tuple[str, Any]]:
        held(answer.stop_reason, "tool_use")
        return [(one.name, one.input) for one in answer.content]

    def fails() -> None:
        try:
            ask(model="nobody's")
        except anthropic.NotFoundError:
            return
        raise AssertionError("no NotFoundError")

    def prompt_of(usage: Any) -> int:
        return int(usage.input_tokens + usage.cache_read_input_tokens)

    def may() -> None:
        answer = ask(tools=ANTHROPICS)
        found = [(one.name, one.input) for one in answer.content if one.type == "tool_use"]
        held(answer.stop_reason, "tool_use" if found else "end_turn")
        text = "".join(one.text for one in answer.content if one.type == "text")
        offered(text, found, prompt_of(answer.usage), prompt_of(ask().usage))

    named = {"type": "tool", "name": "subtract", "disable_parallel_tool_use": True}
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    count = client.messages.count_tokens
    return {
        "chat": lambda: held(ANSWER in ask().content[0].text, True),
        "stream": lambda: held(ANSWER in streamed().content[0].text, True),
        "usage": lambda: held(count(model="default", messages=ASKED).input_tokens, prompt_of(ask().usage)),
        "stop": lambda: held(ask(stop_sequences=["59"]).stop_sequence, "59"),
        "JSON schema": lambda: called([("add", ask(output_config=form).content[0].text)], "add"),
        "tools": may,
        "required": lambda: called(calls(ask(tools=ANTHROPICS, tool_choice={"type": "any"})), *NAMES),
        "named": lambda: called(calls(ask(tools=ANTHROPICS, tool_choice=named)), "subtract"),
        "required, stream": lambda: called(calls(streamed(tools=ANTHROPICS, tool_choice={"type": "any"})), *NAMES),
        "errors": fails,
    }


def ollama_chat(url: str) -> Features:
    import ollama

    client: Any = ollama.Client(host=url)

    def ask(**more: Any) -> Any:
        models = client.list().models
        assert models, "this gateway has no model"
        options = {"temperature": 0, "num_predict": MOST, **more.pop("options", {})}
        return client.chat(model=models[0].model, messages=ASKED, options=options, **more)

    def fails() -> None:
        try:
            client.chat(model="nobody's", messages=ASKED)
        except ollama.ResponseError:
            return
        raise AssertionError("no ResponseError")

    def may() -> None:
        answer = ask(tools=TOOLS)
        found = [(one.function.name, one.function.arguments) for one in answer.message.tool_calls or ()]
        offered(answer.message.content, found, answer.prompt_eval_count, ask().prompt_eval_count)

    hot = {"options": {"temperature": 0.8, "seed": 7}}
    return {
        "chat": lambda: held(ANSWER in ask().message.content, True),
        "stream": lambda: held(ANSWER in "".join(one.message.content for one in ask(stream=True)), True),
        "usage": lambda: held(ask().eval_count > 9, True),
        "stop": lambda: held(ANSWER in ask(options={"stop": ["59"]}).message.content, False),
        "seed": lambda: held(ask(**hot).message.content, ask(**hot).message.content),
        "JSON schema": lambda: called([("add", ask(format=SCHEMA).message.content)], "add"),
        "tools": may,
        "errors": fails,
    }


CLIENTS: dict[str, tuple[str, Callable[[str], Features]]] = {
    "openai chat": ("openai", openai_chat),
    "openai responses": ("openai", openai_responses),
    "anthropic messages": ("anthropic", anthropic_messages),
    "ollama chat": ("ollama", ollama_chat),
}


def came_of(feature: Callable[[], object] | None) -> str:
    if feature is None:
        return "-"
    try:
        feature()
    except Exception as error:  # whatever it is, it belongs into the table
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "ok"


def table(url: str) -> tuple[str, bool]:
    """The table, and whether all is as it should be. `-`: that program does not ask for such a thing."""
    features = {name: make(url) for name, (_, make) in CLIENTS.items()}
    rows = list(dict.fromkeys(one for each in features.values() for one in each))
    cells = [[row, *(came_of(each.get(row)) for each in features.values())] for row in rows]
    heads = [f"{name} {version(package)}" for name, (package, _) in CLIENTS.items()]
    good = all(cell in ("ok", "-") for _, *line in cells for cell in line)
    return render.table(("FEATURE", *heads), cells), good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--url", help="of a gateway that runs already, in a swarm of the demo pair")
    options = parser.parse_args()
    if options.url:
        told, good = table(options.url)
    else:
        with tempfile.TemporaryDirectory() as folder, swarm(Path(folder)) as made:
            join = made.start_ring(["0:4", "4:8"])
            roles = ("--role", "bootstrap", "--role", "gateway", "--api-port", "0")
            told, good = table(made.start("gateway", *roles, "--join", join).ready["api"])
    print(told)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
