"""What a node is told at its start: frozen, every limit with its unit. Where each value came from: cli/settings.py."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from dsdnode.addresses import parse_address, read_host
from dsdnode.cost import CostLine
from dsdnode.errors import BadInput
from dsdnode.files import reading, replacing
from dsdnode.wire.messages import MAX_LAYERS

AUTO = "auto"
"""No role, but whatever brings the swarm most (node/proposal.py)."""
GATEWAY = "gateway"
"""The one that a node of any other role may have beside: it asks the swarm for programs, and offers it nothing."""
ROLES = ("drafter", "shard", "bootstrap", GATEWAY, AUTO)
FIRST_ROLES = ("drafter", "shard")
"""Of who begins a swarm by itself: one machine alone already answers."""
DEFAULT_LISTEN = "tcp://[::]:29170"
"""Every address of this machine, of both families."""
RELAY_BITS_PER_S = 20_000_000
"""Of all that a node relays: what a home's line has to spare, and a few pipelines fill."""
MIN_RELAY_BITS_PER_S, MAX_RELAY_BITS_PER_S = 1_000_000, 100_000_000_000
"""At less, a few busy circuits wait so long for their turns that their ends give them up."""
MODELS_BYTES_PER_S = RELAY_BITS_PER_S // 8
"""Of models that are here, to members that fetch them, all together: for the same reason."""
MIN_UPLOAD_BYTES_PER_S = 10_000
"""What never waits (pings, verdicts, text, the DHT) takes a few kB of it: at less nothing else would leave."""
MAX_JOINS = 64
MAX_SWARM_KEYS = 2
MAX_FILE_BYTES = 1 << 20
"""Of a configuration or a scenario."""
MAX_BITS = 63
"""Of a whole number in one: none has a use for more, and neither have floats, nor what shows numbers."""
MAX_SWARM_FILE_BYTES = 64 * 1024
MAX_LIFE_DIGITS = 8
NO_DRAFT = "none"
"""In the place of a draft model."""
ACCEPTANCES = ("exact", "relaxed", "deferred")
"""Rules by which the judge accepts (speculation/acceptance.py); all but the first may change the text, and say so."""
DEFAULT_THRESHOLD = 0.3
"""Of relaxed acceptance, when nothing is said."""
DEFAULT_PATIENCE_S = 60.0
"""Longer than a blip of a home's line; a person has gone by then."""
POSITION_PATIENCE_S = 0.2
"""More for each position that is being computed: slower pipelines are of no use to anybody."""
STILL_S = 5.0
"""A reply that stands still for so long is spoken of."""
MAX_DRAFT = 64
"""Of a window, or a block: draft tokens."""

