"""Where a model comes from, as people write it, and what is there: its files, their sizes and hashes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dsdnode.errors import BadInput
from dsdnode.wire.records import weights_hash_of

HF = "hf:"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_HF = re.compile(
    rf"hf:(?P<repo>{_WORD}/{_WORD})(?P<at>@{_WORD})?(?:/(?P<file>[^@:?#\\\s]+\.gguf)|:(?P<quant>{_WORD}))?(?P<later>@{_WORD})?"
)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}\.gguf")
EXAMPLES = "hf:OWNER/REPO, hf:OWNER/REPO:Q4_K_M, hf:OWNER/REPO/FILE.gguf, each with @REVISION if need be"


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a repository (`repo`: OWNER/NAME; by `file`, `quant`, or the usual one), or at an address (`url`)."""

    repo: str = ""
    revision: str = ""
    """A branch, a tag or a commit; empty: the main branch."""
    file: str = ""
    quant: str = ""
    url: str = ""

    def __str__(self) -> str:
        if self.url:
            return self.url
        what = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{HF}{self.repo}{what}" + (f"@{self.revision}" if self.revision else "")

    def pinned(self, file: str, commit: str) -> Source:
        return replace(self, file=file, quant="", revision=commit)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str
    """As it is called here: no folder."""
    url: str
    size_bytes: int
    sha256: str = ""
    """In hex, as the server says it; empty: it says none."""
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Remote:
    """What a source has of one model, as it was when it was looked at."""

    source: Source
    """Pinned to a commit where the source has such."""
    files: tuple[RemoteFile, ...]
    licence: str = ""
    restricted: bool = False
    """Who has it was asked for his name, or is one of few."""

    @property
    def host(self) -> str:
        return urlsplit(self.files[0].url).hostname or ""  # (members have no address)

    @property
    def given_by(self) -> str:
        """What it is, and of whom."""
        return f"{self.source} of {self.host or 'members'}"

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def weights_hash(self) -> str:
        """Empty where the source does not say enough."""
        hashes = [file.sha256 for file in self.files]
        return weights_hash_of(hashes) if all(hashes) else ""


def check_address(url: str) -> None:
    """Raises ValueError for what is no address of the web: another scheme, no host, or a port that cannot be."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError


def is_source(text: str) -> bool:
    """Is this no path?"""
    return text.startswith(HF) or "://" in text


def parse_source(text: str) -> Source:
    """Raises BadInput for what is neither an hf: source nor an address of a GGUF file."""
    if text.startswith(HF):
        match = _HF.fullmatch(text)
        if match is None or ".." in text or (match["at"] and match["later"]):
            raise BadInput(f"{text!r} names no model of a hub; write it like {EXAMPLES}")
        revision = (match["at"] or match["later"] or "").removeprefix("@")
        return Source(match["repo"], revision, match["file"] or "", match["quant"] or "")
    try:
        check_address(text)
    except ValueError:
        raise BadInput(f"{text!r} is no source of models: write https://HOST/FILE.gguf, or {EXAMPLES}") from None
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise BadInput("an address with a user or a password in it is not taken: it would end in logs")
    file_name(parts.path)
    return Source(url=text)


def file_name(path: str) -> str:
    """What a remote file is called here. Raises BadInput for a name that is none of a GGUF file, or no plain one."""
    name = PurePosixPath(unquote(path)).name
    if not _FILE_NAME.fullmatch(name):
        raise BadInput(f"{name!r} is not the plain name of a GGUF file")
    return name
