"""A port of our home's router, asked for, kept and given back, by whichever of PCP and NAT-PMP it speaks. Pure.

Both are asked for at once, since a router that knows neither says nothing: what answers decides. A mapping is for TCP,
is renewed at half of its lease, and asked for anew when the router's clock shows that it has started again. What a
router says is a candidate address and no more: others have to reach us there before it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from dsdnode.addresses import LOWEST_PORT, Nearness, nearness
from dsdnode.net.pcp import ANOTHER_ROUTER, Answer, Protocol, Request, has_started_again

LEASE_S = 1200.0
"""What is asked for, and the most that is believed. A router that forgets us in silence is asked again after half."""
MIN_RENEW_S = 4.0
"""Sooner nobody may ask to have a lease renewed (RFC 6887, 11.2.1)."""
FIRST_WAIT_S = 0.25
ATTEMPTS = 4
"""The wait is doubled each time (RFC 6886, 3.1); 3.75 s in all are plenty for our own router."""
RETRY_S = 600.0
"""After a refusal, or silence: somebody may have switched it on meanwhile."""
LOOK_S = 60.0
"""So often the router's clock is asked for, to notice that it has started again."""
AGAIN_S = 10.0
"""A clock that seems to start again has us ask at most so often: anybody nearby can forge one."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where others reach us, if the router says the truth, and for how long it is ours unless renewed."""

    host: str
    port: int
    lifetime_s: float


class Mapping:
    """Of one port. Whoever drives it calls `tick` when `due` has come, and after everything that was heard."""

    def __init__(self, request: Request, now: float) -> None:
        self.mapped: Mapped | None = None
        self.why_not = ""
        """In words, once it is known that there is none."""
        self._request = request
        self._protocol: Protocol | None = None
        self._outside_ip = ""
        """By NAT-PMP, which tells it apart from the port."""
        self._attempt = 0
        self._began = -inf
        """The last time that we began to ask."""
        self._ask_at, self._look_at, self._ends_at = now, inf, inf
        self._clock: tuple[float, float] | None = None
        """The router's, and when it was told."""

    @property
    def due(self) -> float:
        return min(self._ask_at, self._look_at, self._ends_at)

    @property
    def is_settled(self) -> bool:
        """Is it known what there is to be had?"""
        return self.mapped is not None or bool(self.why_not)

    def tick(self, now: float) -> list[bytes]:
        """What is to be said to the router now."""
        if now >= self._ends_at:
            self._fail("the router does not answer any more", now)
        if now >= self._ask_at:
            return self._ask(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            is_pcp = self._protocol is Protocol.PCP
            return [self._request.pcp_look() if is_pcp else self._request.pmp_look()]
        return []

    def heard(self, now: float, data: bytes) -> None:
        """From the router's own address and port."""
        answer = self._request.read(data)
        if not self._attempt:
            self.announced(now, data)  # what else it says was not asked for
        elif answer is not None and answer.unspoken:
            if self._protocol is None:
                self._speak_pmp(now)
        elif answer is not None and self._protocol in (None, answer.protocol):
            self._answered(now, answer)

    def announced(self, now: float, data: bytes) -> None:
        """By multicast, from the router's address: it may have started again."""
        answer = self._request.read(data)
        if answer is not None and not answer.is_map and not answer.refusal and not answer.unspoken:
            self._hear_clock(now, answer.epoch_s)

    def refused(self, now: float) -> None:
        """Word came from the network that nobody listens there."""
        if self._attempt:
            self._give_up(now)

    def removal(self) -> list[bytes]:
        """What gives the port back. Nothing, where there can be none."""
        if self.mapped is None and not self._attempt:
            return []
        return [
            *([] if self._protocol is Protocol.PMP else [self._request.pcp_map(0.0, "0.0.0.0", 0)]),
            *([] if self._protocol is Protocol.PCP else [self._request.pmp_map(0.0, 0)]),
        ]

    def is_removed(self, data: bytes) -> bool:
        """Is that the answer to `removal`?"""
        answer = self._request.read(data)
        return answer is not None and answer.is_map and not answer.lifetime_s

    def _ask(self, now: float) -> list[bytes]:
        if self._attempt == ATTEMPTS:
            self._give_up(now)
            return []
        if self._attempt and self._outside_ip and self._protocol is None:
            self._speak_pmp(now)  # that was answered, and PCP was not
        if not self._attempt:
            self._began = now
        self._ask_at = now + FIRST_WAIT_S * 2**self._attempt
        self._attempt += 1
        host, port = (self.mapped.host, self.mapped.port) if self.mapped else ("0.0.0.0", self._request.port)
        pcp, pmp = self._request.pcp_map(LEASE_S, host, port), self._request.pmp_map(LEASE_S, port)
        if self._protocol is None:
            return [pcp, self._request.pmp_look()]
        return [pcp] if self._protocol is Protocol.PCP else [self._request.pmp_look(), pmp]

    def _speak_pmp(self, now: float) -> None:
        self._protocol = Protocol.PMP
        self._attempt, self._ask_at = 0, now

    def _answered(self, now: float, answer: Answer) -> None:
        if answer.refusal:
            self._fail(f"the router refuses: {answer.refusal}", now + RETRY_S)
            return
        if not answer.is_map:
            self._outside_ip = answer.host or self._outside_ip
            self._hear_clock(now, answer.epoch_s)
            return
        host = answer.host or self._outside_ip
        if not host:
            return  # NAT-PMP: the address is on its way, or asked for again
        self._protocol = answer.protocol
        self._clock = (answer.epoch_s, now)
        if why := _what_is_wrong(host, answer):
            self._fail(why, now + RETRY_S)
            return
        lifetime_s = min(answer.lifetime_s, LEASE_S)
        self.mapped, self.why_not = Mapped(host, answer.port, lifetime_s), ""
        self._attempt = 0
        self._ask_at, self._look_at, self._ends_at = now + lifetime_s / 2, now + LOOK_S, now + lifetime_s

    def _hear_clock(self, now: float, epoch_s: float) -> None:
        before, self._clock = self._clock, (epoch_s, now)
        is_new = before is None or has_started_again(before, self._clock)
        if is_new and not self._attempt:
            self._ask_at = min(self._ask_at, max(now, self._began + AGAIN_S))

    def _give_up(self, now: float) -> None:
        """It did not answer. A lease goes on until its end, and is asked for again in half of what is left."""
        self._attempt = 0
        if self.mapped is None:
            self._fail("no router answers that would give us a port", now + RETRY_S)
        else:
            self._ask_at = now + max(MIN_RENEW_S, (self._ends_at - now) / 2)

    def _fail(self, why: str, again_at: float) -> None:
        self.mapped, self.why_not = None, why
        self._protocol, self._outside_ip, self._attempt = None, "", 0
        self._ask_at, self._look_at, self._ends_at = again_at, inf, inf


def _what_is_wrong(host: str, answer: Answer) -> str:
    """With what a router says that it gives: in words, or "" """
    if nearness(host) is not Nearness.WORLD:
        return f"the router's own outside address is {host}, not a public one: {ANOTHER_ROUTER} before it"
    if answer.port < LOWEST_PORT:
        return f"the router gives port {answer.port}, where nobody calls"
    if answer.lifetime_s < 2 * MIN_RENEW_S:
        return f"the router gives a port for {answer.lifetime_s} s, which is too short to renew it"
    return ""
