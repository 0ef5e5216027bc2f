from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdnode.errors import Overloaded
from dsdnode.net import queues
from dsdnode.net.port import Priority
from dsdnode.net.queues import Inbox, SendQueue


def drain(queue: SendQueue) -> list[tuple[Priority, bytes]]:
    sent = []
    while (first := queue.first()) is not None:
        frames, priority = first
        queue.pop(priority)
        sent.append((priority, frames[0]))
    return sent


@settings(deadline=None)
@given(st.lists(st.sampled_from(Priority)))
def test_control_before_verify_before_draft_before_bulk_else_in_order(priorities: list[Priority]) -> None:
    queue = SendQueue()
    pushed = [(priority, b"%d" % index) for index, priority in enumerate(priorities)]
    for priority, frame in pushed:
        queue.push([frame], priority)
    assert len(queue) == len(pushed)
    assert drain(queue) == sorted(pushed, key=lambda entry: entry[0])  # sorting is stable
    assert len(queue) == 0


def test_a_full_class_refuses_and_leaves_room_for_the_others() -> None:
    queue = SendQueue()
    big = [bytes(queues.MAX_QUEUED_BYTES[Priority.DRAFT] // 2)]
    queue.push(big, Priority.DRAFT)
    queue.push(big, Priority.DRAFT)
    with pytest.raises(Overloaded):
        queue.push([b"x"], Priority.DRAFT)
    for _ in range(queues.MAX_QUEUED_MESSAGES):
        queue.push([b"x"], Priority.CONTROL)
    with pytest.raises(Overloaded):
        queue.push([b"x"], Priority.CONTROL)
    queue.push([b"x"], Priority.VERIFY)
    queue.pop(Priority.DRAFT)
    queue.push([b"x"], Priority.DRAFT)


def test_moving_keeps_the_order() -> None:
    old, new = SendQueue(), SendQueue()
    old.push([b"bulk"], Priority.BULK)
    old.push([b"first"], Priority.VERIFY)
    old.push([b"second"], Priority.VERIFY)
    old.move_to(new)
    assert not old
    assert [frame for _, frame in drain(new)] == [b"first", b"second", b"bulk"]


async def test_the_inbox_keeps_order_and_waits() -> None:
    inbox = Inbox()
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    for index in range(3):
        inbox.put(b"alice", [b"%d" % index])
    assert (await waiting) == (b"alice", [b"0"])
    assert [(await inbox.get())[1] for _ in range(2)] == [[b"1"], [b"2"]]


async def test_a_cancelled_reader_loses_nothing() -> None:
    inbox = Inbox()
    waiting = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    inbox.put(b"alice", [b"hello"])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await inbox.get() == (b"alice", [b"hello"])


async def test_alice_cannot_fill_bobs_inbox_for_carol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_PEER_BYTES", 100)
    monkeypatch.setattr(queues, "MAX_PEER_MESSAGES", 5)
    inbox = Inbox()
    for _ in range(3):
        inbox.put(b"alice", [bytes(30), bytes(10)])
    for _ in range(6):
        inbox.put(b"carol", [b""])
    assert inbox.num_dropped == 2
    assert sorted([(await inbox.get())[0] for _ in range(7)]) == [b"alice"] * 2 + [b"carol"] * 5
    inbox.put(b"alice", [bytes(100)])  # what was taken counts no more
    assert await inbox.get() == (b"alice", [bytes(100)])


async def test_networks_take_turns_and_in_each_its_senders() -> None:
    inbox = Inbox()
    for index in range(3):
        for sender in (b"mallory", b"moriarty"):
            inbox.put(sender, [b"%d" % index], "hers")
    inbox.put(b"alice", [b"0"], "elsewhere")
    inbox.put(b"carol", [b"0"], "hers")
    came = [await inbox.get() for _ in range(8)]
    assert [peer for peer, _ in came] == [b"mallory", b"alice", b"moriarty", b"carol", *[b"mallory", b"moriarty"] * 2]
    assert [frames for peer, frames in came if peer == b"mallory"] == [[b"0"], [b"1"], [b"2"]]


async def test_in_a_network_its_addresses_take_turns() -> None:
    """Whatever names mallory has at one of them."""
    inbox = Inbox()
    for index in range(5):
        inbox.put(b"mallory %d" % index, [b""], "hers", "66")
    for index in range(2):
        inbox.put(b"carol", [b"%d" % index], "hers", "7")
    came = [peer for peer, _ in [await inbox.get() for _ in range(7)]]
    assert [index for index, peer in enumerate(came) if peer == b"carol"] == [1, 3]


async def test_who_fills_the_inbox_loses_what_came_last_when_there_is_something_of_alice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queues, "MAX_INBOX_BYTES", 100)
    inbox = Inbox()
    for index in range(10):
        inbox.put(b"mallory %d" % (index % 5), [b"%d" % index * 10], "hers")
    inbox.put(b"alice", [bytes(40)], "elsewhere")
    assert inbox.num_dropped == 4
    inbox.put(b"alice", [bytes(20)], "elsewhere")  # more than her half
    inbox.put(b"mallory 9", [bytes(10)], "hers")
    assert inbox.num_dropped == 6
    came = [await inbox.get() for _ in range(7)]
    assert [frames for peer, frames in came if peer == b"alice"] == [[bytes(40)]]
    assert [peer for peer, _ in came].count(b"alice") == 1


async def test_everybody_together_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_INBOX_BYTES", 100)
    inbox = Inbox()
    for index in range(20):
        inbox.put(b"%d" % index, [bytes(10)])
    assert inbox.num_dropped == 10
