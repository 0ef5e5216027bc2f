"""What --allow and --block say: ids of peers, as `dsdnode peers --json` has them, join strings, or a file of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dsdnode.config import read_whole
from dsdnode.errors import BadInput
from dsdnode.files import at_home
from dsdnode.identity import peer_id
from dsdnode.wire.joins import parse_join

ID_DIGITS = 64
SHOWN_DIGITS = 12
"""As `peers` shows them: enough to shut somebody out; to let somebody in by them, a forger could make a key with the
same beginning."""
MAX_PEERS = 1024


def read_peers(raw: object, least_digits: int, *, may_be_empty: bool) -> tuple[str, ...]:
    """Beginnings of ids, in hex, at least so long. Raises BadInput; unless it `may_be_empty`, also where nobody is
    named: a list of those who are let in that has become empty would let everybody in."""
    said = [raw] if isinstance(raw, str) else raw
    if not isinstance(said, list | tuple) or not all(isinstance(one, str) for one in said):
        raise BadInput("a list of texts is expected")
    found = dict.fromkeys(_read(word, least_digits) for text in said for word in _words(text))
    if not found and not may_be_empty:
        raise BadInput("it names no peer at all: leave it out where nobody is meant")
    if len(found) > MAX_PEERS:
        raise BadInput(f"{len(found)} peers are too many; {MAX_PEERS} at most")
    return tuple(found)


def _words(text: str) -> Iterator[str]:
    """In a file a line has one or several, and what follows # is for people."""
    if not text.strip().startswith("@"):
        for word in text.split():  # a join string may have commas between its hosts
            yield from (word,) if "/" in word else filter(None, word.split(","))
        return
    path = at_home(text.strip()[1:])
    try:
        lines = read_whole(path, "list of peers").decode("utf-8-sig").splitlines()
    except ValueError:
        raise BadInput(f"the list of peers {path} is not UTF-8 text") from None
    for line in lines:
        yield from line.partition("#")[0].split()


def _read(word: str, least_digits: int) -> str:
    if "/" in word:
        return peer_id(parse_join(word).public_key).hex()
    if re.fullmatch(rf"[0-9a-fA-F]{{{least_digits},{ID_DIGITS}}}", word) is None:
        digits = f"{ID_DIGITS}" if least_digits == ID_DIGITS else f"{least_digits} to {ID_DIGITS}"
        raise BadInput(
            f"{word!r} is not a peer: write {digits} hex digits of its id (`dsdnode peers --json`), a join string of "
            "it, or @FILE"
        )
    return word.lower()
