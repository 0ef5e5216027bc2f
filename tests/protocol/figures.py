"""Vectors of what must come out alike everywhere: digests, noise and draws, packed states, acceptance, key tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dsdnode.speculation import digest, seal
from dsdnode.speculation.acceptance import JudgeDraw, KeyTokens, RelaxedRule, key_tokens
from dsdnode.speculation.sampling import Sampling, draw, log_probabilities, noise
from dsdnode.speculation.shaper import Past, Shaper
from dsdnode.speculation.shaping import Shaping
from dsdnode.wire.logprobs import TokenLogprobs, pack_logprobs
from dsdnode.wire.messages import WIRE_TYPES, Closed
from dsdnode.wire.numbers import pack_tokens
from dsdnode.wire.tensors import pack_states, unpack_states

SECRET = bytes(range(32))
LINE = (11, 12, 13, 14, 15, 0, 31999, 1 << 24)
LOGITS = (0.5, 2.25, 2.25, -1.0, 3.0, 2.875, 0.0, -4.5, 1.75, 2.0, 2.75, -0.125, 1.0, 2.5, 2.625, 0.25)
DRAWN = 12


def line_digests() -> list[bytes]:
    """Of the empty sequence, and after each token of LINE."""
    return digest.CommittedLine(SECRET, LINE).digests


def digests() -> dict[str, Any]:
    about = "Section 10: the digests of a line after 0, 1, 2 ... tokens, keyed by the owner's secret."
    return {
        "about": about,
        "secret": SECRET.hex(),
        "tokens": list(LINE),
        "digests": [one.hex() for one in line_digests()],
    }


def seals() -> dict[str, Any]:
    key, session, digests = bytes(range(16)), bytes(range(16, 32)), line_digests()
    closings = [
        Closed(session, 0, 1, 3, 4711),
        Closed(session, 0, 1, 3, 4712),
        Closed(session, 1, 1, 3, 4711),
        Closed(session, 1 << 20, 1 << 40, 8, 1 << 24, (5, 7)),
        Closed(session, 0, 2, 0, 0),
    ]
    cases = [
        {
            "route": one.route,
            "position": one.position,
            "token": one.token,
            "relaxed": list(one.relaxed),
            "digest": digests[one.position].hex(),
            "seal": seal.of(key, one, digests[one.position]).hex(),
        }
        for one in closings
    ]
    about = "Section 10: seals of closings; the digest is of the epoch's first `position` tokens."
    return {"about": about, "seal_key": key.hex(), "session": session.hex(), "cases": cases}


# --- noise and draws ----------------------------------------------------------------------------------------------


def noises() -> dict[str, Any]:
    tokens = np.array([0, 1, 2, 255, 31999, 151935, (1 << 24) - 1])
    places = [(0, 0), (0, 1), (1, 0), (1234, 17), ((1 << 63) - 1, 1 << 20)]
    cases = [
        {"seed": seed, "position": position, "words": [f"{word:08x}" for word in noise(seed, position, tokens)]}
        for seed, position in places
    ]
    about = "Section 11: the 32-bit noise words (in hex) of some token ids at a position."
    return {"about": about, "tokens": tokens.tolist(), "cases": cases}


def draws() -> dict[str, Any]:
    cases = [
        _draws("greedy: of equals the lowest id", (1.0, 3.0, 3.0, 2.0), Sampling()),
        _draws("no filter", LOGITS, Sampling(1.0, seed=1)),
        _draws("hot", LOGITS, Sampling(3.5, seed=1)),
        _draws("top-k, which cuts between equals", LOGITS, Sampling(2.0, top_k=9, seed=2)),
        _draws("top-p", LOGITS, Sampling(2.0, top_p=0.75, seed=3)),
        _draws("min-p", LOGITS, Sampling(2.0, min_p=0.6, seed=4)),
        _draws("all filters", LOGITS, Sampling(0.7, 10, 0.9, 0.1, 1234)),
        _draws("not a number counts as minus infinity", (float("nan"), 1.0, float("-inf"), 1.5), Sampling(5.0, seed=5)),
        _draws("plus infinity is taken", (1.0, float("inf"), 1.5), Sampling(1.0, seed=6)),
    ]
    return {"about": "Section 11: tokens drawn at the positions from 100 on, all from the same logits.", "cases": cases}


def _draws(what: str, logits: Sequence[float], sampling: Sampling) -> dict[str, Any]:
    row = np.array(logits, np.float32)
    return {
        "what": what,
        "logits": [value if np.isfinite(value) else str(value) for value in logits],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "first_position": 100,
        "tokens": [draw(row, 100 + offset, sampling) for offset in range(DRAWN)],
    }


# --- shaping and log-probabilities ---------------------------------------------------------------------------------


def shapings() -> dict[str, Any]:
    cases = [
        _shaped("presence", Shaping(presence=0.75), (4, 5), (1, 4, 1)),
        _shaped("frequency", Shaping(frequency=0.5), (4, 5), (1, 4, 1)),
        _shaped("repetition looks at the prompt, too", Shaping(repetition=1.5), (3, 4, 5), (1, 7)),
        _shaped("and back no further than it may", Shaping(repetition=1.5, last_tokens=3), (3, 4, 5), (1, 7)),
        _shaped("biases", Shaping(bias=((0, 2.5), (4, -100.0))), (4, 5), (1,)),
        _shaped("all of it", Shaping(0.75, 0.5, 1.5, 4, ((0, 2.5), (4, -1.0), (3, 100.0))), (3, 4, 5), (1, 4, 1)),
        _shaped("encouraged", Shaping(-0.75, -0.5, 0.5), (3, 4), (4, 9)),
    ]
    told = log_probabilities(np.array(LOGITS, np.float32), range(len(LOGITS)))
    rows = [TokenLogprobs(2, -1.5, ((4, -0.25), (5, -0.75))), TokenLogprobs(4, -0.5, ((4, -0.5), (2, -9999.0)))]
    packed = {
        "num_logprobs": 2,
        "rows": [[row.token, row.logprob, [list(one) for one in row.top]] for row in rows],
        "buffer": pack_logprobs(rows).hex(),
    }
    about = (
        "Sections 11.5 and 11.6: the logits of the positions behind `reply`, with the draft tokens before each; the "
        "log-probabilities of all tokens, and a Verdict's buffer."
    )
    logprobs = {"logits": list(LOGITS), "values": [round(float(value), 5) for value in told], "verdict": packed}
    return {"about": about, "cases": cases, "logprobs": logprobs}


def _shaped(what: str, shaping: Shaping, prompt: tuple[int, ...], reply: tuple[int, ...]) -> dict[str, Any]:
    draft = (5, 1, 5)
    shaper = Shaper(shaping, Past.of((*prompt, *reply), len(prompt), draft), len(LOGITS))
    rows = []
    for index in range(len(draft) + 1):
        rows.append(shaper.shaped(np.array(LOGITS, np.float32)).tolist())
        shaper.follow(draft[index] if index < len(draft) else 0)
    return {
        "what": what,
        "presence": shaping.presence,
        "frequency": shaping.frequency,
        "repetition": shaping.repetition,
        "last_tokens": shaping.last_tokens,
        "bias": [list(one) for one in shaping.bias],
        "prompt": list(prompt),
        "reply": list(reply),
        "draft": list(draft),
        "logits": list(LOGITS),
        "shaped": rows,
    }


# --- states -------------------------------------------------------------------------------------------------------


def states() -> dict[str, Any]:
    """A row of mixed sizes, one beyond what a half can hold, one of zeros, one of tiny numbers; 35 wide: two groups."""
    ramp = np.arange(35, dtype=np.float32)
    rows = np.stack([ramp / 4 - 3, (ramp - 17) * 8192, np.zeros(35, np.float32), (ramp + 1) * np.float32(2.0**-40)])
    num_positions, width = rows.shape
    packed = {wire: pack_states(rows, wire) for wire in WIRE_TYPES}
    return {
        "about": "Sections 7 and 10: hidden states of 4 positions, 35 wide, packed; and what a receiver has of them.",
        "values": rows.tolist(),
        "packed": {wire: data.hex() for wire, data in packed.items()},
        "unpacked": {wire: unpack_states(data, num_positions, width, wire).tolist() for wire, data in packed.items()},
        "tokens": {"ids": list(LINE), "packed": pack_tokens(list(LINE)).hex()},
    }


# --- acceptance ---------------------------------------------------------------------------------------------------

_KEYS = bytes([0b0000_0010, 0b1000_0000])
"""Ids 1 and 15 are key tokens, and all from 16 on."""


def _own(token: int, *chances: float, entropy: float = 0.5) -> JudgeDraw:
    """The judge's draw, and token ids 2, 3, 4 ... with these probabilities."""
    return JudgeDraw(token, tuple(range(2, 2 + len(chances))), chances, entropy)


