"""Words of strangers on their way to people and sockets: addresses, terminals, logs, what text processes tell, keys."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tempfile
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

from dsdnode import addresses, identity
from dsdnode.addresses import Nearness, may_name, nearness, network, network_of, parse_address
from dsdnode.cli import logs, render, swarm_keys
from dsdnode.config import MAX_DRAFT
from dsdnode.engine import ipc, text, tokenizer
from dsdnode.engine.tokenizer import MAX_RUN, Detokenizer, RunCutter
from dsdnode.errors import BadInput, EngineLost
from dsdnode.node.drafter import delivery
from dsdnode.pacing import policies
from dsdnode.pacing.policies import POLICIES, Terms, policy_of
from dsdnode.speculation import seal
from dsdnode.wire import codec
from dsdnode.wire.messages import Closed, Verdict
from tests.fuzz.engine import GARBAGE
from tests.fuzz.mutate import WORDS, Mutator
from tests.fuzz.parser import Case, Parser
from tests.fuzz.wire import BIDI_CONTROLS, HOSTS, PORTS

MAX_ADDRESS_CHARACTERS = 128
"""The wire's limit."""


# --- addresses

ADDRESS_PARTS = (
    "tcp://", "[", "]", ":", ".", "::", "%", "%eth0", "0x7f", "127.0.0.1", "::ffff:", "64:ff9b::", "2002:", "fe80::",
    "127.1", "2130706433", "0177.0.0.1", "localhost", ".local", "169.254.169.254", "255", "0", "xn--", "\u0661", "_",
)  # fmt: skip
IPS = (
    "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fec0::1]", "[ff02::1]",
    "127.0.0.1", "10.1.2.3", "100.64.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "240.0.0.1",
    "localhost", "a.localhost.", "printer.local", "a.home.arpa", "com", "x" * 64, "9.9.9.9", "[2001:db8::1]",
)  # fmt: skip


def _address(mutator: Mutator) -> Case:
    """Who names it is as near as the second byte says."""
    told = f"tcp://{mutator.any_of((*HOSTS, *IPS))}:{mutator.any_of(PORTS)}"
    if mutator.rng.random() < 0.5:
        told = mutator.respelled(told, ADDRESS_PARTS)
    return told.encode(), bytes([mutator.below(len(Nearness))])


def _read_address(case: Case) -> None:
    told, near = case[0].decode(), Nearness(case[1][0])
    if may_name(near, told):
        host, port = parse_address(told)
        assert port >= addresses.LOWEST_PORT, "a machine's service"
        found = nearness(host)
        assert found is not None and found >= near, "nearer than who names it"
        assert parse_address(f"tcp://{f'[{host}]' if ':' in host else host}:{port}") == (host, port)
        if near is Nearness.WORLD and addresses.is_ip(host):
            assert not _is_inside(host), "inside, by another name"
    host, _ = parse_address(told)
    assert (network(host) is not None) == (nearness(host) is Nearness.WORLD)
    network_of(host)
    addresses.check_reachable(told)


def _is_inside(host: str) -> bool:
    """By the standard library's own reading, whatever is in it."""
    ip: Any = ipaddress.ip_address(host)
    for one in (ip, getattr(ip, "ipv4_mapped", None), getattr(ip, "sixtofour", None)):
        if one is not None and (one.is_loopback or one.is_link_local or one.is_private or one.is_multicast):
            return True
    return False


# --- seals


def _seal(mutator: Mutator) -> Case:
    """A closing, a verdict that is it or nearly so, and its seal."""
    rng = mutator.rng
    closed = Closed(
        bytes(16),
        mutator.below(3),
        1 + mutator.below(3),
        mutator.below(9),
        mutator.below(9),
        (1, 2)[: mutator.below(3)],
    )
    key, digest = mutator.any_of((b"k" * 16, b"l" * 16, b"k")), mutator.any_of((b"d" * 8, b"e" * 8))
    sealed = seal.of(key, closed, digest)
    if rng.random() < 0.5:
        sealed = mutator.scratched(sealed)[:8]
    numbers = [closed.route, closed.epoch, closed.position, closed.token]
    if rng.random() < 0.5:
        place = mutator.below(4)
        numbers[place] = mutator.any_of((numbers[place] + 1, 1 << 20, 0))
    route, epoch, decided, token = numbers
    told = Verdict(closed.session, route, epoch, decided, token, relaxed=closed.relaxed, seal=sealed)
    return codec.encode_body(closed), codec.encode_body(told), key, digest


def _check_seal(case: Case) -> None:
    closed, told = codec.decode_body(case[0], Closed), codec.decode_body(case[1], Verdict)
    key, digest = case[2:]
    right = seal.of(key, closed, digest)
    same = (told.route, told.decided, told.token, told.relaxed) == (
        closed.route, closed.position, closed.token, closed.relaxed,
    )  # fmt: skip
    assert seal.fits(key, told, digest) == (same and told.seal == right), "a seal that is none, or is not known"


# --- terminals and logs

