"""Whose turn it is between networks: long runs of one, short ones of another, in virtual time."""

from __future__ import annotations

from dsdnode.accounts import Account
from dsdnode.pacing.fits import SHARED_POSITIONS
from tests.node.test_batcher import ONE_DECODE_S, Talker, cost, talk

HERS, ELSEWHERE = "198.51.100.0/24", "192.0.2.0/24"


def of(network: str, name: bytes = b"one") -> Account:
    return Account(name, network)


def test_long_runs_of_mallory_take_no_more_of_the_time_than_they_leave_to_alice_s_short_ones() -> None:
    """Alice's next is there a moment after each; of those of her own network no long one waits."""

    def waits(theirs: Account) -> tuple[Talker, Talker]:
        hers = lambda b: Talker(b, 0, [1] * 60, pause_s=0.05, account=of(ELSEWHERE))  # noqa: E731
        alice, mallory = talk(hers, lambda b: Talker(b, 1, [250] * 2, account=theirs))
        return alice, mallory

    beside, long = waits(of(HERS))
    within, usual = waits(of(ELSEWHERE, b"other"))
    assert sum(beside.waits[:6]) < 0.5 * sum(within.waits[:6])
    assert sum(usual.waits) < sum(long.waits) < 2.5 * sum(usual.waits)
    assert max(beside.waits) <= ONE_DECODE_S + 2 * cost(1)


def test_two_who_read_long_prompts_leave_no_pauses() -> None:
    one, other = talk(*[lambda b, i=i: Talker(b, i, [250], account=of(str(i))) for i in range(2)])
    assert max(one.waits[0], other.waits[0]) <= 2 * (250 / SHARED_POSITIONS + 1) * ONE_DECODE_S