def acceptances() -> dict[str, Any]:
    near, far, sure = _own(2, 0.4, 0.35, 0.1), _own(2, 0.4, 0.1, 0.1), _own(2, 0.9, 0.09, 0.01)
    certain = _own(2, 0.4, 0.35, entropy=0.04)
    calm, unsure = _own(2, 0.4, 0.2, 0.1, entropy=0.29), _own(2, 0.4, 0.2, 0.1, entropy=0.3)
    keyed = JudgeDraw(1, (1, 3), (0.4, 0.35), 0.5)
    half = _own(2, 0.5, 0.25, 0.1, entropy=0.5)
    cases = [
        _rule("the drafts are the judge's draws", 0.0, False, [(10, (2, 2), (near, near))]),
        _rule("threshold 0 is exact", 0.0, False, [(10, (2, 3, 2), (near, near, near))]),
        _rule("near enough stands", 0.3, False, [(10, (2, 3, 2), (near, near, near))]),
        _rule("too far from the most likely", 0.3, False, [(10, (3,), (far,))]),
        _rule("not among the most likely", 0.3, False, [(10, (9,), (near,))]),
        _rule("the model is sure: gap above 0.4", 0.9, False, [(10, (3,), (sure,))]),
        _rule("the model is nearly sure: entropy below 0.05", 0.3, False, [(10, (3,), (certain,))]),
        _rule("a key token is at stake", 0.3, False, [(10, (3,), (keyed,))]),
        _rule("deferred: uncertain, and three behind it match", 0.3, True, [(10, (3, 2, 2, 2), (unsure,) * 4)]),
        _rule("deferred: only two behind it", 0.3, True, [(10, (3, 2, 2), (unsure,) * 3)]),
        _rule("deferred: not uncertain enough", 0.3, True, [(10, (3, 2, 2, 2), (calm,) * 4)]),
        _rule("the budget runs out", 0.9, False, [(10 + index, (3,), (half,)) for index in range(8)]),
        _rule("and is whole again 100 tokens later", 0.9, False,
              [(10 + index, (3,), (half,)) for index in (0, 1, 2, 3, 4, 5, 100, 103, 203)]),
    ]  # fmt: skip
    about = "Section 11: decisions of one reply's rule, asked in this order (positions, draft, what the judge saw)."
    return {"about": about, "key_tokens": _KEYS.hex(), "cases": cases}


