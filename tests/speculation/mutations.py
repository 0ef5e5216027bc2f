"""Each guard of the protocol, taken out: the schedules must then turn red."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from dsdnode.speculation import digest


@dataclass(frozen=True)
class Mutation:
    target: Any
    name: str
    replacement: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        with patch.object(self.target, self.name, self.replacement):
            yield


MUTATIONS = {
    "digest": Mutation(digest, "same", lambda mine, theirs: True),
}
