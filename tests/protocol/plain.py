"""docs/protocol.md once more, as a reader would write it down: only Python's own, msgpack, nacl and numpy.

Nothing of dsdnode is imported here: the vectors are compared with this, so that the page and the code cannot drift.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import socket
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from nacl.signing import SigningKey, VerifyKey

MASK = (1 << 64) - 1


# --- section 2 ----------------------------------------------------------------------------------------------------


def identity(seed: bytes) -> dict[str, str]:
    key = SigningKey(seed)
    public = bytes(key.verify_key)
    return {
        "public_key": public.hex(),
        "peer_id": hashlib.sha256(public).hexdigest(),
        "curve_public_key": bytes(key.verify_key.to_curve25519_public_key()).hex(),
        "curve_secret_key": bytes(key.to_curve25519_private_key()).hex(),
    }


# --- section 4 ----------------------------------------------------------------------------------------------------


def swarm_key(text: str) -> bytes:
    return hashlib.scrypt(text.encode(), salt=b"dsdnode swarm key 1", n=16384, r=8, p=1, dklen=32) if text else b""


def proof(derived: bytes, label: bytes, speaker: bytes, listener: bytes, nonce: bytes) -> bytes:
    if not derived:
        return b""
    return hmac.new(derived, b"dsdnode " + label + b" 1\n" + speaker + listener + nonce, hashlib.sha256).digest()


# --- section 17 ---------------------------------------------------------------------------------------------------

SYMBOLS = "0123456789abcdefghjkmnpqrstvwxyz"


def code_of(members: Sequence[tuple[bytes, Sequence[str]]], expires_s: int, swarm_keys: Sequence[str]) -> str:
    raw = struct.pack(">I", expires_s)
    for public_key, addresses in members:
        raw += bytes([len(addresses)]) + public_key + b"".join(map(_address, addresses))
    for key in swarm_keys:
        is_hex = len(key) % 2 == 0 and set(key) <= set("0123456789abcdef")
        part = bytes.fromhex(key) if is_hex else key.encode()
        raw += bytes([0x10 if is_hex else 0x11, len(part)]) + part
    bits = "".join(f"{byte:08b}" for byte in raw)
    bits += "0" * (-len(bits) % 5)
    body = "".join(SYMBOLS[int(bits[place : place + 5], 2)] for place in range(0, len(bits), 5))
    length = 4 + 2 + len(body) + 7
    begun = "dsd1" + SYMBOLS[length // 32] + SYMBOLS[length % 32] + body
    check = f"{zlib.crc32(begun.encode()):035b}"
    return begun + "".join(SYMBOLS[int(check[place : place + 5], 2)] for place in range(0, 35, 5))


def _address(address: str) -> bytes:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if host.startswith("["):
        kind = b"\x06" + socket.inet_pton(socket.AF_INET6, host[1:-1])
    elif set(host) <= set("0123456789."):
        kind = b"\x04" + socket.inet_pton(socket.AF_INET, host)
    else:
        kind = bytes([128 + len(host)]) + host.encode()
    return kind + struct.pack(">H", int(port))


# --- section 15 ---------------------------------------------------------------------------------------------------


def relay_frame(tag: int, values: Any) -> bytes:
    body = packed([tag, *values])
    return struct.pack(">H", len(body)) + body


def relay_signed(purpose: bytes, relay: bytes, *rest: bytes) -> bytes:
    return b"dsdnode relay " + purpose + b" 1\n" + relay + b"".join(rest)


def relay_proof(derived: bytes, signed: bytes) -> bytes:
    return hmac.new(derived, signed, hashlib.sha256).digest()


# --- sections 6 and 8 ---------------------------------------------------------------------------------------------


def real(value: Any) -> Any:
    """A vector's JSON as Python: {"hex": ...} is bytes."""
    if isinstance(value, dict) and value.keys() == {"hex"}:
        return bytes.fromhex(value["hex"])
    return [real(item) for item in value] if isinstance(value, list) else value


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(real(value), use_bin_type=True)
    return data


