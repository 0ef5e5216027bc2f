"""All that Jinja offers, over what was typed: what comes of it is what transformers' own environment gives."""

from __future__ import annotations

import pytest

from dsdnode.engine.template import ChatTemplate
from dsdnode.errors import DsdError
from tests.engine.test_template import as_transformers, plain

TYPED = ["</s>", "<|end|>", "", " a b\n ß </think>x", "12", "{{ 7*7 }}", "&<\"\u2028\x00'>"]
C = "messages[0].content"
METHODS = [
    "capitalize()", "casefold()", "center(20, '*')", "count('e')", "encode()", "endswith('>')", "expandtabs(4)",
    "find('n')", "index('')", "isalnum()", "isalpha()", "isascii()", "isdigit()", "islower()", "isprintable()",
    "isspace()", "istitle()", "isupper()", "join(['a', 'b'])", "ljust(9, '.')", "lower()", "lstrip('<')",
    "partition('|')", "removeprefix('<')", "removesuffix('>')", "replace('|', '!', 1)", "rfind('|')", "rindex('')",
    "rjust(12)", "rpartition('e')", "rsplit('|', 1)", "rstrip('>')", "split('|')", "split()", "splitlines(true)",
    "startswith(('<', 'x'))", "strip('<>')", "swapcase()", "title()", "translate({60: '('})", "upper()", "zfill(12)",
    "format()", "format_map({})", "__len__()",
]  # fmt: skip
FILTERS = [
    "abs", "batch(2) | list", "center(9)", "count", "default('d', true)", "dictsort", "e", "filesizeformat", "first",
    "float", "forceescape", "format(1)", "groupby(0) | list", "indent(2, true)", "int", "items | list", "join('-')",
    "last", "list", "map('upper') | join", "max", "min", "pprint", "reject('eq', '<') | list", "reverse", "round",
    "select('ne', '<') | join", "slice(2) | list", "sort(reverse=true) | join", "sum(start='')", "striptags",
    "tojson(indent=1)", "truncate(5, true, '')", "unique | join", "urlencode", "urlize", "wordcount", "wordwrap(3)",
    "xmlattr",
]  # fmt: skip
TESTS = [
    "boolean", "callable", "defined", "divisibleby(2)", "eq('</s>')", "escaped", "ge('a')", "in('</s>x')",
    "in(['</s>'])", "iterable", "lower", "lt('z')", "mapping", "ne('x')", "none", "number", "sameas('x')", "sequence",
    "string", "undefined", "upper",
]  # fmt: skip
EXPRESSIONS = [
    f"{C}[::2]", f"3 * {C}", f"{C} ~ 1 ~ none ~ true", f"{C} and 'y' or 'n'", f"not {C}", f"{{'k': {C}}}", f"[{C}, 1]",
    f"({C},)", f"{{{C}: 1}}[{C}]", f"{{'</s>': 1}}.get({C}, 0)", f"dict(a={C}).items() | list",
    f"range({C} | length) | list", f"cycler('a', {C}).next()", f"namespace(a={C}).a", "messages | tojson", "messages",
    f"namespace(a='{{}}'.format, b={C}).a({C})", f"namespace(a={C}).b", f"namespace(a={C})._Namespace__attrs",
    f"namespace(items={C}).items", f"namespace(a={C}).__class__",
    "messages | map(attribute='content') | list", "messages | groupby('content') | list | length",
    "messages | selectattr('content', 'equalto', '</s>') | list | length", "messages[0].values() | list",
    "messages[0].get('nope', 'd')", "dict(messages[0], role='x') | tojson", "messages + messages | length",
    f"'%r' % {C}", f"'%10.3s|' % {C}", f"'{{0!r:>9}}'.format({C})", "'{a[content]}'.format(a=messages[0])",
    f"'x'.join({C})", f"'a<b'.replace('<', {C})", f"'abc'.center(9, {C}[:1] or '-')", f"'</s>'.strip({C})",
    f"'</s>x'.split({C} or 'q')", f"['b', 'a', {C}] | sort | join(',')", f"[{C}, '</s>'] | unique | list | length",
    f"{C} | map('int', default=0) | list", f"{C}.__class__ | string", f"{C} in '<|end|></s>'", f"{C} >= '<'",
]  # fmt: skip
STATEMENTS = [
    f"{{% for x in {C} %}}{{{{ loop.index }}}}{{{{ x }}}}{{{{ loop.previtem | default('') }}}}{{% endfor %}}",
    f"{{% for x in {C} %}}{{{{ loop.cycle('a', x) }}}}{{{{ loop.nope }}}}{{{{ loop._iterable }}}}{{% endfor %}}",
    f"{{% for a in {C}.split('|') recursive %}}{{{{ a }}}}{{% else %}}none{{% endfor %}}",
    f"{{% with y = {C} %}}{{{{ y[::-1] }}}}{{% endwith %}}",
    f"{{% macro m(a, b='</s>') %}}{{{{ a ~ b ~ varargs ~ kwargs }}}}{{% endmacro %}}{{{{ m({C}, 1, 2, z=3) }}}}",
    f"{{% set a, b = {C}[:2], {C}[2:] %}}{{{{ b ~ a }}}}",
    f"{{% set t %}}{{{{ {C} | upper }}}}{{% endset %}}{{{{ t | lower | length }}}}",
    "{% for k, v in messages[0] | dictsort %}{{ k }}={{ v }};{% endfor %}",
    f"{{% for x in {C} if x != '<' %}}{{{{ x }}}}{{% endfor %}}",
    f"{{% block b %}}{{{{ {C} }}}}{{% endblock %}}{{{{ self.b() }}}}",
    f"{{{{ nothing }}}}|{{{{ messages[0].nope }}}}{{{{ nothing | default({C}) }}}}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
]
SOURCES = [
    *(f"{{{{ {said}.{method} }}}}" for method in METHODS for said in (C, "'abc<|end|>'", f"('x' ~ {C})")),
    *(f"{{{{ {said} | {name} }}}}" for name in FILTERS for said in (C, f"('<|' ~ {C})")),
    *(f"{{{{ {C} is {test} }}}}" for test in TESTS),
    *(f"{{{{ {expression} }}}}" for expression in EXPRESSIONS),
    *STATEMENTS,
]


def outcome_of_transformers(source: str, typed: str) -> str | None:
    try:
        return as_transformers(source, [("user", typed)])
    except Exception:  # whatever it raises
        return None


@pytest.mark.parametrize("source", SOURCES)
def test_what_was_typed_is_a_text_like_any_other(source: str) -> None:
    for typed in TYPED:
        expected = outcome_of_transformers(source, typed)
        try:
            found: str | None = plain(ChatTemplate(source, {}).render([("user", typed)]))
        except DsdError:
            found = None
        assert found == expected, typed
