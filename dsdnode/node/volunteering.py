"""When a volunteer's machine serves, and what it has given, looked at now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from dsdnode.config import NodeConfig
from dsdnode.identity import Identity
from dsdnode.node import hours
from dsdnode.node.admission import Admission
from dsdnode.node.ledger import Given, GivenInAll, Ledger
from dsdnode.node.surroundings import Surroundings
from dsdnode.swarm.queries import Tasks

LOOK_S = 10.0
"""At the clock."""
WRITE_EVERY = 6
"""Looks at the clock: then the record is written. A crash costs a minute of it."""
LOOK_AROUND_S = 60.0

log = structlog.get_logger(__name__)


def _now() -> datetime:
    """On this machine's own clock."""
    return datetime.now().astimezone()


class Volunteering:
    """`changed` is called when the node is to serve, or to serve no more; `count`: what it gave since it began."""

    def __init__(
        self,
        config: NodeConfig,
        admission: Admission,
        changed: Callable[[], None],
        count: Callable[[], Given],
        surroundings: Surroundings | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._hours = config.hours
        self._surroundings = surroundings
        self._admission = admission
        self._changed = changed
        self._count = count
        self._counted = Given()
        self._now = now
        self._ledger = Ledger(config.data_dir / "given.json")
        self._keeps = False
        self._tasks = Tasks()

    def start(self) -> None:
        self._ledger.read()
        self._keeps = True
        self._look_at_clock()
        self._tasks.spawn(self._keep_time())
        if self._surroundings is not None:
            self._tasks.spawn(self._look_around(self._surroundings))

    async def close(self) -> None:
        await self._tasks.close()
        if self._keeps:
            self._enter()
            self._ledger.write()

    def rest(self, who: str, why: str) -> None:
        """Take nothing new while `who` gives a reason: replies in progress go on, and all that is kept stays."""
        if self._admission.rest(who, why):
            log.info("paused" if self._admission.resting else "taking replies again", why=self._admission.resting)
            self._changed()

    def guest(self) -> Identity:
        """Of a client of this machine's own user: it is served, whoever else is."""
        return self._admission.guest()

    @property
    def why_not_its_user(self) -> str:
        """Why its own user is not served either, in words; "": he is."""
        return "" if self._admission.rests_for_others else self._admission.resting

    def given(self) -> GivenInAll | None:
        """None: no record is kept."""
        if not self._keeps:
            return None
        self._enter()
        return self._ledger.told(self._now().date())

    def _enter(self) -> None:
        counted = self._count()
        self._ledger.add(self._now().date(), counted.since(self._counted))
        self._counted = counted

    async def _keep_time(self) -> None:
        while True:
            for _ in range(WRITE_EVERY):
                await asyncio.sleep(LOOK_S)
                self._look_at_clock()
                self._enter()
            self._ledger.write()

    async def _look_around(self, surroundings: Surroundings) -> None:
        while True:
            for who, why in (await surroundings.look()).items():
                self.rest(who, why)
            await asyncio.sleep(LOOK_AROUND_S)

    def _look_at_clock(self) -> None:
        self.rest("hours", hours.resting(self._hours, self._now()))