def signed_record(seed: bytes, payload: bytes) -> bytes:
    signature = SigningKey(seed).sign(b"dsdnode provider record 1\n" + payload).signature
    return packed([1, {"hex": payload.hex()}, {"hex": signature.hex()}])


def model_id(values: dict[str, Any]) -> str:
    """Of a record's values, by name."""
    names = ("weights_hash", "architecture", "num_layers", "width", "vocab_size", "tokenizer_hash")
    told = " ".join(str(values[name]) for name in (*names, *(["text_hash"] if values["text_hash"] else [])))
    return hashlib.sha256(f"dsdnode model 1\n{told}\n".encode()).hexdigest()


def check_record(data: bytes) -> list[Any]:
    """The values of a signed record. Raises for a wrong signature."""
    version, payload, signature = msgpack.unpackb(data)
    values: list[Any] = msgpack.unpackb(payload)
    VerifyKey(values[0]).verify(b"dsdnode provider record 1\n" + payload, signature)
    assert version == 1
    return values


def key(kind: str, name: str) -> bytes:
    return hashlib.sha256(f"dsdnode/1/{kind}/{name}".encode()).digest()


def distance(one: bytes, other: bytes) -> int:
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


# --- section 10 ---------------------------------------------------------------------------------------------------


def digests(secret: bytes, tokens: Sequence[int]) -> list[bytes]:
    found = [hashlib.blake2b(b"dsdnode", key=secret, digest_size=8).digest()]
    for token in tokens:
        found.append(hashlib.blake2b(found[-1] + struct.pack("<I", token), key=secret, digest_size=8).digest())
    return found


def seal(key: bytes, session: bytes, digest: bytes, closing: dict[str, Any]) -> bytes:
    numbers = [closing["route"], closing["position"], closing["token"], *closing["relaxed"]]
    data = session + digest + struct.pack(f"<{len(numbers)}I", *numbers)
    return hashlib.blake2b(data, key=key, digest_size=8).digest()


# --- section 11 ---------------------------------------------------------------------------------------------------


