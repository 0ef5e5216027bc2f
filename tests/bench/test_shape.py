"""When a link delivers: by numbers alone, no clock."""

from __future__ import annotations

from random import Random

import pytest

from dsdnode.bench.shape import MAX_RESENDS, DelayLine, LinkShape
from dsdnode.net.port import MIN_RESEND_S, SEGMENT_BYTES


def test_latency_is_added_once_each_way() -> None:
    line = DelayLine(Random(1))
    assert line.due_s(LinkShape(0.01), 5.0, 100) == pytest.approx(5.01)


def test_bandwidth_makes_chunks_queue_behind_each_other() -> None:
    line, shape = DelayLine(Random(1)), LinkShape(0.01, bandwidth_mbit=8.0)  # a byte a microsecond
    assert line.due_s(shape, 0.0, 1000) == pytest.approx(0.011)
    assert line.due_s(shape, 0.0, 1000) == pytest.approx(0.012)
    assert line.due_s(shape, 5.0, 1000) == pytest.approx(5.011)  # an idle line saves nothing up


def test_jitter_varies_by_so_much_and_never_reorders() -> None:
    line, shape = DelayLine(Random(2)), LinkShape(0.05, jitter_s=0.03)
    due = [line.due_s(shape, now / 100, 10) - now / 100 for now in range(1000)]
    assert 0.02 <= min(due) < 0.03
    assert 0.07 < max(due) <= 0.08
    absolute = [now / 100 + delay for now, delay in enumerate(due)]
    assert absolute == sorted(absolute)


def test_more_jitter_than_latency_is_never_before_it_was_sent() -> None:
    line, shape = DelayLine(Random(3)), LinkShape(0.01, jitter_s=0.03)
    assert all(line.due_s(shape, float(now), 10) >= now for now in range(1000))


def test_a_lost_segment_holds_up_everything_behind_it() -> None:
    line, lossy = DelayLine(Random(4)), LinkShape(0.01, loss=0.999999)
    due_s = line.due_s(lossy, 0.0, 10)
    assert line.num_lost == MAX_RESENDS
    assert due_s == pytest.approx(0.01 + MIN_RESEND_S * (2**MAX_RESENDS - 1))  # the timer doubles
    assert line.due_s(LinkShape(0.01), 1.0, 10) == due_s


def test_a_long_link_resends_after_two_round_trips() -> None:
    shape = LinkShape(0.3, loss=0.5)
    delays = {round(DelayLine(Random(seed)).due_s(shape, 0.0, 10), 6) for seed in range(40)}
    assert sorted(delays)[:2] == [0.3, 1.5]


def test_every_segment_of_a_chunk_can_be_lost() -> None:
    shape, size = LinkShape(0.01, loss=0.01), 100 * SEGMENT_BYTES
    hurt = sum(DelayLine(Random(seed)).due_s(shape, 0.0, size) > 0.1 for seed in range(300))
    assert 0.55 < hurt / 300 < 0.72  # 1 - 0.99 ** 100 = 0.634