SCREEN = (
    *WORDS, "\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\r", "\n", "\t", "\x7f", "\u202e", "\u2066", "\u200e", "\ud800",
    "\udfff", "\x85", "\u2028", "e\u0301", "plain words", '"', "\\", "\\u001b", "\U000e0001",
)  # fmt: skip


def _screen(mutator: Mutator) -> Case:
    said = "".join(str(mutator.any_of(SCREEN)) for _ in range(1 + mutator.below(6)))
    return (said.encode("utf-8", "surrogatepass"),)


def _show(case: Case) -> None:
    told = case[0].decode("utf-8", "surrogatepass")
    for shown in (render.clean(told), render.cell(told), codec.printable(told), render.named([("a", told)])):
        assert not any(map(_is_obeyed, shown)), "a terminal would obey it"
        shown.encode()
    assert "\n" not in render.cell(told)
    as_json = render.as_json({told: [told]})
    assert not any(map(_is_obeyed, as_json)), "a terminal would obey the JSON"
    [(key, [value])] = json.loads(as_json).items()
    assert key == value and _joined(value) == _joined(told), "something is lost in JSON"
    line = _logged(told)
    assert not any(map(_is_obeyed, line)), "a terminal would obey a line of the log"


def _joined(told: str) -> str:
    """Two halves of a character that stand side by side are one, as JSON has it."""
    return told.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _is_obeyed(char: str) -> bool:
    kept = char in "\n\t"
    return (unicodedata.category(char) in ("Cc", "Cs") and not kept) or char in BIDI_CONTROLS


def _logged(told: str) -> str:
    event = logs._clean(None, "info", {"event": "peer misbehaved", "reason": told, "level": "info"})
    return str(_renderer()(None, "info", dict(event)))


@cache
def _renderer() -> Any:
    import structlog

    return structlog.dev.ConsoleRenderer(colors=False)


# --- text on its way in and out of a model

WHOLE = ("<|im_end|>", "[INST]", "</s>", "x" * 9)
RUNS = ("x", " ", "\t", "word ", "é", "<|im_end|>", "[INST]", "\u200b", "7", "\U0001f600", "\n", "-")


def _runs(mutator: Mutator) -> Case:
    """Long runs of the same, with other things in them."""
    sizes = (1, 1, 3, MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, 3 * MAX_RUN)
    said = "".join(mutator.any_of(RUNS) * mutator.any_of(sizes) for _ in range(1 + mutator.below(4)))
    return (said.encode(),)


def _cut(case: Case) -> None:
    told = case[0].decode()
    parts = _cutter().cut(told)
    assert "".join(parts) == told, "other text than there was"
    at = 0
    for part in parts[:-1]:
        at += len(part)
        for token in WHOLE:
            found = told.find(token, max(0, at - len(token) + 1), at + len(token) - 1)
            overlapped = found >= 0 and found < at < found + len(token)
            assert not overlapped or _is_inside_another(told, found, at), "a token is cut through"
    longest = max((len(run[0]) for part in parts for run in _RUN.finditer(part)), default=0)
    assert longest <= 2 * MAX_RUN, "a run that std::regex may die of"


_RUN = re.compile(r"[^ \t-\r]+")


def _is_inside_another(told: str, found: int, at: int) -> bool:
    """Tokens are read from the left: one that begins within another is none."""
    return any(match.start() < found < match.end() or match.end() <= at for match in _WHOLE.finditer(told))


_WHOLE = re.compile("|".join(re.escape(one) for one in sorted(WHOLE, key=len, reverse=True)))


@cache
def _cutter() -> RunCutter:
    return RunCutter(WHOLE)


def _reply(mutator: Mutator) -> Case:
    """Bytes of tokens, and texts to stop at."""
    pieces = [mutator.any_of(PIECES) for _ in range(mutator.below(12))]
    stops = [mutator.any_of(STOPS).encode() for _ in range(mutator.below(4))]
    return b"\xfe".join(pieces), b"\xfe".join(stops)


PIECES = (
    b"so",
    b" ",
    b"\xc3",
    b"\xa9",
    b"\xf0\x9f\x98",
    b"\x80",
    b"\xff",
    b"",
    b"stop",
    b"st",
    b"op",
    b"s" * 40,
    b"\xed\xa0\x80",
)
STOPS = ("stop", "s", "é", "st", "o ", "\U0001f600", "ss", "\ufffd", "stopstop")


def _deliver(case: Case) -> None:
    """In pieces as in one go."""
    pieces, stops = case[0].split(b"\xfe"), [one.decode() for one in case[1].split(b"\xfe") if one]
    said, filter_ = Detokenizer(pieces), delivery.StopFilter(stops)
    shown = "".join(filter_.feed(said.feed([token])) for token in range(len(pieces) + 1))
    shown += "" if filter_.stopped else filter_.feed(said.finish()) + filter_.flush()
    whole = b"".join(pieces).decode("utf-8", "replace")
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert whole.startswith(shown) and not any(stop in shown for stop in stops), "a text to stop at is shown"
    assert ends or shown == whole, "text is missing"


