"""What the headers of an answer say, of whatever server: a stranger's word, so what makes no sense says nothing."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime


def total_bytes(status: int, headers: Mapping[str, str]) -> int | None:
    """Size of the whole file, as a 200 or a 206 says it."""
    text = headers.get("content-length", "")
    if status == 206:
        text = headers.get("content-range", "").rpartition("/")[2]
    elif status != 200:
        return None
    return int(text) if text.isdecimal() and len(text) < 19 else None


def sha256_in(etag: str) -> str:
    """Empty: it is none."""
    etag = etag.removeprefix("W/").strip('"').lower()
    return etag if len(etag) == 64 and set(etag) <= set("0123456789abcdef") else ""


def is_packed(headers: Mapping[str, str]) -> bool:
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """0: nothing is said."""
    text = headers.get("retry-after", "")
    if text.isdecimal() and len(text) < 9:
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0
