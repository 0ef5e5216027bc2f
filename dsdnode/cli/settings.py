"""Where each setting comes from: flag > DSDNODE_* > --config FILE > user file > built-in. Unknown keys are errors."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

from dsdnode.cli.codes import Joins, parse_joins
from dsdnode.cli.peer_lists import ID_DIGITS, SHOWN_DIGITS, read_peers
from dsdnode.cli.swarm_keys import API_KEY, open_to, read_keys, read_secret
from dsdnode.config import (
    ACCEPTANCES,
    AUTO,
    GATEWAY,
    MAX_BITS,
    MAX_DRAFT,
    MAX_SWARM_KEYS,
    MIN_UPLOAD_BYTES_PER_S,
    NO_DRAFT,
    NodeConfig,
    parse_byte_rate,
    parse_hours,
    parse_layers,
    parse_listen,
    parse_rate,
    parse_roles,
    parse_size,
    parse_text,
    parse_threshold,
    read_toml,
    users_folder,
)
from dsdnode.errors import BadInput
from dsdnode.files import at_home
from dsdnode.pacing.policies import parse_window
from dsdnode.weights.sources import is_source, parse_source
from dsdnode.wire.messages import MAX_ADDRESSES, WIRE_TYPES
from dsdnode.wire.numbers import EXACT_WIRE
from dsdnode.wire.records import MAX_NICKNAME

ENV_PREFIX = "DSDNODE_"
BUILT_IN = "built-in"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "pretty", "json")


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of a file, its variable `DSDNODE_<KEY>`, its flag, and its field of NodeConfig (None: the log's)."""

    key: str
    field: str | None
    parse: Callable[[Any], Any]
    flag: str
    secret: bool = False


@dataclass(frozen=True, slots=True)
class SettingValue:
    """`source` is the flag, the variable or the file that gave the value, or "built-in"; `said` the value as it was
    written there; `lent` as much of it as came with an invitation."""

    value: Any = field(repr=False)
    source: str
    said: Any = field(default=None, repr=False)
    lent: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its value and origin, by key."""

    values: Mapping[str, SettingValue]

    def node_config(self) -> NodeConfig:
        pairs = {s.field: self.values[s.key].value for s in SETTINGS if s.field is not None}
        if pairs["draft_model"] == NO_DRAFT:
            pairs |= {"draft_model": None, "no_draft_model": True}
        for field_name in ("model", "draft_model"):
            if isinstance(source := pairs[field_name], str):
                pairs |= {field_name: None, f"{field_name}_source": source}
        return NodeConfig(**pairs)

    def __getitem__(self, key: str) -> Any:
        return self.values[key].value

    def check_used(self, roles: Sequence[str]) -> None:
        """Raises BadInput for a flag that none of its roles looks at. (A file may be for other nodes, too.)"""
        for key, role in USED_BY.items():
            source = self.values[key].source
            if role not in roles and not (AUTO in roles and role != GATEWAY) and source == _BY_KEY[key].flag:
                add = " ".join(f"--role {one}" for one in ([AUTO, role] if AUTO in roles else [role]))
                raise BadInput(f"{source} is for the role {role}, which this node does not take: add {add}")


def user_file() -> Path:
    return users_folder(platformdirs.user_config_dir) / "config.toml"


def resolve(flags: Mapping[str, Any], env: Mapping[str, str], config: Path | None = None) -> Settings:
    """Merge all layers. Raises BadInput naming where the fault is: the flag, the variable, or the file and key."""
    layers = [_from_flags(flags), _from_env(env)]
    if config is not None:
        layers.append(_from_file(config))
    if _is_file(user_file()):
        layers.append(_from_file(user_file()))
    built_in = _built_in()
    return Settings({s.key: next((one[s.key] for one in layers if s.key in one), built_in[s.key]) for s in SETTINGS})


def _is_file(path: Path) -> bool:
    """Raises BadInput where that cannot be known: settings that are not read would be missed."""
    try:
        return path.is_file()
    except OSError as error:
        raise BadInput(f"cannot read the configuration {path}: {error.strerror or error}") from None


def _from_flags(flags: Mapping[str, Any]) -> dict[str, SettingValue]:
    given = [(_BY_KEY[key], value) for key, value in flags.items() if value is not None and value != ()]
    return _with_keys_of_codes({s.key: SettingValue(_parse(s, value, s.flag), s.flag, value) for s, value in given})


def _from_env(env: Mapping[str, str]) -> dict[str, SettingValue]:
    result = {}
    for variable, text in sorted(env.items()):
        if variable.startswith(ENV_PREFIX):
            setting = _known(variable.removeprefix(ENV_PREFIX).lower(), f"{variable}: ")
            result[setting.key] = SettingValue(_parse(setting, text, variable), variable, text)
    return _with_keys_of_codes(result)


def _from_file(path: Path) -> dict[str, SettingValue]:
    result = {}
    for key, value in read_toml(path, "configuration").items():
        setting = _known(key, f"{path}: ")
        if setting.secret:
            _check_unseen(path, key, value)
        result[key] = SettingValue(_parse(setting, value, f"{path}: {key}"), str(path), value)
        if isinstance(result[key].value, Joins) and result[key].value.swarm_keys and open_to(path, stat.S_IRWXO):
            raise BadInput(f"{path}: {key} has a swarm key in it, and can be read by others: chmod 600 {path}")
    return _with_keys_of_codes(result)


def _check_unseen(path: Path, key: str, value: object) -> None:
    """A secret itself in a file that others read. Raises BadInput."""
    words = value if isinstance(value, list) else [value]
    if not all(isinstance(word, str) and word.startswith("@") for word in words) and open_to(path, stat.S_IRWXO):
        raise BadInput(f"{path}: {key} can be read by others: chmod 600 {path}, or name a file of yours alone, @FILE")


def _with_keys_of_codes(layer: dict[str, SettingValue]) -> dict[str, SettingValue]:
    """A code that bears a swarm key says it where it is said itself, beside one that is said there. Raises BadInput."""
    join = layer.get("join")
    if join is None:
        return layer
    layer["join"] = replace(join, value=join.value.strings)
    if join.value.swarm_keys:
        said = layer.get("swarm_key", SettingValue((), join.source, ()))
        keys = tuple(dict.fromkeys((*said.value, *join.value.swarm_keys)))
        layer["swarm_key"] = replace(said, value=_few_keys(keys), lent=join.value.swarm_keys)
    return layer


def _built_in() -> dict[str, SettingValue]:
    """NodeConfig's own defaults; of the log's settings, the first of the choices that reads well."""
    defaults: dict[str, Any] = {"log_level": "info", "log_format": "auto"}
    defaults |= {"api_host": "127.0.0.1", "api_port": 29180, "api_key": "", "api_origin": ()}
    for one in fields(NodeConfig):
        made = one.default if one.default_factory is MISSING else one.default_factory()
        defaults |= {s.key: made for s in SETTINGS if s.field == one.name}
    return {key: SettingValue(value, BUILT_IN) for key, value in defaults.items()}


def _known(key: str, where: str) -> Setting:
    if key in _BY_KEY:
        return _BY_KEY[key]
    close = difflib.get_close_matches(key, _BY_KEY, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(_BY_KEY)}"
    raise BadInput(f"{where}unknown setting {key!r}; {hint}")


def _parse(setting: Setting, raw: object, where: str) -> Any:
    if isinstance(raw, int) and raw.bit_length() > MAX_BITS:
        raise BadInput(f"{where}: a number of {raw.bit_length()} bits is out of range")
    try:
        return setting.parse(raw)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _text(raw: object) -> str:
    return parse_text(_string(raw))


def _nickname(raw: object) -> str:
    name = _text(raw)
    if len(name) > MAX_NICKNAME or not name.isprintable():
        raise BadInput(f"a name is one line of at most {MAX_NICKNAME} characters")
    return name


def _string(raw: object) -> str:
    """A path's: bytes of any kind."""
    if not isinstance(raw, str) or not raw.strip():
        raise BadInput("a text is expected")
    return raw.strip()