Hours = tuple[int, int]
"""Minutes of the day, from and to; the second may be smaller: over midnight."""
_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-4]):([0-5]\d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:bit(?:/s)?)?", re.IGNORECASE)
_LISTEN = re.compile(r"(?:(?i:tcp)://)?(\[[^\[\]\s]+\]|[^:/\[\]\s]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the node waits before it takes another way; tests shorten them."""

    join_s: float = 10.0
    """Until one of the peers named by `join` has answered."""
    lease_s: float = 60.0
    """A stage frees the cache of a session that it has not heard of for so long."""
    drain_s: float = 30.0
    """Replies in flight may take so long to end when the node is asked to stop."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that `Node.start` needs. Paths left None: the bundled demo model, and files in the data dir."""

    roles: tuple[str, ...] = (AUTO,)
    listen: str = DEFAULT_LISTEN
    """Where the node is bound; port 0: any free one, another one after a restart."""
    advertise: tuple[str, ...] = ()
    """Addresses told to others (at most 4), when `listen` is not what they can dial."""
    joins: tuple[str, ...] = ()
    """Join strings of any members; none: the swarm last known, or a new one."""
    swarm_keys: tuple[str, ...] = field(default=(), repr=False)
    """Secret of a private swarm, proven to peers and never sent; two while one replaces the other, the newer first."""
    no_relay: bool = False
    """Pass on nothing between a peer that others do not reach and those who call it."""
    relay_bits_per_s: int = RELAY_BITS_PER_S
    """At most so much of that, of all such peers together, both ways."""
    model: Path | None = None
    """Target of the role `shard`: a whole GGUF or a shard file."""
    model_source: str = ""
    """Where that is to be fetched from first, in place of a path (weights/sources.py)."""
    draft_model: Path | None = None
    """Draft model and tokenizer of the role `drafter`."""
    draft_model_source: str = ""
    no_draft_model: bool = False
    """A drafter without one: what it proposes is copied from the text (speculation/owner/ngrams.py)."""
    layers: tuple[int, int] | None = None
    """Layers [start, end) of the target that are hosted here; None: those that the swarm needs most."""
    context_tokens: int = 8192
    """Cells of each engine's cache, shared by its sessions."""
    threads: int | None = None
    """Of each engine; None: one a physical core."""
    gpu_layers: int = 0
    max_sessions: int = 8
    """Replies served at once; one more is refused with a word."""
    max_memory_bytes: int | None = None
    """Weights and caches together; a model that does not fit is refused, or fewer layers are taken."""
    max_disk_bytes: int | None = None
    """Of all models that were fetched; None: as much as the disk has to spare."""
    max_download_bytes_per_s: int | None = None
    """Of models that are fetched."""
    max_upload_bytes_per_s: int | None = None
    """Of all that is sent, control messages counted, which never wait; 0: no models are given, and nothing is held;
    None: models at MODELS_BYTES_PER_S, and nothing else is held."""
    allow: tuple[str, ...] = ()
    """Beginnings of ids of peers that this machine serves, and that may compute what its drafter is asked for; none:
    of anybody."""
    block: tuple[str, ...] = ()
    """Of those that it does not serve, and that may not."""
    hours: Hours | None = None
    """When others are served, by this machine's clock; None: always."""
    on_battery: bool = False
    """Serve others on battery, too."""
    on_metered: bool = False
    """So in a network that is paid for by volume, where the system tells."""
    draft_max: int = 8
    """Draft tokens in a round, or in a block of a stream, at most; 0 is plain decoding."""
    window: str = "throughput"
    """The policy that chooses how much is drafted, and when (pacing/policies.py)."""
    acceptance: str = "exact"
    """As `draft_max`, `window`, `threshold` and `wire`: of replies that do not ask for their own."""
    threshold: float = DEFAULT_THRESHOLD
    wire: str = "auto"
    """Type in which hidden states travel: auto is f32, which alone is exact; f16 and q8 may tip near-ties."""
    strict: bool = False
    """The engine setting in which rounding does not depend on the block: one thread, one reply at a time."""
    patience_s: float = DEFAULT_PATIENCE_S
    """A reply that has not gone forward for so long ends, and says what it waited for."""
    name: str = ""
    """A nickname, shown to others beside the peer id."""
    data_dir: Path = field(default_factory=lambda: default_data_dir())
    identity_path: Path | None = None
    emulate: CostLine | None = None
    """For `dsdnode bench`: engines take at least so long a decode, and so much more a position (engine/slow.py)."""
    timeouts: Timeouts = Timeouts()

    @property
    def models_bytes_per_s(self) -> int:
        """Of models, to all members together."""
        return MODELS_BYTES_PER_S if self.max_upload_bytes_per_s is None else self.max_upload_bytes_per_s

    @property
    def relaying_bits_per_s(self) -> int:
        """Of all that is relayed, both ways: half of what may be sent is left to replies. 0: nothing, also where that
        is too little for a relay."""
        held = 4 * self.max_upload_bytes_per_s if self.max_upload_bytes_per_s else self.relay_bits_per_s
        return 0 if self.no_relay or held < MIN_RELAY_BITS_PER_S else min(held, self.relay_bits_per_s)

    @property
    def identity_file(self) -> Path:
        return self.identity_path or self.data_dir / "identity.key"

    @property
    def slowdown_file(self) -> Path:
        """With `emulate`: holds a factor to be slower by, read at every decode."""
        return self.data_dir / "slowdown"

    @property
    def swarm_file(self) -> Path:
        """Where `write_joins` keeps the members last known."""
        return swarm_file(self.data_dir)


def default_data_dir() -> Path:
    """Raises BadInput."""
    return users_folder(platformdirs.user_data_dir)


def users_folder(find: Callable[..., str]) -> Path:
    """Ours, where platformdirs has it. Raises BadInput: a user whom the system does not know has no home."""
    try:
        return Path(find("dsdnode", appauthor=False))
    except RuntimeError:
        raise BadInput("no home folder of this user is known here: set HOME to one that is his") from None


def swarm_file(data_dir: Path) -> Path:
    return data_dir / "swarm.json"


def read_joins(data_dir: Path, swarms: tuple[str, ...]) -> tuple[str, ...]:
    """Join strings of the swarm last known, newest first; none when there is no such file, or not one of ours.

    `swarms`: names of the swarm that is meant (net/handshake.py: swarm_names); members of another are not told.
    """
    path = swarm_file(data_dir)
    try:
        known = json.loads(path.read_bytes()[:MAX_SWARM_FILE_BYTES]) if path.is_file() else ()
    except (OSError, ValueError, RecursionError):
        return ()
    joins = known
    if isinstance(known, dict):  # earlier versions wrote the list alone
        theirs = known.get("swarms")
        joins = known.get("joins") if isinstance(theirs, list) and any(name in theirs for name in swarms) else ()
    return tuple(join for join in joins if isinstance(join, str))[:MAX_JOINS] if isinstance(joins, list) else ()


def write_joins(data_dir: Path, joins: tuple[str, ...], swarms: tuple[str, ...]) -> None:
    """Remember members of the swarm that has these names for the next start. Raises BadInput, OSError."""
    path = swarm_file(data_dir)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps({"swarms": swarms, "joins": joins[:MAX_JOINS]}).encode())


