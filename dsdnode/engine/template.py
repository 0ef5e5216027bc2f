"""Chat templates, run as transformers' `apply_chat_template` runs them, and what of their text is a control token.

User text cannot become one: a control token is recognised in the rendered conversation where the template wrote every
character of it (written.py), however it put them together. So `<|end|>` typed by a user is the seven characters that it
is, and the template sees just these: it may split, strip, compare and replace as it likes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

import jinja2
import msgspec
from jinja2 import nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace

from dsdnode.engine import calling
from dsdnode.engine.port import Message
from dsdnode.engine.written import Written
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.wire.calls import CallFormat

ROLES = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 1024
MAX_TEXT_BYTES = 4 << 20
"""Of one text or a whole conversation, before and after the template."""
MAX_TEMPLATE_CHARACTERS = 1 << 18


T = TypeVar("T")


class _Function(msgspec.Struct):
    name: str
    arguments: str
    """JSON, as it was written."""


class _Call(msgspec.Struct):
    function: _Function
    id: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """A control token; `strip_left`, `strip_right`: it swallows the white space beside it."""

    token: int
    strip_left: bool = False
    strip_right: bool = False


class ChatTemplate:
    """The chat template of a model file, run in a sandbox."""

    def __init__(self, source: str, controls: Mapping[str, Control], specials: Mapping[str, str] | None = None) -> None:
        """`controls` by their text; `specials`: `bos_token`, `eos_token` and so on, those that the model has.

        Raises ModelRefused for a template that is broken or too long.
        """
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelRefused(f"the model's chat template is longer than {MAX_TEMPLATE_CHARACTERS} characters")
        try:
            self._template = _Environment().from_string(source)
        except Exception as error:  # a stranger's program may be broken in any way: a break without a loop is no syntax
            raise ModelRefused(f"the model's chat template is broken: {_brief(error)}") from None
        self._source = source
        self._given: dict[str, object] = {"tools": None, "documents": None, "add_generation_prompt": True}
        self._given |= {name: Written.by_template(text) for name, text in (specials or {}).items()}
        self._controls = {text: control for text, control in controls.items() if len(text) > 1}
        longest_first = sorted(self._controls, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def render(self, messages: Sequence[Message], tools: str = "") -> list[int | str]:
        """The conversation, open for the assistant's reply: control tokens, and plain text between them. `tools`: JSON
        of a list, as OpenAI has them.

        Raises BadInput for a conversation that the template does not accept, or that is too long.
        """
        check_messages(messages, tools)
        turns, given = [_turn_of(*message) for message in messages], _tools_of(tools)
        try:
            shape = self.calling[0] if given or any(len(turn) > 2 for turn in turns) else None
            if shape is not None:
                turns, given = shape.turns(turns, given), given if shape.shows_tools else None
            text = self._run([_marked(turn) for turn in turns], tools=given)
        except BadInput:
            raise
        except Exception as error:  # a stranger's program may fail in any way
            raise BadInput(f"the model's chat template failed: {_brief(error)}") from None
        return self._split(text)

    @cached_property
    def calling(self) -> tuple[calling.Shape, CallFormat]:
        """How it is told of tools, and how its model calls them."""

        def render(turns: Sequence[calling.Turn], tools: Sequence[Any] | None) -> str:
            return self._run([_marked(turn) for turn in turns], tools=tools, add_generation_prompt=False)

        return calling.read(self._source, render)

    def _run(self, turns: list[dict[str, Any]], **given: Any) -> Written:
        parts, size = [], 0
        for part in self._template.generate(messages=turns, **self._given | given):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT_BYTES:
                raise BadInput(f"the rendered conversation is longer than {MAX_TEXT_BYTES} characters")
        return Written.concat(parts)

    def _split(self, text: Written) -> list[int | str]:
        pieces: list[int | str] = []
        start, strip = 0, False
        for run in text.own_runs():
            for match in self._pattern.finditer(text, *run):
                control = self._controls[match[0]]
                _append(pieces, text[start : match.start()], strip, control.strip_left)
                pieces.append(control.token)
                start, strip = match.end(), control.strip_right
        _append(pieces, text[start:], strip, False)
        return pieces


class _CodeGenerator(CodeGenerator):
    """Has the texts that stand in a template marked as its own."""

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, str):
            self.write(f"environment.by_template({node.value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.by_template({''.join(map(str, group))!r})"


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for trainers; here it is only its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """As transformers has it: no attribute begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args  # so that an attribute may be called self
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _CodeGenerator
    by_template = staticmethod(Written.by_template)
    concat = staticmethod(Written.concat)

    def __init__(self) -> None:
        # Not optimized: constants that were folded into a list would not be marked.
        extensions: list[Any] = [loopcontrols, _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False)
        self.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now, "namespace": _Namespace}
        self.filters |= {"tojson": _to_json, "join": _join}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Of a namespace, or a loop, nothing is denied but what begins with an underscore. Some templates look back
        from each message at all before it: to examine that each time took seconds."""
        if type(obj) in (_Namespace, LoopContext) and not attribute.startswith("_"):
            with contextlib.suppress(AttributeError):
                return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapper = super().wrap_str_format(value)
        pattern = getattr(value, "__self__", None)
        if wrapper is None or value.__name__ != "format" or not isinstance(pattern, Written):
            return wrapper
        return lambda *args, **kwargs: pattern.filled(SandboxedFormatter(self), args, kwargs)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it; jinja2's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = Written(""), attribute: str | int | None = None) -> str:
    return str(do_join(context, value, d, attribute))


def _strftime_now(layout: str) -> str:
    return datetime.now(UTC).astimezone().strftime(layout)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"no attribute of a namespace may be called {name!r}")


def _append(pieces: list[int | str], text: str, strip_left: bool, strip_right: bool) -> None:
    text = text.lstrip() if strip_left else text
    text = text.rstrip() if strip_right else text
    if text:
        pieces.append(text)


def _turn_of(role: str, content: str, more: str = "") -> dict[str, Any]:
    """Raises BadInput."""
    said = _read_json(more, dict[str, Any]) if more else {}
    calls = said.get("tool_calls") or []
    try:
        msgspec.convert(calls, list[_Call])
        msgspec.convert(said.get("tool_call_id", ""), str)
    except msgspec.ValidationError as error:
        raise BadInput(f"a message's tool_calls cannot be used: {error}") from None
    return {**said, "role": role, "content": content}


def _tools_of(tools: str) -> list[Any] | None:
    return _read_json(tools, list[Any]) or None if tools else None


def _read_json(text: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadInput(f"what is said of tools is no JSON that can be used: {error}") from None


def _marked(turn: dict[str, Any]) -> dict[str, Any]:
    """Nobody but a template writes a control token."""
    content = turn["content"]
    return {
        **turn,
        "role": Written.by_template(turn["role"]),
        "content": Written(content) if isinstance(content, str) else content,
    }


def check_messages(messages: Sequence[Message], tools: str = "") -> None:
    """Raises BadInput."""
    if not messages or len(messages) > MAX_MESSAGES:
        raise BadInput(f"a conversation has 1 to {MAX_MESSAGES} messages, not {len(messages)}")
    for role, *_ in messages:
        if role not in ROLES:
            raise BadInput(f"{role[:32]!r} is not a role: choose from {', '.join(ROLES)}")
    if len(tools) + sum(len(text) for _, *texts in messages for text in texts) > MAX_TEXT_BYTES:
        raise BadInput(f"the conversation is longer than {MAX_TEXT_BYTES} characters")


def _refuse(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _brief(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it takes too much memory"
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