def _list(raw: object) -> tuple[str, ...]:
    """A list of a file or of repeated flags; in a variable, blanks or commas part the items."""
    if isinstance(raw, str):
        raw = raw.replace(",", " ").split()
    if not isinstance(raw, list | tuple) or not all(isinstance(one, str) and one.strip() for one in raw):
        raise BadInput("a list of texts is expected")
    return tuple(parse_text(one.strip()) for one in raw)


def _advertise(raw: object) -> tuple[str, ...]:
    addresses = tuple(parse_listen(one) for one in _list(raw))
    if len(addresses) > MAX_ADDRESSES:
        raise BadInput(f"at most {MAX_ADDRESSES} addresses can be advertised")
    return addresses


def _path(raw: object) -> Path:
    return raw if isinstance(raw, Path) else at_home(_string(raw))


def _model(raw: object) -> Path | str:
    """A path, or where it comes from. Raises BadInput."""
    if isinstance(raw, str) and is_source(raw):
        return str(parse_source(_text(raw)))
    return _path(raw)


def _draft_model(raw: object) -> Path | str:
    """As `_model`, or none at all (a file of that name is ./none)."""
    return NO_DRAFT if raw == NO_DRAFT else _model(raw)


def _swarm_keys(raw: object) -> tuple[str, ...]:
    return _few_keys(tuple(map(parse_text, read_keys(raw))))


def _few_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    if len(keys) > MAX_SWARM_KEYS:
        raise BadInput("two swarm keys at most: the new one, and the one that it replaces")
    return keys


def _integer(low: int, high: int) -> Callable[[object], int]:
    def parse(raw: object) -> int:
        try:
            value = int(raw) if isinstance(raw, str) else raw
        except ValueError:
            value = None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadInput(f"{raw!r} is not a whole number from {low} to {high}")
        return value

    return parse


def _origins(raw: object) -> tuple[str, ...]:
    from dsdnode.gateway.doors import check_origin

    return tuple(check_origin(one) for one in _list(raw))


