"""Invitations: one word that brings somebody in, whatever a chat program does to it (docs/protocol.md, section 17).

Small letters and digits without i, l, o and u, so that it can be read aloud, typed, and packed tightly into a QR code.
It says how long it is, and ends with a check: what became of it on its way can be said.
"""

from __future__ import annotations

import ipaddress
import re
import zlib
from dataclasses import dataclass, field

from dsdnode.addresses import check_reachable, is_ip, parse_address
from dsdnode.errors import BadInput
from dsdnode.identity import curve_public_key
from dsdnode.wire.messages import MAX_ADDRESSES, Contact

PREFIX = "dsd1"
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH_SYMBOLS, CHECK_SYMBOLS = 2, 7
MAX_SYMBOLS = 32**LENGTH_SYMBOLS - 1
"""Of a whole code: what its length can say."""
MAX_MEMBERS, MAX_KEYS_INSIDE, MAX_KEY_BYTES = 8, 2, 255
MAX_TEXT = 8192
"""Characters of whatever is taken for a code, with all that a chat program has put into it."""
_HEX_KEY, _TEXT_KEY, _LATER = 0x10, 0x11, 0x80
"""Sections; those from _LATER on may be left out by whoever does not know them."""
_IPV4, _IPV6, _NAME = 4, 6, 0x80
_LIKE = str.maketrans("oil", "011")
_BEGIN = re.compile(r"dsd[0-9]")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class Invitation:
    """`expires_s`: since 1970. Then nobody should join by it any more; a swarm key that is in it stays what it is."""

    members: tuple[Contact, ...]
    expires_s: int
    swarm_keys: tuple[str, ...] = field(default=(), repr=False)


def is_code(text: str) -> bool:
    """Does it begin as a code does, of whichever version, whatever was put around it?"""
    return "://" not in text and _BEGIN.match(_bare(text[:MAX_TEXT])) is not None


def split_joins(text: str) -> list[str]:
    """The join strings and codes in a text; a code may be broken by blanks and lines. Bounded by the text."""
    words = [part for word in text.split() for part in ([word] if "://" in word else word.split(","))]
    found: list[str] = []
    is_open = False
    for word in words:
        if is_open and "://" not in word and not is_code(word):
            found[-1] += word
        else:
            found.append(word)
            is_open = _is_begun(word)
    return [word for word in found if _bare(word)]


def _is_begun(text: str) -> bool:
    """May what follows be the rest of a code? It may be broken anywhere."""
    return is_code(text) or ("://" not in text and PREFIX.startswith(_bare(text[:MAX_TEXT]) or "-"))


def _bare(text: str) -> str:
    """Letters and digits alone: without quotes, marks, blanks and what nobody sees; of letters that look alike one."""
    return "".join(filter(str.isalnum, text)).lower().translate(_LIKE)


# --- to write one -------------------------------------------------------------------------------------------------


def write_code(invitation: Invitation) -> str:
    """Raises ValueError, in words, where it does not fit into a code."""
    packed = invitation.expires_s.to_bytes(4, "big")
    packed += b"".join(map(_pack_member, invitation.members)) + b"".join(map(_pack_key, invitation.swarm_keys))
    return spell(packed)


def spell(packed: bytes) -> str:
    """Raises ValueError."""
    num_symbols = -(-8 * len(packed) // 5)
    length = len(PREFIX) + LENGTH_SYMBOLS + num_symbols + CHECK_SYMBOLS
    if length > MAX_SYMBOLS:
        raise ValueError(f"a code has at most {MAX_SYMBOLS} characters; this would have {length}")
    number = int.from_bytes(packed, "big") << (5 * num_symbols - 8 * len(packed))
    code = PREFIX + _symbols(length, LENGTH_SYMBOLS) + _symbols(number, num_symbols)
    return code + _check(code)


def _symbols(number: int, num: int) -> str:
    """The highest first."""
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(num)))


def _check(code: str) -> str:
    return _symbols(zlib.crc32(code.encode()), CHECK_SYMBOLS)


def _pack_member(contact: Contact) -> bytes:
    if not 0 < len(contact.addresses) <= MAX_ADDRESSES:
        raise ValueError(f"a member has 1 to {MAX_ADDRESSES} addresses in a code")
    return bytes([len(contact.addresses)]) + contact.public_key + b"".join(map(_pack_address, contact.addresses))


def _pack_address(address: str) -> bytes:
    host, port = parse_address(address)
    if is_ip(host):
        ip = ipaddress.ip_address(host)
        packed = bytes([_IPV4 if ip.version == 4 else _IPV6]) + ip.packed
    else:
        packed = bytes([_NAME | len(host)]) + host.encode()
    return packed + port.to_bytes(2, "big")


def _pack_key(key: str) -> bytes:
    kind, packed = (_HEX_KEY, bytes.fromhex(key)) if _HEX.fullmatch(key) else (_TEXT_KEY, key.encode())
    if not 0 < len(packed) <= MAX_KEY_BYTES:
        raise ValueError(f"a swarm key of more than {MAX_KEY_BYTES} bytes does not fit into a code")
    return bytes([kind, len(packed)]) + packed


# --- to read one --------------------------------------------------------------------------------------------------


