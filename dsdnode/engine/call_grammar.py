"""What a reply may say that calls tools: a grammar of calls as the model writes them (wire/calls.py), each of a tool
that may be called, with arguments that are valid by its schema.

Whatever it allows, client/calls.py reads as such calls, and as nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

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
MAX_LENGTH = 10_000
"""Characters that a text may have to have."""
MAX_MORE = 15
"""Calls behind the first one, in a list or a section, and such sections: some models see no end of it."""
SHARED = ("$defs", "definitions")
"""In a schema: what its parts refer to."""
ANNOTATIONS = ("title", "description", "examples", "default", "deprecated", "$comment")
"""Of a schema: they say nothing of what is valid, and most of its bytes are theirs."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""In a schema: schemas by names, which may be those of keywords."""
VALUES = ("enum", "const")
"""In a schema: values, which may look like schemas."""
TEXT_KEYWORDS = ("type", "enum", "const", "minLength", "maxLength", "$schema", "x-guidance", *ANNOTATIONS)
"""That a text which is written as it is can be held to."""
NO_OBJECT = "the parameters of a tool are a schema of an object"


class _Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


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
    unknown = next((name for name in rule.names if name not in known), None)
    if unknown is not None:
        raise BadInput(f"no tool named {unknown[:64]!r} is offered")
    odd = next((name for name in known if not NAME.fullmatch(name)), None)
    if odd is not None:
        raise BadInput(f"a tool named {odd[:64]!r} cannot be asked for: names are of letters, digits and ./-_")
    text = _Writer(calls, rule, [known[name] for name in rule.names], controls, ends).written()
    if len(text) > MAX_CONSTRAINT:
        raise BadInput(f"the tools' schemas are too large together: {len(text)} characters, {MAX_CONSTRAINT} at most")
    return Constraint("lark", text)


