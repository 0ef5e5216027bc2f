"""What a reply may say that calls tools: a grammar of calls as the model writes them (wire/calls.py), each of a tool
that may be called, with arguments that are valid by its schema.

Whatever it allows, client/calls.py reads as such calls, and as nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dsdnode.engine.dates import NAMED, VALUES, check_number, dated
from dsdnode.errors import BadInput
from dsdnode.wire.calls import CallFormat, CallRule, is_text
from dsdnode.wire.replies import MAX_CONSTRAINT, Constraint

NAME = re.compile(r"[\w./-]{1,128}")
"""Of a tool. Others could not be told from what stands beside them."""
KEY = re.compile(r"[^\"'<>=\s\[{|]{1,64}")
"""Of an argument with a mark of its own."""
WHITESPACE = r"( |\n {0,20})?"
"""Between the parts of JSON: enough to indent ten levels. Where any number of spaces may stand, some models write
nothing else."""
DEEPEST = 64
"""Levels of a schema: who reads it has a stack with an end."""
MAX_LENGTH = 10_000
"""Characters that a text may have to have."""
MAX_MORE = 15
"""Calls behind the first one, in a list or a section, and such sections: some models see no end of it."""
SHARED = ("$defs", "definitions")
"""In a schema: what its parts refer to."""
ANNOTATIONS = ("title", "description", "examples", "default", "deprecated", "$comment")
"""Of a schema: they say nothing of what is valid, and most of its bytes are theirs."""
TEXT_KEYWORDS = ("type", "enum", "const", "minLength", "maxLength", "$schema", "x-guidance", *ANNOTATIONS)
"""That a text which is written as it is can be held to."""
CLOSED_KEYWORDS = frozenset(("type", "properties", "required", "maxProperties", "$schema", "$id", *SHARED))
"""Of an object's schema: where it has these alone, nothing is valid only with properties that it does not name."""
SPACE = r"[\s\x1c-\x1f]"
"""As Python strips it, which has four control characters more than the engine of these expressions."""
NO_OBJECT = "the parameters of a tool are a schema of an object"


class _Function(msgspec.Struct):
    name: str
    parameters: msgspec.Raw = msgspec.Raw(b"null")
    """Most tools that are told of may be none that this reply may call."""


class _Tool(msgspec.Struct):
    function: _Function


def call_grammar(
    calls: CallFormat, rule: CallRule, tools: str, controls: Mapping[str, int], ends: Collection[int]
) -> Constraint:
    """`tools`: JSON, as the template is given it; `controls`: the tokens without bytes, by what a template calls them;
    `ends`: those that end a reply. Raises BadInput: a rule, or tools, that cannot be held to."""
    try:
        known = {one.function.name: one.function for one in msgspec.json.decode(tools or "[]", type=list[_Tool])}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadInput(f"tools that cannot be used: {error}") from None
    names = tuple(dict.fromkeys(rule.names))
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise BadInput(f"no tool named {unknown[:64]!r} is offered")
    odd = next((name for name in known if not NAME.fullmatch(name)), None)
    if odd is not None:
        raise BadInput(f"a tool named {odd[:64]!r} cannot be asked for: names are of letters, digits and ./-_")
    try:
        text = _Writer(calls, rule, [known[name] for name in names], controls, ends).written()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadInput(f"tools that cannot be used: {error}") from None
    return Constraint("lark", text)