def next_life(identity_file: Path) -> int:
    """How many times this identity has been started, now included: what it says in this life outweighs all that it said
    before. Counted beside its key; 0 where that cannot be."""
    path = identity_file.with_name(identity_file.name + ".lives")
    try:
        counted = b""
        if path.is_file():
            with path.open("rb") as file:
                counted = file.read(MAX_LIFE_DIGITS + 1)
        life = int(counted) + 1 if counted.isdigit() and len(counted) <= MAX_LIFE_DIGITS else 1
        with replacing(path) as file:
            file.write(b"%d" % life)
    except (OSError, BadInput):
        return 0
    return life


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The table of a file; `what` it is, for people. Raises BadInput."""
    try:
        return tomllib.loads(read_whole(path, what).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from None


def read_whole(path: Path, what: str) -> bytes:
    """All of a file that is to be short; of a longer one the end would go unread. Raises BadInput."""
    try:
        with reading(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot read the {what} {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"the {what} {path} has more than {MAX_FILE_BYTES >> 20} MiB")
    return data


def parse_text(text: str, what: str = "this") -> str:
    """The same text; bytes of an argument that were none are lone surrogates in it. Raises BadInput."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        raise BadInput(f"{what} is not UTF-8 text: the byte 0x{byte:02x} after {text[: error.start][-20:]!r}") from None
    return text


