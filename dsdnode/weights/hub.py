"""A hub (Hugging Face's, or one that speaks as it does): which files of a repository are meant, and whether we may.

Two questions of its interface are all that is needed, so there is no client library of a hub here. What is found is
pinned: files are asked for by commit, and must have the SHA-256 and the size that the hub said at first.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Meta

from dsdnode.engine.gguf_parts import parts_of
from dsdnode.errors import BadInput, ModelRefused
from dsdnode.weights.sources import Remote, RemoteFile, Source, check_address, file_name
from dsdnode.weights.web import Denied, SourceFailed, Web, check_scheme, origin_of

ENDPOINT = "https://huggingface.co"
PREFERRED = ("Q4_K_M", "Q4_K_XL", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0", "MXFP4", "BF16", "F16", "F32")
"""When no quantisation is said: the first of these that is there. (As llama.cpp does; then what is the smallest.)"""
MAX_NEAR = 5
MAX_TOKEN_BYTES = 512
_NOT_LANGUAGE = re.compile(r"mmproj|imatrix|(^|[-_.])mtp([-_.]|$)|control[-_]vector", re.IGNORECASE)
_QUANT = re.compile(r"(?:UD-)?(?:I?Q\d(?:_[0-9A-Z]+)*|T?Q\d_\d|MXFP4(?:_MOE)?|BF16|F16|F32)", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=0, lt=1 << 60)]


class _Sibling(msgspec.Struct):
    rfilename: Annotated[str, Meta(max_length=1024)]
    size: Annotated[int, Meta(ge=0, lt=1 << 60)] | None = None
    lfs: _Lfs | None = None


class _Repo(msgspec.Struct):
    sha: Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
    siblings: Annotated[list[_Sibling], Meta(max_length=100_000)] = []
    gated: bool | str = False
    private: bool = False
    tags: Annotated[list[str], Meta(max_length=1000)] = []


class _Found(msgspec.Struct):
    id: Annotated[str, Meta(max_length=200)]


def endpoint(env: Mapping[str, str]) -> str:
    """Raises BadInput."""
    said = env.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    try:
        check_address(said)
    except ValueError:
        raise BadInput(f"HF_ENDPOINT is {said!r}: it should be an address like {ENDPOINT}") from None
    return said


def token(env: Mapping[str, str]) -> str:
    """Of the user, for the hub: HF_TOKEN, or the file that `hf auth login` has written; empty: none is there."""
    said = env.get("HF_TOKEN", "").strip()
    if said:
        return said
    caches = env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # of nobody: a folder that is not there
    home = Path(env.get("HF_HOME") or Path(caches) / "huggingface")
    try:
        with Path(env.get("HF_TOKEN_PATH") or home / "token").open("rb") as file:
            return file.read(MAX_TOKEN_BYTES).decode("ascii", "ignore").strip()
    except OSError:
        return ""


def tokens(env: Mapping[str, str]) -> dict[str, str]:
    """For `Web`. Raises BadInput where a token would go over a plain connection, or no header can bear it."""
    secret, where = token(env), endpoint(env)
    if not secret:
        return {}
    if not secret.isascii() or not secret.isprintable():
        raise BadInput("the hub's token that is here (HF_TOKEN, or `hf auth login`) has characters that no token has")
    check_scheme(where, secret=True)
    return {origin_of(where): secret}


async def resolve(web: Web, source: Source, env: Mapping[str, str] = os.environ) -> Remote:
    """What is meant, as it is now. Raises ModelRefused (nothing such is there, or not for us), SourceFailed."""
    if source.url:
        return await _at_address(web, source)
    where = endpoint(env)
    try:
        repo = await _repo(web, where, source)
    except Denied as denied:
        raise await _denied(web, where, source, denied, bool(token(env))) from None
    chosen = choose(repo.siblings, source)
    files = tuple(_file(where, source, repo.sha, one) for one in chosen)
    licence = next((tag.removeprefix("license:") for tag in repo.tags if tag.startswith("license:")), "")
    return Remote(source.pinned(chosen[0].rfilename, repo.sha), files, licence[:64], bool(repo.gated) or repo.private)


async def _repo(web: Web, where: str, source: Source) -> _Repo:
    url = f"{where}/api/models/{source.repo}/revision/{quote(source.revision or 'main', safe='')}?blobs=true"
    try:
        return msgspec.convert(await web.json(url), _Repo)
    except msgspec.ValidationError as error:
        raise SourceFailed(
            f"{urlsplit(where).hostname} describes {source.repo} otherwise than hubs do: {error}"
        ) from None


def _file(where: str, source: Source, commit: str, sibling: _Sibling) -> RemoteFile:
    size_bytes = sibling.lfs.size if sibling.lfs else sibling.size
    if not size_bytes:
        raise SourceFailed(f"{urlsplit(where).hostname} does not say how large {sibling.rfilename} is")
    url = f"{where}/{source.repo}/resolve/{commit}/{quote(sibling.rfilename)}"
    return RemoteFile(file_name(sibling.rfilename), url, size_bytes, sibling.lfs.sha256 if sibling.lfs else "")


def choose(siblings: Sequence[_Sibling], source: Source) -> list[_Sibling]:
    """The files of the model that is meant, in their order. Raises ModelRefused, which names what is there."""
    known = {one.rfilename: one for one in siblings if one.rfilename.endswith(".gguf")}
    firsts = [name for name in known if _is_first(name) and not _NOT_LANGUAGE.search(name)]
    if source.file:
        if source.file not in known:
            near = difflib.get_close_matches(source.file, known, MAX_NEAR, 0.4)
            raise ModelRefused(f"{source.repo} has no file {source.file}{_near(near)}")
        return _with_parts(source.file, known, source)
    if not firsts:
        raise ModelRefused(f"{source.repo} has no GGUF file of a language model: look for one that ends in -GGUF")
    quants = {name: quant_of(name) for name in firsts}
    if source.quant:
        wanted = source.quant.upper()
        meant = [name for name in firsts if wanted in (quants[name], quants[name].removeprefix("UD-"))]
        if not meant:
            there = sorted({quant for quant in quants.values() if quant})
            raise ModelRefused(f"{source.repo} has no {source.quant}; there is {', '.join(there) or ', '.join(firsts)}")
        exact = [name for name in meant if quants[name] == wanted] or meant
        return _with_parts(min(exact, key=lambda name: (len(name), name)), known, source)
    ranks = {name: _rank(quants[name]) for name in firsts}
    return _with_parts(min(firsts, key=lambda name: (ranks[name], known[name].size or 0, name)), known, source)


def quant_of(name: str) -> str:
    """`Q4_K_M` of gemma-3-270m-q4_k_m.gguf, by the file's name or its folder's; empty: it says none."""
    path = PurePosixPath(name)
    for text in (path.stem, path.parent.name):
        found = [match for match in _QUANT.findall(text) if re.search(rf"(^|[-_.]){re.escape(match)}($|[-_.])", text)]
        if found:
            return str(found[-1]).upper()
    return ""


def _rank(quant: str) -> int:
    plain = quant.removeprefix("UD-")
    return PREFERRED.index(plain) if plain in PREFERRED else len(PREFERRED)


def _is_first(name: str) -> bool:
    try:
        return parts_of(Path(name))[0] == Path(name)
    except ModelRefused:
        return False


def _with_parts(name: str, known: Mapping[str, _Sibling], source: Source) -> list[_Sibling]:
    names = [part.as_posix() for part in parts_of(Path(name))]
    missing = [one for one in names if one not in known]
    if missing:
        raise ModelRefused(f"{source.repo}: {missing[0]} is missing; the model is in {len(names)} files")
    return [known[one] for one in names]


def _near(names: Sequence[str]) -> str:
    return f"; there is {', '.join(names)}" if names else ""


async def _denied(web: Web, where: str, source: Source, denied: Denied, has_token: bool) -> Exception:
    """In words, what to do about it."""
    host, repo = urlsplit(where).hostname, source.repo
    own = "the token that was sent may not read it" if has_token else "no token is here (HF_TOKEN, or `hf auth login`)"
    if denied.code == "GatedRepo" or (denied.status == 403 and denied.code != "RepoNotFound"):
        return ModelRefused(f"{repo} is gated: accept its terms at {where}/{repo}; {own}")
    if denied.code == "RevisionNotFound":
        return ModelRefused(f"{repo} has no revision {source.revision or 'main'}")
    if denied.status == 401 and has_token and denied.code != "RepoNotFound":
        return ModelRefused(f"{host} does not take the token that is here (HF_TOKEN): is it still valid?")
    near = await _similar(web, where, repo)
    return ModelRefused(f"{host} has no {repo}, or it is private, and {own}{_near(near)}")


async def _similar(web: Web, where: str, repo: str) -> list[str]:
    """Names of repositories that may have been meant."""
    word = re.split(r"[-_.](?=GGUF)", repo.partition("/")[2], flags=re.IGNORECASE)[0]
    try:
        answer: Any = await web.json(f"{where}/api/models?search={quote(word)}&filter=gguf&limit={4 * MAX_NEAR}")
        found = [one.id for one in msgspec.convert(answer, list[_Found])[: 4 * MAX_NEAR]]
    except (Denied, SourceFailed, msgspec.ValidationError):
        return []
    return difflib.get_close_matches(repo, [name for name in found if name.isprintable()], MAX_NEAR, 0.3)


async def _at_address(web: Web, source: Source) -> Remote:
    """At an address that is none of a hub: whatever it says of the file."""
    base, _, query = source.url.partition("?")
    folder, _, last = base.rpartition("/")
    files = []
    for part in parts_of(Path(last)):
        url = f"{folder}/{part.name}" + (f"?{query}" if query else "")
        try:
            files.append(await web.look(url, file_name(part.name)))
        except Denied as denied:
            host = urlsplit(url).hostname
            raise ModelRefused(f"{host} does not give {part.name}: it says {denied.status}") from None
    return Remote(source, tuple(files))