def read_code(text: str) -> Invitation:
    """Raises BadInput that says what became of it on its way. There may be a secret in it: no word of it is shown."""
    if len(text) > MAX_TEXT:
        raise BadInput(f"this is no code: those have at most {MAX_SYMBOLS} characters")
    code = _bare(text)
    if not code.startswith(PREFIX):
        newer = "of a later version of dsdnode: update this one" if _BEGIN.match(code) else f"no code: see {PREFIX}..."
        raise BadInput(f"this is {newer}")
    _check_whole(code)
    try:
        return _unpack(_packed(code[len(PREFIX) + LENGTH_SYMBOLS : -CHECK_SYMBOLS]))
    except (ValueError, IndexError) as error:
        raise BadInput(f"the code has come as it was made, and was made wrong: {error}") from None


def _check_whole(code: str) -> None:
    """Raises BadInput, in words, where it is not what was sent."""
    for place, symbol in enumerate(code, 1):
        if symbol not in ALPHABET:
            raise BadInput(f"the code is damaged: its character {place} is {symbol!r}, which is in no code")
    least = len(PREFIX) + LENGTH_SYMBOLS + CHECK_SYMBOLS
    begun = code[len(PREFIX) :][:LENGTH_SYMBOLS]
    length = sum(ALPHABET.index(symbol) << 5 * place for place, symbol in enumerate(reversed(begun)))
    if len(code) == length and least < length and _check(code[:-CHECK_SYMBOLS]) == code[-CHECK_SYMBOLS:]:
        return
    if wrong := _wrong_symbol(code[:MAX_SYMBOLS]):
        place, right = wrong
        raise BadInput(f"the code is damaged: its character {place + 1} is {code[place]!r}, and {right!r} would fit")
    missing = length - len(code)
    if len(begun) < LENGTH_SYMBOLS or missing > 0:
        some = "nearly all of it is" if len(code) < least else f"{missing} character{'s are' if missing > 1 else ' is'}"
        raise BadInput(f"the code is not complete: {some} missing (at its end, if it was cut off: put it in quotes)")
    if missing < 0:
        raise BadInput(f"the code is damaged: it has {-missing} character{'s' * (missing < -1)} too many")
    raise BadInput("the code is damaged: several of its characters are wrong")


def _wrong_symbol(code: str) -> tuple[int, str] | None:
    """Which one character, and what in its place, would make the check right. (Other than by chance: 1 in 100,000.)"""
    body, check = code[:-CHECK_SYMBOLS], code[-CHECK_SYMBOLS:]
    right = _check(body)
    differing = [place for place, (one, other) in enumerate(zip(right, check, strict=False)) if one != other]
    if len(differing) == 1 and len(check) == CHECK_SYMBOLS:
        return len(body) + differing[0], right[differing[0]]
    said, raw = _number(check), bytearray(body.encode())
    for place in range(len(PREFIX), len(raw)):
        was = raw[place]
        for symbol in ALPHABET.encode():
            raw[place] = symbol
            if zlib.crc32(raw) == said:
                return place, chr(symbol)
        raw[place] = was
    return None


def _number(symbols: str) -> int:
    number = 0
    for symbol in symbols:
        number = number << 5 | ALPHABET.index(symbol)
    return number


def _packed(symbols: str) -> bytes:
    num_bytes, num_spare = divmod(5 * len(symbols), 8)
    number = _number(symbols)
    if num_spare >= 5 or number & ((1 << num_spare) - 1):
        raise ValueError("its last bits are not 0")
    return (number >> num_spare).to_bytes(num_bytes, "big")


def _unpack(packed: bytes) -> Invitation:
    """Raises ValueError, IndexError."""
    reader = _Reader(packed)
    expires_s = int.from_bytes(reader.take(4), "big")
    members: list[Contact] = []
    keys: list[str] = []
    while not reader.is_over:
        kind = reader.byte()
        if 0 < kind <= MAX_ADDRESSES:
            members.append(_read_member(reader, kind))
        elif kind in (_HEX_KEY, _TEXT_KEY):
            keys.append(_read_key(kind, reader.take(reader.byte())))
        elif kind >= _LATER:
            reader.take(reader.byte())
        else:
            raise ValueError(f"section {kind} is of no kind")
    if not 0 < len(members) <= MAX_MEMBERS or len(keys) > MAX_KEYS_INSIDE:
        raise ValueError(f"{len(members)} members and {len(keys)} swarm keys")
    return Invitation(tuple(members), expires_s, tuple(keys))


class _Reader:
    def __init__(self, packed: bytes) -> None:
        self._rest = packed

    @property
    def is_over(self) -> bool:
        return not self._rest

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, num: int) -> bytes:
        if num > len(self._rest):
            raise ValueError("it ends too soon")
        taken, self._rest = self._rest[:num], self._rest[num:]
        return taken


def _read_member(reader: _Reader, num_addresses: int) -> Contact:
    public_key = reader.take(32)
    curve_public_key(public_key)
    return Contact(public_key, tuple(_read_address(reader) for _ in range(num_addresses)))


def _read_address(reader: _Reader) -> str:
    kind = reader.byte()
    if kind == _IPV4:
        host = str(ipaddress.IPv4Address(reader.take(4)))
    elif kind == _IPV6:
        host = f"[{ipaddress.IPv6Address(reader.take(16))}]"
    elif kind > _NAME:
        host = reader.take(kind - _NAME).decode("ascii").lower()
    else:
        raise ValueError(f"address {kind} is of no kind")
    address = f"tcp://{host}:{int.from_bytes(reader.take(2), 'big')}"
    check_reachable(address)
    return address


def _read_key(kind: int, packed: bytes) -> str:
    key = packed.hex() if kind == _HEX_KEY else packed.decode()
    if not key or key != key.strip() or not key.isprintable():
        raise ValueError("a swarm key that cannot be one")
    return key