def splitmix64(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def mix(x: int, k: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x = x + k & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def noise(seed: int, position: int, token: int) -> int:
    whole = splitmix64((splitmix64(seed) + position) & MASK)
    return mix(mix(token, 0) ^ whole & 0xFFFFFFFF, whole >> 32)


def draw(logits: Sequence[float], position: int, asked: dict[str, Any]) -> int:
    values = cleaned(logits)
    best = max(range(len(values)), key=lambda token: (values[token], -token))
    if asked["temperature"] < 1e-3:
        return best
    left = filtered(values, best, asked)
    scale = np.float32(1 / asked["temperature"])

    def total(token: int) -> float:
        uniform = (noise(asked["seed"], position, token) + 0.5) / 2**32
        return float((values[token] - values[best]) * scale) - math.log(-math.log(uniform))

    return max(left, key=lambda token: (total(token), -token))


def cleaned(logits: Sequence[float]) -> list[np.float32]:
    values = [np.float32(-np.inf if math.isnan(one) else min(one, 3.4e38)) for one in logits]
    if max(values) == -np.inf:
        raise ArithmeticError("nothing to draw from")
    return values


def filtered(values: list[np.float32], best: int, asked: dict[str, Any]) -> list[int]:
    """Token ids that may be drawn, the most likely first."""
    ids = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if 0 < asked["top_k"] < len(values):
        ids = ids[: asked["top_k"]]
    if asked["top_p"] < 1:
        weights = [math.exp(values[token] - values[best]) for token in ids]
        goal, reached, count = asked["top_p"] * sum(weights), 0.0, 0
        while count < len(ids) and reached < goal:
            reached += weights[count]
            count += 1
        ids = ids[:count]
    if asked["min_p"] > 0:
        least = values[best] + np.float32(math.log(asked["min_p"]))
        ids = [token for token in ids if values[token] >= least]
    return ids


class Relaxed:
    """The rule of one reply."""

    def __init__(self, threshold: float, deferred: bool, bitmap: bytes) -> None:
        self.threshold, self.deferred, self.bitmap = threshold, deferred, bitmap
        self.spent: dict[int, float] = {}

    def is_key(self, token: int) -> bool:
        return token >= 8 * len(self.bitmap) or bool(self.bitmap[token // 8] >> token % 8 & 1)

    def accept(self, start: int, draft: list[int], own: list[dict[str, Any]]) -> tuple[int, list[int]]:
        relaxed: list[int] = []
        for index, token in enumerate(draft):
            if token == own[index]["token"]:
                continue
            behind = [draft[i] == own[i]["token"] for i in range(index + 1, len(draft))]
            price = self.price(start + index, token, own[index], behind)
            if price is None:
                return index, relaxed
            self.spent[start + index] = price
            relaxed.append(start + index)
        return len(draft), relaxed

    def price(self, position: int, token: int, own: dict[str, Any], behind: list[bool]) -> float | None:
        """What it costs to let the token stand; None: it falls."""
        top, chances = own["top"], own["probabilities"]
        if token not in top or len(top) < 2 or own["entropy"] < 0.05 or chances[0] - chances[1] > 0.4:
            return None
        if any(self.is_key(one) for one in (token, own["token"], top[0])):
            return None
        price = math.log(chances[0] / chances[top.index(token)])
        left = max(0.0, 4.0 - sum(cost for place, cost in self.spent.items() if place > position - 100))
        tau = self.threshold * left / 4.0
        near = tau > 0 and price <= min(left, -math.log(1 - tau))
        looked_at = behind[:6]
        excused = self.deferred and self.threshold > 0 and own["entropy"] >= 0.3 and price <= left
        excused = excused and len(looked_at) >= 3 and all(looked_at)
        return price if near or excused else None


# --- states (section 7) -------------------------------------------------------------------------------------------


def pack(rows: list[list[float]], wire: str) -> bytes:
    if wire == "f32":
        return b"".join(struct.pack("<f", value) for row in rows for value in row)
    if wire == "f16":
        return pack_halves(rows)
    groups = [[row[at : at + 32] for at in range(0, len(row), 32)] for row in rows]
    largest = [[float(np.float32(max(map(abs, part))) / np.float32(127)) for part in row] for row in groups]
    head = pack_halves(largest)
    steps = unpack_halves(head, len(rows), len(largest[0]))
    whole = [
        round(float(np.float32(value) / np.float32(step))) if step > 0 else 0
        for row, row_steps in zip(groups, steps, strict=True)
        for part, step in zip(row, row_steps, strict=True)
        for value in part
    ]
    return head + bytes(max(-127, min(127, one)) & 255 for one in whole)


def pack_halves(rows: list[list[float]]) -> bytes:
    """A power of two for each row, its largest value between 2^14 and 2^15; then the halves."""
    exponents = [max(math.frexp(max(map(abs, row)))[1] - 15, -126) for row in rows]
    halves = [
        struct.pack("<e", math.ldexp(value, -power))
        for row, power in zip(rows, exponents, strict=True)
        for value in row
    ]
    return b"".join([*(struct.pack("<f", 2.0**power) for power in exponents), *halves])


def unpack_halves(data: bytes, num_rows: int, width: int) -> list[list[float]]:
    scales = struct.unpack_from(f"<{num_rows}f", data)
    halves = struct.unpack_from(f"<{num_rows * width}e", data, 4 * num_rows)
    return [[scale * half for half in halves[at * width : (at + 1) * width]] for at, scale in enumerate(scales)]


def unpack(data: bytes, num_rows: int, width: int, wire: str) -> list[list[float]]:
    if wire == "f32":
        flat = struct.unpack(f"<{num_rows * width}f", data)
        return [list(flat[at * width : (at + 1) * width]) for at in range(num_rows)]
    if wire == "f16":
        return unpack_halves(data, num_rows, width)
    num_groups = -(-width // 32)
    steps = unpack_halves(data, num_rows, num_groups)
    whole = struct.unpack_from(f"<{num_rows * width}b", data, num_rows * (4 + 2 * num_groups))
    return [
        [float(np.float32(steps[row][at // 32]) * np.float32(whole[row * width + at])) for at in range(width)]
        for row in range(num_rows)
    ]