def _threshold(raw: object) -> float:
    return parse_threshold(str(raw) if isinstance(raw, float) else _text(raw))


def _size(raw: object) -> int:
    return parse_size(_amount(raw))


def _rate(raw: object) -> int:
    return parse_rate(_amount(raw))


def _byte_rate(raw: object) -> int:
    return parse_byte_rate(_amount(raw))


def _amount(raw: object) -> str:
    """In a file a number may stand without quotes."""
    return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text(raw)


def _download_rate(raw: object) -> int:
    rate = _byte_rate(raw)
    if not rate:
        raise BadInput("at no bytes a second nothing would ever be there")
    return rate


def _upload_rate(raw: object) -> int:
    rate = _byte_rate(raw)
    if 0 < rate < MIN_UPLOAD_BYTES_PER_S:
        raise BadInput(
            f"at {rate} bytes a second what never waits would take all of it: {MIN_UPLOAD_BYTES_PER_S // 1000}kB/s at "
            "least (0 gives no models, and holds nothing)"
        )
    return rate


def _flag(raw: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    value = words.get(raw.lower()) if isinstance(raw, str) else raw
    if not isinstance(value, bool):
        raise BadInput(f"{raw!r} is neither true nor false")
    return value


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(raw: object) -> str:
        if raw not in choices:
            raise BadInput(f"{raw!r} is not one of {', '.join(choices)}")
        return str(raw)

    return parse


SETTINGS = (
    Setting("role", "roles", lambda raw: parse_roles(_list(raw)), "--role"),
    Setting("join", "joins", parse_joins, "--join"),
    Setting("swarm_key", "swarm_keys", _swarm_keys, "--swarm-key", secret=True),
    Setting("listen", "listen", lambda raw: parse_listen(_text(raw)), "--listen"),
    Setting("advertise", "advertise", _advertise, "--advertise"),
    Setting("no_relay", "no_relay", _flag, "--no-relay"),
    Setting("relay_rate", "relay_bits_per_s", _rate, "--relay-rate"),
    Setting("model", "model", _model, "--model"),
    Setting("model_draft", "draft_model", _draft_model, "--model-draft"),
    Setting("layers", "layers", lambda raw: parse_layers(_text(raw)), "--layers"),
    Setting("ctx_size", "context_tokens", _integer(16, 1 << 20), "--ctx-size"),
    Setting("threads", "threads", _integer(1, 1024), "--threads"),
    Setting("gpu_layers", "gpu_layers", _integer(0, 4096), "--gpu-layers"),
    Setting("max_sessions", "max_sessions", _integer(1, 64), "--max-sessions"),
    Setting("max_memory", "max_memory_bytes", _size, "--max-memory"),
    Setting("max_disk", "max_disk_bytes", _size, "--max-disk"),
    Setting("max_download", "max_download_bytes_per_s", _download_rate, "--max-download"),
    Setting("max_upload", "max_upload_bytes_per_s", _upload_rate, "--max-upload"),
    Setting("allow", "allow", lambda raw: read_peers(raw, ID_DIGITS, may_be_empty=False), "--allow"),
    Setting("block", "block", lambda raw: read_peers(raw, SHOWN_DIGITS, may_be_empty=True), "--block"),
    Setting("hours", "hours", lambda raw: parse_hours(_text(raw)), "--hours"),
    Setting("on_battery", "on_battery", _flag, "--on-battery"),
    Setting("on_metered", "on_metered", _flag, "--on-metered"),
    Setting("draft_max", "draft_max", _integer(0, MAX_DRAFT), "--draft-max"),
    Setting("window", "window", lambda raw: parse_window(_text(raw)), "--window"),
    Setting("acceptance", "acceptance", _choice(*ACCEPTANCES), "--acceptance"),
    Setting("threshold", "threshold", _threshold, "--threshold"),
    Setting("wire", "wire", _choice(EXACT_WIRE, *WIRE_TYPES), "--wire"),
    Setting("patience", "patience_s", _integer(5, 86400), "--patience"),
    Setting("strict", "strict", _flag, "--strict"),
    Setting("name", "name", _nickname, "--name"),
    Setting("data_dir", "data_dir", _path, "--data-dir"),
    Setting("identity", "identity_path", _path, "--identity"),
    Setting("api_host", None, lambda raw: _text(raw), "--api-host"),
    Setting("api_port", None, _integer(0, 65535), "--api-port"),
    Setting("api_key", None, lambda raw: parse_text(read_secret(raw, API_KEY.what)), "--api-key", secret=True),
    Setting("api_origin", None, _origins, "--api-origin"),
    Setting("log_level", None, _choice(*LOG_LEVELS), "--log-level"),
    Setting("log_format", None, _choice(*LOG_FORMATS), "--log-format"),
)
_BY_KEY = {setting.key: setting for setting in SETTINGS}
USED_BY = {"layers": "shard", **dict.fromkeys(("api_host", "api_port", "api_key", "api_origin"), GATEWAY)}
"""Settings that mean nothing to a node without that role."""