def parse_size(text: str) -> int:
    """Bytes of "6GB", "512 MiB" or "1000". Raises BadInput."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{text!r} is not a size: write it like 6GB, 512MiB or 1000000 (bytes)")
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    size_bytes = float(number) * base ** " KMGT".index(prefix.upper() or " ")
    if not 1 <= size_bytes < 1 << 60:
        raise BadInput(f"{text!r} is not a size that can be used")
    return int(size_bytes)


def parse_byte_rate(text: str) -> int:
    """Bytes a second of "2MB/s" or "500kB"; 0: nothing. Raises BadInput."""
    if text.strip() == "0":
        return 0
    try:
        return parse_size(text.strip().removesuffix("/s"))
    except BadInput:
        raise BadInput(f"{text!r} is not a rate: write it like 2MB/s or 500kB/s") from None


def parse_rate(text: str) -> int:
    """Bits a second of "20Mbit/s", "500 kbit" or "8000000". Raises BadInput."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{text!r} is not a rate: write it like 20Mbit/s, 1.5Mbit/s or 8000000 (bits a second)")
    bits_per_s = float(match[1]) * 1000 ** " KMG".index(match[2].upper() or " ")
    if not MIN_RELAY_BITS_PER_S <= bits_per_s <= MAX_RELAY_BITS_PER_S:
        raise BadInput(f"{text!r} is not a rate that can be used: 1Mbit/s to 100Gbit/s, or none (--no-relay)")
    return int(bits_per_s)


def parse_hours(text: str) -> Hours:
    """Of "20:00-08:00". Raises BadInput."""
    match = _HOURS.fullmatch(text.strip())
    minutes = tuple(int(one) for one in match.groups()) if match else (0, 0, 24, 1)
    start, end = 60 * minutes[0] + minutes[1], 60 * minutes[2] + minutes[3]
    if end > 24 * 60:
        raise BadInput(f"{text!r} are no hours: write from when to when, 20:00-08:00")
    if start == end % (24 * 60):
        raise BadInput(f"{text!r} is all day or never: leave --hours out to serve always")
    return start, end % (24 * 60)


def parse_layers(text: str) -> tuple[int, int]:
    """Layers [start, end) of "0:16" (half-open) or "0-15" (inclusive). Raises BadInput."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*([:-])\s*(\d{1,5})\s*", text)
    if match is None:
        raise BadInput(f"{text!r} is not a layer range: write 0:16 (half-open) or 0-15 (inclusive)")
    start, end = int(match[1]), int(match[3]) + (match[2] == "-")
    if not start < end <= MAX_LAYERS:
        raise BadInput(f"layers {text!r} are empty or out of range: 0:16 are the first sixteen")
    return start, end


def parse_listen(text: str) -> str:
    """`tcp://HOST:PORT` of "tcp://HOST:PORT" or "HOST:PORT"; an IPv6 host stands in brackets. Raises BadInput."""
    match = _LISTEN.fullmatch(text.strip())
    if match is None or int(match[2]) > 65535:
        raise BadInput(f"{text!r} is not an address: write it like tcp://0.0.0.0:29170")
    try:
        address = f"tcp://{read_host(match[1])}:{int(match[2])}"
        parse_address(address, lowest_port=0)
    except ValueError as error:
        raise BadInput(f"{text!r} is not an address: {error}") from error
    return address


def parse_threshold(text: str) -> float:
    """How lax relaxed acceptance is: between 0 and 1, neither included. Raises BadInput."""
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 < threshold < 1:
        raise BadInput(f"a threshold lies between 0 (exact) and 1, as 0.3 does; not {text!r}")
    return threshold


def parse_roles(names: tuple[str, ...]) -> tuple[str, ...]:
    """The roles, each once, in the order of `ROLES`. Raises BadInput."""
    unknown = [name for name in names if name not in ROLES]
    if unknown or not names:
        raise BadInput(f"unknown role {', '.join(unknown) or '(none)'}: choose from {', '.join(ROLES)}")
    if AUTO in names and not set(names) <= {AUTO, GATEWAY}:
        raise BadInput(f"the role {AUTO} chooses the others itself: name it alone, with {GATEWAY}, or name the others")
    return tuple(role for role in ROLES if role in names)