class _Writer:
    """Of one grammar."""

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
        names = sorted(self._controls, key=lambda name: (-len(name), name))
        self._control = re.compile("(" + ("|".join(map(re.escape, names)) or r"(?!)") + ")")
        self._ends = ends
        self._rules: list[str] = []

    def written(self) -> str:
        calls, kinds = self._calls, {"json": self._json, "named": self._named, "tagged": self._tagged}
        tail, opened = kinds[calls.kind](), self._mark(calls.open)
        again = f"(WS? block){{0,{MAX_MORE}}}" if calls.open and not self._rule.once else ""
        behind = f"tail {again}" + (" | listed" if calls.kind == "json" else "")
        rules = [
            f"start: {self._start()}",
            f"calls: {opened} behind",
            f"behind: {behind}",
            f"block: {opened} tail",
            f"tail: {tail}",
            *self._rules,
            r"WS: / |\n {0,20}/",
        ]
        return "\n".join([*rules, ""])

    def _start(self) -> str:
        """With words before the calls, or in their place, where these need not be: none that a call begins with."""
        mark = self._calls.open
        if not self._rule.free:
            return "calls"
        if mark and self._control.search(mark):
            self._rules.append("TEXT: /(?s:.+)/")
            return "TEXT? calls?"
        if mark:
            self._rules += [f"TEXT: {_without(mark)}", f"SAID: TEXT {_literal(mark)}"]
            return "TEXT | SAID behind"
        self._rules.append(r"TEXT: /(?s:\s*[^\s\[{].*)/")
        return "TEXT? | calls"

    # --- each kind: what stands behind the mark that opens

    def _json(self) -> str:
        calls = self._calls
        for index, function in enumerate(self._functions):
            name, arguments = (_literal(json.dumps(key, ensure_ascii=False)) for key in self._keys)
            said = _literal(json.dumps(function.name, ensure_ascii=False))
            parts = ('"{"', name, '":"', said, '","', arguments, '":"', f"args_{index}", '"}"')
            self._rules += [f"call_{index}: {_joined(*parts)}", f"args_{index}: {self._object(function)}"]
        more = "" if self._rule.once else f'(WS? "," WS? call){{0,{MAX_MORE}}}'
        lead, close = f"({self._mark(calls.lead)} WS?)? " if calls.lead else "", self._mark(calls.close)
        self._rules += [self._any("call"), f"listed: {lead}WS? " + _joined('"["', f"call {more}", '"]"', close)]
        return f"{lead}WS? " + _joined("call", close)

    @property
    def _keys(self) -> tuple[str, str]:
        return self._calls.name_key, self._calls.arguments_key

    def _named(self) -> str:
        fence = _literal("```") if "```" in self._calls.mid else ""
        number = '(":" /[0-9]{1,3}/)? ' if self._calls.mid else ""
        for index, function in enumerate(self._functions):
            head = _joined(f"{_literal(function.name)} {number}", self._mark(self._calls.mid))
            self._rules.append(f"call_{index}: {_joined(head, f'args_{index}', fence)}")
            self._rules.append(f"args_{index}: {self._object(function)}")
        return self._section()

    def _tagged(self) -> str:
        for index, function in enumerate(self._functions):
            said = [self._argument(f"{index}_{at}", *one) for at, one in enumerate(self._arguments(function))]
            head = _joined(_literal(function.name), self._mark(self._calls.mid))
            self._rules.append(f"call_{index}: {' '.join([head, *said])}")
        return self._section()

    def _section(self) -> str:
        """Calls with marks of their own, and the mark that closes, which may be theirs, too."""
        calls = self._calls
        self._rules.append(self._any("call"))
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
        schema: dict[str, Any] = _bare(function.parameters or {})
        if schema.setdefault("type", "object") != "object":
            raise BadInput(f"the tool {function.name}: {NO_OBJECT}")
        if isinstance(schema.get("properties"), dict):  # what a schema does not name nobody waits for
            schema.setdefault("additionalProperties", False)
        return schema

    def _is_strict(self, function: _Function) -> bool:
        return function.name in self._rule.strict

    def _object(self, function: _Function) -> str:
        return _json_of(self._schema(function) if self._is_strict(function) else {"type": "object"})

    def _arguments(self, function: _Function) -> list[tuple[str, Any, bool]]:
        """Each one's name, schema, and whether it must be there. Raises BadInput."""
        if not self._is_strict(function):
            named = (function.parameters or {}).get("properties")
            known = named.items() if isinstance(named, dict) else ()
            return [
                (key, {"type": "string"} if is_text(one) else {}, False) for key, one in known if KEY.fullmatch(key)
            ]
        schema = self._schema(function)
        odd = [key for key in schema if key not in ("type", "properties", "required", "additionalProperties", *SHARED)]
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if odd or not isinstance(properties, dict) or not isinstance(required, list):
            what = ", ".join(odd) or "properties, required"
            raise BadInput(f"the tool {function.name}: this model's calls cannot be held to {what[:100]}")
        lacking = next((name for name in required if name not in properties), None)
        if lacking is not None:
            raise BadInput(f"the tool {function.name}: {str(lacking)[:64]!r} is required, and no property")
        shared = {key: schema[key] for key in SHARED if key in schema}
        found = []
        for name, one in properties.items():
            if not KEY.fullmatch(name):
                raise BadInput(f"the tool {function.name}: this model cannot write an argument named {name[:64]!r}")
            refers = isinstance(one, dict) and not is_text(one)
            found.append((name, {**shared, **one} if refers else one, name in required))
        return found

    def _argument(self, rule: str, name: str, schema: Any, must: bool) -> str:
        """As it stands behind another one."""
        calls = self._calls
        value = f"value_{rule}" if not is_text(schema) else f"VALUE_{rule}"
        is_marked = self._control.search(calls.value_close)
        closed = self._mark(calls.value_close.strip() if is_marked else calls.value_close)
        if not is_text(schema):
            self._rules.append(f"{value}: {_json_of(schema)}")
        elif is_marked:
            self._rules.append(f"{value}: {self._text(name, schema)}")
            value += "?" if not schema.get("minLength") and "enum" not in schema and "const" not in schema else ""
        else:
            self._rules.append(f"{value}: ({self._text(name, schema)}) & {_without(calls.value_close.strip())}")
            self._rules.append(f"CLOSED_{rule}: {value} {closed}")
            value, closed = f"CLOSED_{rule}", ""
        said = [self._mark(calls.key_open), _literal(name), self._mark(calls.key_close), value, closed]
        self._rules.append(f"arg_{rule}: {' '.join(part for part in said if part)}")
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
    escaped = re.sub(r"[\\.+*?()|\[\]{}^$#&~/-]", r"\\\g<0>", mark).replace("\n", r"\n")
    return rf"/(?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/"


def _json_of(schema: Any) -> str:
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return f"%json {json.dumps(schema, ensure_ascii=False)}"


def _bare(schema: Any) -> Any:
    """Without annotations."""
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            found[key] = {name: _bare(one) for name, one in value.items()}
        elif key not in ANNOTATIONS:
            found[key] = value if key in VALUES else _bare(value)
    return found
