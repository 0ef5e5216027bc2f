"""The state of one conversation in a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dsdnode.cli.replying import Replying

if TYPE_CHECKING:
    from dsdnode.client.client import Client


@dataclass(slots=True)
class Conversation:
    client: Client
    wanted: Replying
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    colors: bool = False
    stats: dict[str, Any] = field(default_factory=dict)
    """Of the last reply."""
    num_replies: int = 0
    num_tokens: int = 0
    plain_tokens_per_second: float | None = None
    """Of the last reply that was decoded without drafts: the only honest measure of a speed-up."""

    def count(self) -> None:
        """A reply has ended."""
        self.num_replies += 1
        self.num_tokens += self.stats.get("completion_tokens", 0)
        if not self.stats.get("drafted"):
            self.plain_tokens_per_second = self.stats.get("tokens_per_second")