class _Writer:
    """Of one grammar. What is written, or read for it, is counted as it comes: a stranger's tools have a megabyte, and
    what they share is written for each argument."""

    def __init__(
        self,
        calls: CallFormat,
        rule: CallRule,
        functions: Sequence[_Function],
        controls: Mapping[str, int],
        ends: Collection[int],
    ) -> None:
        self._calls = calls
        self._rule = rule
        self._functions = functions
        self._controls = {name: token for name, token in controls.items() if len(name) > 1}
        names = [name for name in self._controls if any(name in mark for mark in calls.marks)]
        names.sort(key=lambda name: (-len(name), name))
        self._control = re.compile("(" + ("|".join(map(re.escape, names)) or r"(?!)") + ")")
        self._ends = ends
        self._strict = frozenset(rule.strict)
        self._rules: list[str] = []
        self._num_characters = self._num_values = 0

    def written(self) -> str:
        calls, kinds = self._calls, {"json": self._json, "named": self._named, "tagged": self._tagged}
        tail, opened = kinds[calls.kind](), self._mark(calls.open)
        again = f"(WS? block){{0,{MAX_MORE}}}" if calls.open and not self._rule.once else ""
        behind = f"tail {again}" + (" | listed" if calls.kind == "json" else "")
        self._add(
            f"start: {self._start()}",
            f"calls: {opened} behind",
            f"behind: {behind}",
            f"block: {opened} tail",
            f"tail: {tail}",
            r"WS: / |\n {0,20}/",
        )
        return "\n".join([*self._rules, ""])

    def _add(self, *rules: str) -> None:
        """Raises BadInput: it is too much."""
        self._rules += rules
        self._num_characters += sum(len(rule) + 1 for rule in rules)
        self._check(self._num_characters)

    def _count(self, num_values: int) -> None:
        """Each of them takes a character at least. Raises BadInput."""
        self._num_values += num_values
        self._check(self._num_values)

    def _check(self, num: int) -> None:
        if num > MAX_CONSTRAINT:
            raise BadInput(f"the tools' schemas are too large together: {MAX_CONSTRAINT} characters of grammar at most")

    def _start(self) -> str:
        """With words before the calls, or in their place, where these need not be: none that a call begins with."""
        mark = self._calls.open
        if not self._rule.free:
            return "calls"
        if not mark:
            lead = rf"{SPACE}*{_escaped(self._calls.lead)}{SPACE}*[\[{{](?s:.*)"
            self._add(rf"TEXT: /{SPACE}*[^\s\x1c-\x1f\[{{](?s:.*)/" + (f" & ~/{lead}/" if self._calls.lead else ""))
            return "TEXT? | calls"
        before, control = self._cut(mark)
        if not before:  # it may be spelled in tokens of a text, too, and would be read as a call's
            self._add(f"TEXT: /(?s:.+)/ & {_without(mark)}")
            return "TEXT? calls?"
        self._add(f"TEXT: {_without(mark)}", f"SAID: TEXT {_literal(before)}")
        return f"TEXT | SAID {control} behind"

    # --- each kind: what stands behind the mark that opens

    def _json(self) -> str:
        calls = self._calls
        for index, function in enumerate(self._functions):
            name, arguments = (_literal(json.dumps(key, ensure_ascii=False)) for key in self._keys)
            said = _literal(json.dumps(function.name, ensure_ascii=False))
            parts = ('"{"', name, '":"', said, '","', arguments, '":"', f"args_{index}", '"}"')
            self._add(f"call_{index}: {_joined(*parts)}", f"args_{index}: {self._object(function)}")
        more = "" if self._rule.once else f'(WS? "," WS? call){{0,{MAX_MORE}}}'
        lead, close = f"({self._mark(calls.lead)} WS?)? " if calls.lead else "", self._mark(calls.close)
        self._add(self._any("call"), f"listed: {lead}WS? " + _joined('"["', f"call {more}", '"]"', close))
        return f"{lead}WS? " + _joined("call", close)

    @property
    def _keys(self) -> tuple[str, str]:
        return self._calls.name_key, self._calls.arguments_key

    def _named(self) -> str:
        fence = _literal("```") if "```" in self._calls.mid else ""
        number = '(":" /[0-9]{1,3}/)? ' if self._calls.mid else ""
        for index, function in enumerate(self._functions):
            head = _joined(f"{_literal(function.name)} {number}", self._mark(self._calls.mid))
            self._add(
                f"call_{index}: {_joined(head, f'args_{index}', fence)}", f"args_{index}: {self._object(function)}"
            )
        return self._section()

    def _tagged(self) -> str:
        for index, function in enumerate(self._functions):
            said = [self._argument(f"{index}_{at}", *one) for at, one in enumerate(self._arguments(function))]
            head = _joined(_literal(function.name), self._mark(self._calls.mid))
            self._add(f"call_{index}: {' '.join([head, *said])}")
        return self._section()

    def _section(self) -> str:
        """Calls with marks of their own, and the mark that closes, which may be theirs, too."""
        calls = self._calls
        self._add(self._any("call"))
        one = _joined(self._mark(calls.lead) + " call" if calls.lead else "call", self._mark(calls.end))
        many = f"{one} (WS? {one}){{0,{MAX_MORE}}}" if calls.lead and not self._rule.once else one
        closed = self._mark(calls.close) if calls.close != calls.end else ""
        if closed and calls.end:
            return f"WS? {many} (WS? {closed})?"
        return "WS? " + _joined(many, closed)

    def _any(self, rule: str) -> str:
        return f"{rule}: {' | '.join(f'{rule}_{index}' for index in range(len(self._functions)))}"

    # --- arguments

    def _schema(self, function: _Function) -> dict[str, Any]:
        """Of an object, without what says nothing of what is valid. Raises BadInput."""
        schema: dict[str, Any] = self._bare(self._parameters(function))
        if schema.setdefault("type", "object") != "object":
            raise BadInput(f"the tool {function.name}: {NO_OBJECT}")
        named, needed = schema.get("properties"), schema.get("required", [])
        is_plain = isinstance(named, dict) and isinstance(needed, list) and schema.keys() <= CLOSED_KEYWORDS
        if is_plain and all(isinstance(name, str) and name in (named or {}) for name in needed):
            schema["additionalProperties"] = False  # what a schema does not name nobody waits for
        return schema

    def _parameters(self, function: _Function) -> dict[str, Any]:
        """Raises BadInput, MsgspecError."""
        said = bytes(function.parameters)
        self._check(2 * (said.count(b"[") + said.count(b"{")))  # each has two characters; made, a hundred bytes
        return msgspec.json.decode(said, type=dict[str, Any] | None) or {}

    def _bare(self, schema: Any, *, is_value: bool = False, depth: int = 1) -> Any:
        """Without annotations, with the calendar. Raises BadInput."""
        if not isinstance(schema, list | dict):
            if is_value:
                check_number(schema)
            return schema
        if depth > DEEPEST:
            raise BadInput(f"tools that cannot be used: more than {DEEPEST} levels")
        self._count(len(schema))
        if isinstance(schema, list):
            return [self._bare(one, is_value=is_value, depth=depth + 1) for one in schema]
        found = {}
        for key, value in schema.items():
            if key in NAMED and isinstance(value, dict) and not is_value:
                self._count(len(value))
                found[key] = {name: self._bare(one, depth=depth + 2) for name, one in value.items()}
            elif is_value or key not in ANNOTATIONS:
                found[key] = self._bare(value, is_value=is_value or key in VALUES, depth=depth + 1)
        return found if is_value else dated(found)

    def _is_strict(self, function: _Function) -> bool:
        return function.name in self._strict

    def _object(self, function: _Function) -> str:
        return _json_of(self._schema(function) if self._is_strict(function) else {"type": "object"})

    def _arguments(self, function: _Function) -> Iterator[tuple[str, Any, bool]]:
        """Each one's name, schema, and whether it must be there. Raises BadInput."""
        if not self._is_strict(function):
            named = self._parameters(function).get("properties")
            for key, one in named.items() if isinstance(named, dict) else ():
                if KEY.fullmatch(key):
                    yield key, {"type": "string"} if is_text(one) else {}, False
            return
        schema = self._schema(function)
        odd = [key for key in schema if key not in ("type", "properties", "required", "additionalProperties", *SHARED)]
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
            odd = odd or ["required"]
        if odd or not isinstance(properties, dict):
            what = ", ".join(odd) or "properties"
            raise BadInput(f"the tool {function.name}: this model's calls cannot be held to {what[:100]}")
        lacking = next((name for name in required if name not in properties), None)
        if lacking is not None:
            raise BadInput(f"the tool {function.name}: {lacking[:64]!r} is required, and no property")
        shared, needed = {key: schema[key] for key in SHARED if key in schema}, set(required)
        for name, one in properties.items():
            if not KEY.fullmatch(name):
                raise BadInput(f"the tool {function.name}: this model cannot write an argument named {name[:64]!r}")
            refers = isinstance(one, dict) and not is_text(one)
            yield name, {**shared, **one} if refers else one, name in needed

    def _argument(self, rule: str, name: str, schema: Any, must: bool) -> str:
        """As it stands behind another one."""
        calls, close = self._calls, self._calls.value_close.strip()
        # A reader takes other white space before the mark for the value's.
        ended = "\n" + close if calls.value_close.startswith("\n") else close
        if not is_text(schema):
            value, closed = f"value_{rule}", self._mark(ended)
            self._add(f"{value}: {_json_of(schema)}")
        else:  # in which it is not even spelled
            value, (before, closed) = f"VALUE_{rule}", self._cut(ended)
            self._add(f"{value}: ({self._text(name, schema)}) & {_without(close)}")
            if before:
                self._add(f"CLOSED_{rule}: {value} {_literal(before)}")
                value = f"CLOSED_{rule}"
            elif not schema.get("minLength") and "enum" not in schema and "const" not in schema:
                value += "?"
        said = [self._mark(calls.key_open), _literal(name), self._mark(calls.key_close), value, closed]
        self._add(f"arg_{rule}: {' '.join(part for part in said if part)}")
        return f"WS? arg_{rule}" if must else f"(WS? arg_{rule})?"

    def _text(self, name: str, schema: Mapping[str, Any]) -> str:
        """Written as it is. Raises BadInput: what it is to be cannot be held to."""
        odd = [key for key in schema if key not in TEXT_KEYWORDS]
        if odd:
            raise BadInput(f"the argument {name}: this model's calls cannot be held to {', '.join(odd)[:100]}")
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is not None:
            texts = [one for one in values if isinstance(one, str) and one] if isinstance(values, list) else []
            if not texts:
                raise BadInput(f"the argument {name}: no text is one of its values")
            return " | ".join(map(_literal, texts))
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if not all(isinstance(one, int) and 0 <= one <= MAX_LENGTH for one in (least, most or 0)):
            raise BadInput(f"the argument {name}: lengths are whole numbers, {MAX_LENGTH} at most")
        return f"/(?s:.{{{least},{most}}})/"

    # --- pieces

    def _cut(self, mark: str) -> tuple[str, str]:
        """What of it is a text up to its first control token, and the rest, written."""
        before = self._control.split(mark, maxsplit=1)[0]
        return before, self._mark(mark[len(before) :])

    def _mark(self, text: str) -> str:
        """Control tokens in it as such; those that end a reply end it."""
        said = []
        for part in self._control.split(text):
            token = self._controls.get(part)
            if token is None and part:
                said.append(_literal(part))
            elif token is not None and token not in self._ends:
                said.append(f"<[{token}]>")
        return " ".join(said)


def _joined(*parts: str) -> str:
    return " WS? ".join(part for part in parts if part)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _without(mark: str) -> str:
    """Texts in which it is not."""
    return rf"/(?s:.*)/ & ~/(?s:.*){_escaped(mark)}(?s:.*)/"


def _escaped(text: str) -> str:
    return re.sub(r"[\\.+*?()|\[\]{}^$#&~/-]", r"\\\g<0>", text).replace("\n", r"\n")


def _json_of(schema: Any) -> str:
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return f"%json {json.dumps(schema, ensure_ascii=False)}"