# --- what a process with a tokenizer tells

VOCABULARY = ipc.Vocabulary(3, [2], True, {"<s>": 1, "</s>": 2})
VOCABULARY_BODY = b"\2\0\0\0\0\0\0\0\0\0\0\0ab"


_VOCABULARY = msgpack.unpackb(ipc._encoder.encode(VOCABULARY))


def _told_vocabulary(mutator: Mutator) -> Case:
    header = mutator.packed(_VOCABULARY)
    body = VOCABULARY_BODY if mutator.rng.random() < 0.5 else mutator.scratched(VOCABULARY_BODY)
    return header, body


def _read_vocabulary(case: Case) -> None:
    told = ipc.read_response(case[0])
    if isinstance(told, ipc.Failed):
        return
    vocab = text._vocab(told, case[1])
    assert all(0 <= token < len(vocab.pieces) for token in (*vocab.end_tokens, *vocab.names.values()))
    assert sum(map(len, vocab.pieces)) + 4 * len(vocab.pieces) == len(case[1])
    assert len(vocab.key_tokens) == -(-len(vocab.pieces) // 8)
    assert all(0 <= token < 3 for token in text._ids_of(ipc.Ids(), case[1][:12], 3))


# --- how a client wants its tokens drafted

WINDOW_PARTS = (
    "stream",
    "hedged",
    ":",
    "0",
    "1",
    "2",
    "64",
    "99",
    "fixed",
    "\u0661",
    "-",
    " ",
    "\n",
    "throughput",
    "%s",
)


def _window(mutator: Mutator) -> Case:
    told = mutator.any_of(("stream:2:4", "hedged:1:8:2", *POLICIES))
    spelled = mutator.respelled(told, WINDOW_PARTS) if mutator.rng.random() < 0.7 else told
    return spelled.encode(), bytes([mutator.below(MAX_DRAFT + 2)])


def _draft_by(case: Case) -> None:
    window = policy_of(case[0].decode(), Terms(case[1][0]))
    plan = window.plan()
    assert 0 <= plan.block <= plan.window <= MAX_DRAFT and plan.hedges in (0, 1, 2)


# --- keys in files


def _key_file(mutator: Mutator) -> Case:
    """What a file of a swarm key has in it, and of an identity."""
    key = mutator.any_of(
        (b"correct horse battery", b"\xef\xbb\xbfkey\r\n", b"", b"\n", b"x" * 1200, b"\xff\xfe", b"a\0b")
    )
    own = f"dsdnode identity 1\n{'ab' * 32}\n".encode()
    return mutator.scratched(key) if mutator.rng.random() < 0.5 else key, mutator.scratched(own)


def _read_key_files(case: Case) -> None:
    path = _file()
    path.write_bytes(case[1])
    try:
        assert len(identity.load(path).seed) == 32
    except BadInput as error:
        assert case[1] not in str(error).encode() or not case[1]
    path.write_bytes(case[0])
    [key] = swarm_keys.read_keys(f"@{path}")
    assert 0 < len(key) <= swarm_keys.MAX_KEY_CHARACTERS and "\n" not in key


@cache
def _file() -> Path:
    descriptor, name = tempfile.mkstemp(prefix="dsdnode-fuzz-")
    os.close(descriptor)
    return Path(name)


def _fits_report(case: Case) -> bool:
    return len(case[0]) <= ipc.MAX_HEADER_BYTES and len(case[1]) <= ipc.MAX_BODY_BYTES


PARSERS = (
    Parser(
        "address", _address, _read_address, (ValueError,), (addresses,),
        lambda case: len(case[0]) <= MAX_ADDRESS_CHARACTERS,
    ),
    Parser("seal", _seal, _check_seal, (), (seal.of, seal.fits), lambda case: len(case[1]) <= codec.MAX_BODY_BYTES),
    Parser(
        "terminal", _screen, _show, (), (render.clean, render.cell, render.as_json, logs._clean, codec.printable),
        lambda case: len(case[0]) <= 4096,
    ),
    Parser("cutter", _runs, _cut, (), (RunCutter,), lambda case: len(case[0]) <= 1 << 20),
    Parser(
        "reply-text", _reply, _deliver, (), (Detokenizer, delivery.StopFilter, delivery._overlap),
        lambda case: len(case[0]) <= 1 << 20,
    ),
    Parser(
        "vocabulary", _told_vocabulary, _read_vocabulary, (*GARBAGE, EngineLost),
        (text._vocab, text._ids_of, tokenizer.Vocab), _fits_report,
    ),
    Parser(
        "window", _window, _draft_by, (BadInput,), (policies.policy_of, policies._plan),
        lambda case: len(case[0]) <= 96,
    ),
    Parser(
        "key-file", _key_file, _read_key_files, (BadInput,),
        (swarm_keys.read_keys, swarm_keys.read_secret, swarm_keys._first_line, identity.load),
        lambda case: len(case[0]) <= 4 * swarm_keys.MAX_KEY_CHARACTERS,
    ),
)  # fmt: skip
