"""Alice types what she likes: a template sees just that, as transformers shows it, and no control token comes of it."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import Template
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dsdnode.engine.template import ChatTemplate, Control
from dsdnode.errors import BadInput, ModelRefused

CONTROLS = {
    "<|user|>": Control(1),
    "<|assistant|>": Control(2),
    "<|end|>": Control(3),
    "</s>": Control(4),
    "[INST]": Control(5, strip_left=True, strip_right=True),
    "</think>": Control(6),
}
COMPOSED = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim + '<|end|>' }}{% endfor %}<|assistant|>"
JOINING = "{% for m in messages %}{{ m.content }}{% endfor %}<|end|>"
FRAGMENTS = ["<", "|", "<|", "end", "|>", "|end|>", "<|end|>", "<|en", "d|>", " ", "é", "\ufdd0", "\n", "ß", '"', "%s"]
FRAGMENTS += ["</s>", "</", "s>", "/s>", "[INST]", "[", "INST]", "</think>", "think", "/think", "user", "{}"]
SHATTERED = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)
CONVERSATIONS = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), SHATTERED), min_size=1, max_size=4)


def plain(pieces: list[int | str]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def controls_of(pieces: list[int | str]) -> list[int]:
    return [piece for piece in pieces if isinstance(piece, int)]


def render(source: str, *contents: str) -> list[int | str]:
    """What users said, rendered."""
    return ChatTemplate(source, CONTROLS).render([("user", content) for content in contents])


def test_template_may_compose_its_control_tokens() -> None:
    template = ChatTemplate(COMPOSED, CONTROLS)
    assert template.render([("user", " hi "), ("assistant", "yo")]) == [1, "hi", 3, 2, "yo", 3, 2]


@given(st.lists(SHATTERED, min_size=1, max_size=4))
@example(["a <", "|end|>", "[", "INST]"])
def test_no_user_text_becomes_a_control_token(contents: list[str]) -> None:
    for source, wanted in ((COMPOSED, [1, 3] * len(contents) + [2]), (JOINING, [3])):
        pieces = render(source, *contents)
        assert controls_of(pieces) == wanted
        assert "".join(plain(pieces).split()) == "".join("".join(contents).split())


TYPED = ["</s>", "/s", ">", "<", "<|end|>", "|end|", "end", "<|exnd|>", "<|\nend|>", ">s/<", ">|dne|<", "<|{}|>", "%s>"]
TYPED += ["<|END|>", "x</s>x", "<|end", "{1}>", "</think>", "s", "/", "<|%s|>", "[INST]", "[ixnst]"]


@pytest.mark.parametrize(
    "source",
    [
        "<{{ c }}>",
        "<|{{ c }}|>",
        "{{ c[:4] ~ c[4:] }}",
        "{{ c.split('x') | join }}",
        "{{ c.split('x') | join('') }}",
        "{{ c | replace('x', '') }}",
        "{{ c[::-1] }}",
        "{{ c | list | join }}",
        "{{ '<' ~ c ~ '>' }}",
        "{{ '<%s>' % c }}",
        "{{ '<{}>'.format(c) }}",
        "{{ c.format('end', '</s>') }}",
        "{{ c % ('end',) if c.count('%') == 1 else c }}",
        "{{ c.join(['<', '>', '</s']) }}",
        "{{ c | tojson }}",
        "{{ [c] | tojson }}",
        "{% set x %}{{ c }}{% endset %}{{ x }}",
        "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(c) }}",
        "{% filter upper %}{{ c }}{% endfilter %}",
        "{{ c | lower }}{{ c | upper }}{{ c.title() }}{{ c | capitalize }}",
        "{% set n = namespace(t='') %}{% for x in c %}{% set n.t = n.t + x %}{% endfor %}{{ n.t }}",
        "{{ c.partition('x')[0] }}{{ c.rpartition('x')[2] }}{{ c.rsplit('x', 1)[0] }}",
        "{{ c.splitlines() | join }}{{ (c | string).strip('x') }}",
        "{{ c | e | safe }}{{ c * 2 }}{{ c | indent }}{{ c | center(20) }}{{ c | truncate(9) }}",
        "{{ '<' + c + '>' }}{{ c ~ c }}{{ '</s>'[:-1] ~ c }}",
        "{{ '</s' }}{{ c }}",
        "{{ c }}{{ '|end|>' }}",
    ],
)
def test_whatever_a_template_does_with_it(source: str) -> None:
    """Put together with what the template says, turned round, taken apart: somebody else wrote some of it."""
    source = "{% set c = messages[0].content %}" + source
    for typed in TYPED:
        pieces = render(source, typed)
        assert controls_of(pieces) == []
        assert plain(pieces) == as_transformers(source, [("user", typed)])


@pytest.mark.parametrize(
    ("source", "pieces"),
    [
        ("{{ '<|%s|>%s<|end|>' % (messages[0].role, messages[0].content) }}", [1, "hi", 3]),
        ("{{ '<|%s|>%s%%' | format(messages[0].role, messages[0].content) }}", [1, "hi%"]),
        ("{{ '<|%(r)s|>%(c)s' % {'r': messages[0].role, 'c': messages[0].content} }}", [1, "hi"]),
        ("{{ '<|{}|>{}{:>3}'.format(messages[0].role, messages[0].content, 7) }}", [1, "hi  7"]),
        ("{{ '<|{role}|>{content}'.format(**messages[0]) }}", [1, "hi"]),
        ("{{ ['<|user|>', messages[0].content, '<|end|>'] | join('\\n') }}", [1, "\nhi\n", 3]),
        ("{{ ['<|', 'user', '|>'] | join }}", [1]),
        ("{{ '<|user|>' ~ messages[0].content ~ eos_token }}", [1, "hi", 4]),
        ("{% macro a(m) %}<|{{ m.role }}|>{{ caller() }}{% endmacro %}"
         "{% call a(messages[0]) %}x</s>{% endcall %}", [1, "x", 4]),
        ("{% set x %}<|user|>{{ messages[0].content }}{% endset %}{{ x | trim }}", [1, "hi"]),
        ("{{ '<|USER|>'.lower() }}{{ '</S>' | lower }}", [1, 4]),
        ("{{ ('<|user|>hi<|end|>' | replace('hi', messages[0].content)).strip() }}", [1, "hi", 3]),
        ("{{ 'a<|user|>b'.split('a')[1] }}{{ '  </s>x'.strip().removesuffix('x') }}", [1, "b", 4]),
        ("{{ ('<|user|>' + messages[0].content + '</s>')[8:] }}", ["hi", 4]),
        ("{{ '<|user|>' * 2 }}{{ {'a': '</s>'}['a'] }}{{ {'a': '</s>'}.a }}", [1, 1, 4, 4]),
        ("{{ '<|user|>\\n</s>'.splitlines()[1] }}{{ 'x</s>'.partition('x')[2] }}", [4, 4]),
        ("{% generation %}<|user|>{% endgeneration %}", [1]),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}</s>"
         "{% endfor %}", [4, 4]),
    ],
)  # fmt: skip
def test_what_a_template_says_is_a_control_token_however_it_says_it(source: str, pieces: list[int | str]) -> None:
    assert ChatTemplate(source, CONTROLS, {"eos_token": "</s>"}).render([("user", "hi")]) == pieces


def as_transformers(source: str, messages: list[tuple[str, str]], **given: Any) -> str:
    """What `apply_chat_template` gives: its environment, written down once more."""
    turns = [{"role": role, "content": content} for role, content in messages]
    given = {"tools": None, "documents": None, "add_generation_prompt": True} | given
    return _theirs(source).render(messages=turns, **given)


@cache
def _theirs(source: str) -> Template:
    def tojson(x: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, **how)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    return environment.from_string(source)


EACH, END = "{% for m in messages %}", "{% endfor %}"
LOOKING = [
    EACH + "{{ m.content.split('</think>')[-1].lstrip('\n') }}" + END,
    EACH + "{% if '</think>' in m.content %}{{ m.content.rsplit('</think>', 1)[0] }}{% endif %}" + END,
    EACH + "{{ m.content | length }}{{ m.content.startswith('<|') }}{{ m.content[1:-1] }}" + END,
    EACH + "{{ m.content | replace('</s>', '[eos]') | tojson }}{{ m | tojson(indent=1) }}" + END,
    "{{ messages | map(attribute='content') | join('|') | upper }}{{ messages | tojson(sort_keys=true) }}",
    EACH + "{{ m.content.count('<') }}{{ m.content.find('|end|>') }}{{ m.content == '<|end|>' }}" + END,
    EACH + "{{ m.content.splitlines() }}{{ m.content | list }}{{ m.content.partition('|') }}" + END,
    "{% for m in messages | selectattr('content', 'in', ['</s>', '']) %}{{ m.role }}{% endfor %}{{ messages[0] }}",
    EACH + "{{ m.content.title() ~ m.content.capitalize() ~ m.content.swapcase() }}" + END,
    "{{ messages[0].content.center(30, '*') }}{{ messages[0].content | wordcount }}{{ messages[0].content | reverse }}",
    "{{ messages[0].content.removeprefix('<').removesuffix('>') }}{{ messages[0].content | trim('<>') }}{{ 1 ~ none }}",
    EACH + "{% if m.content is string and m.content is not mapping %}y{% endif %}{{ m.content * 2 }}" + END,
]  # fmt: skip


@given(CONVERSATIONS)
@example([("assistant", "<think>hm</think>4")])
@example([("user", "\ufdd0 </think> ß\r\nx\u2028")])
def test_a_template_sees_what_was_typed(messages: list[tuple[str, str]]) -> None:
    for source in LOOKING:
        assert plain(_ours(source).render(messages)) == as_transformers(source, messages)


@cache
def _ours(source: str) -> ChatTemplate:
    return ChatTemplate(source, {})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if tools is not none %}[TOOLS]{% endif %}{% if not documents %}no documents{% endif %}", "no documents"),
        ("{% if tools is defined and documents is defined %}both{% endif %}", "both"),
        ("{{ messages[0].content | tojson }}", "\"<b> & 'é'\""),
        ("{{ messages[0].content | tojson(ensure_ascii=True) }}", "\"<b> & '\\u00e9'\""),
        ("{{ {'b': 1, 'a': [2]} | tojson }}", '{"b": 1, "a": [2]}'),
        ("{{ {'b': 1, 'a': [2]} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":[2],"b":1}'),
        ("{{ {'b': 1} | tojson(indent=2) }}", '{\n  "b": 1\n}'),
        ("{{ strftime_now('%Y') }}", str(datetime.now().astimezone().year)),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
    ],
)
def test_a_template_finds_what_transformers_gives_it(source: str, text: str) -> None:
    assert "".join(map(str, render(source, "<b> & 'é'"))) == text


LITERALS = st.sampled_from(["<", "|", "<|", "end", "|>", "</", "s>", "/s", ">", "<|end|>", "</s>", "x", "[INST]"])
STEPS = st.sampled_from(
    [
        "{{% set c = c + {0!r} %}}",
        "{{% set c = {0!r} ~ c %}}",
        "{{% set c = c[1:] + c[:1] %}}",
        "{{% set c = c[::-1] %}}",
        "{{% set c = c[::2] ~ {0!r} ~ c[1::2] %}}",
        "{{% set c = [{0!r}, c, {0!r}] | join %}}",
        "{{% set c = [c, {0!r}] | join(c) %}}",
        "{{% set c = '%s{0}%s' % (c, c) %}}",
        "{{% set c = '{{}}{0}'.format(c) %}}",
        "{{% set c %}}{0}{{{{ c }}}}{0}{{% endset %}}",
        "{{% set c = c * 2 %}}",
        "{{% set c = (c | list)[1:] | join({0!r}) %}}",
        "{{% set c = (c ~ {0!r})[-9:] %}}",
        "{{% set c = c | replace('', {0!r}) %}}",
        "{{% set c = c.center(9) ~ {0!r} %}}",
    ]
)
PROGRAMS = st.lists(st.builds(str.format, STEPS, LITERALS), min_size=1, max_size=5)


@given(PROGRAMS, SHATTERED.map(lambda text: text[:30]))
def test_a_control_token_is_the_template_s_from_end_to_end(program: list[str], typed: str) -> None:
    """Seen another way: in a private alphabet, what was typed is what is private in the end."""
    source = "{% set c = messages[0].content %}" + "".join(program) + "{{ c }}"
    private = "".join(chr(0xE000 + index) for index in range(len(typed)))
    shown = as_transformers(source, [("user", private)])
    pieces = ChatTemplate(source, {text: Control(control.token) for text, control in CONTROLS.items()}).render(
        [("user", typed)]
    )
    names = {control.token: text for text, control in CONTROLS.items()}
    found = [names[piece] for piece in pieces if isinstance(piece, int)]
    text = "".join(names[piece] if isinstance(piece, int) else piece for piece in pieces)
    assert text == as_transformers(source, [("user", typed)])
    might = re.findall("|".join(map(re.escape, CONTROLS)), shown)
    remaining = iter(might)  # what the template wrote, or fewer: whose origin was lost is plain text
    assert all(name in remaining for name in found)


def test_control_tokens_swallow_the_white_space_they_claim() -> None:
    assert render("a  [INST]  {{ messages[0].content }} </s> b", "x") == ["a", 5, "x ", 4, " b"]


BROKEN = [
    "{% for %}",
    "{{ 1",
    "x" * (1 << 19),
    "{% break %}",
    "{% if true %}{% continue %}{% endif %}",
    "{% unknown %}",
]
BROKEN += ["{{ " + "(" * 9000, "{{ 1" + "+1" * 90_000 + " }}"]


@pytest.mark.parametrize("source", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_template_is_refused_in_words(source: str) -> None:
    with pytest.raises(ModelRefused, match="chat template"):
        ChatTemplate(source, CONTROLS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('no system please') }}", "no system please"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ messages[0].__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content._own[0] }}", "unsafe"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}", "longer"),
        ("{{ range(999999999) }}", "Range too big"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{% include 'x' %}", "loader"),
        ("{{ nothing | tojson }}", "Undefined"),
        ("{{ 'a' + 1 }}", "unsupported"),
    ],
)
def test_a_template_that_misbehaves_is_an_error_in_words(source: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        render(source, "hi")


@pytest.mark.parametrize("messages", [[], [("root", "hi")], [("user", "x" * (5 << 20))]])
def test_conversations_meet_limits(messages: list[tuple[str, str]]) -> None:
    with pytest.raises(BadInput):
        ChatTemplate(COMPOSED, CONTROLS).render(messages)
