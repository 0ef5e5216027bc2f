"""The state of one conversation in a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dsdnode.cli.replying import Replying

if TYPE_CHECKING:
    from dsdnode.client.client import Client, ReplyStats


@dataclass(slots=True)
class Conversation:
    client: Client
    wanted: Replying
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    colors: bool = False
    stats: ReplyStats | None = None
    """Of the last reply."""
    num_replies: int = 0
    num_tokens: int = 0
    plain_tokens_per_second: float | None = None
    """Of the last reply that was decoded without drafts: the only honest measure of a speed-up."""

    def count(self, stats: ReplyStats) -> None:
        """A reply has ended."""
        self.stats = stats
        self.num_replies += 1
        self.num_tokens += stats.completion_tokens
        if not stats.drafted:
            self.plain_tokens_per_second = stats.tokens_per_second