_Question = tuple[int, tuple[int, ...], tuple[JudgeDraw, ...]]


def _rule(what: str, threshold: float, deferred: bool, questions: Sequence[_Question]) -> dict[str, Any]:
    rule = RelaxedRule(threshold, deferred=deferred, key_tokens=KeyTokens(_KEYS))
    asked = []
    for start, draft, own in questions:
        accepted = rule.accept(start, draft, own)
        asked.append(
            {
                "start": start,
                "draft": list(draft),
                "own": [
                    {"token": o.token, "top": list(o.top), "probabilities": list(o.probabilities), "entropy": o.entropy}
                    for o in own
                ],
                "count": accepted.count,
                "relaxed": list(accepted.relaxed),
            }
        )
    return {"what": what, "threshold": threshold, "deferred": deferred, "asked": asked}


def bitmaps() -> dict[str, Any]:
    pieces = [b"", b" the", b"7", b"x+", b"\n", b"hello", "é".encode(), b"\xc3", b"a_b", "½".encode(), b"  ", b" end"]
    bitmap = key_tokens(pieces, others=(11,))
    asked = [*range(len(pieces)), 12, 15, 16, 1000]
    return {
        "about": "Section 11: the bitmap of a vocabulary, given the bytes of each token; id 11 ends a reply.",
        "pieces": [piece.hex() for piece in pieces],
        "others": [11],
        "bitmap": bitmap.hex(),
        "strict": {str(token): token in KeyTokens(bitmap) for token in asked},
    }
