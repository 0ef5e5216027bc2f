"""What --join, its variable or a file may say: join strings, and codes of invitations, which may bring a swarm key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from dsdnode.config import MAX_JOINS, parse_text
from dsdnode.errors import BadInput
from dsdnode.wire.invitations import Invitation, is_code, read_code, split_joins
from dsdnode.wire.joins import format_join, parse_join

FLAGS = ("--join", "--bootstrap", "--initial-peers")
VARIABLE = "DSDNODE_JOIN"
MAX_SHOWN = 100
"""Of what is no join string: a longer one may be a code without its beginning, and a key may be in it."""


@dataclass(frozen=True, slots=True)
class Joins:
    """`strings`: how each member is reached; `swarm_keys`: those that were in codes."""

    strings: tuple[str, ...]
    swarm_keys: tuple[str, ...] = field(default=(), repr=False)


def parse_joins(raw: object) -> Joins:
    """Of a text with one or several, or a list of such texts. Raises BadInput; of a code nothing is shown."""
    texts = [raw] if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) and one.strip() for one in texts):
        raise BadInput("a list of texts is expected")
    strings: dict[str, None] = {}
    keys: dict[str, None] = {}
    for word in (word for text in texts for word in split_joins(text)):
        if is_code(word):
            invitation = fresh(read_code(word))
            strings.update(dict.fromkeys(map(format_join, invitation.members)))
            keys.update(dict.fromkeys(invitation.swarm_keys))
        else:
            strings[_plain(parse_text(word))] = None
    if not strings:
        raise BadInput("a list of texts is expected")
    if len(strings) > MAX_JOINS:
        raise BadInput(f"{len(strings)} join addresses are too many; {MAX_JOINS} at most")
    return Joins(tuple(strings), tuple(keys))


def bears_code(text: str) -> bool:
    return any(map(is_code, split_joins(text)))


def fresh(invitation: Invitation) -> Invitation:
    """Raises BadInput when its time is over, by this machine's clock."""
    now = datetime.now(UTC)
    if invitation.expires_s <= now.timestamp():
        raise BadInput(
            f"the code expired on {date(invitation.expires_s)} (this machine's clock says {date(now.timestamp())}): "
            "ask a member for a new one, which `dsdnode invite` makes"
        )
    return invitation


def date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _plain(text: str) -> str:
    if "://" not in text and len(text) > MAX_SHOWN:
        raise BadInput("this is neither a join address (dsd://HOST:PORT/KEY) nor the whole of a code (dsd1...)")
    parse_join(text)
    return text
