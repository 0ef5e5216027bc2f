"""What ends amid the work: a closing, a worker, a route, a lease; and a session that is parked and taken up again."""

from __future__ import annotations

import pytest

from dsdnode.speculation.acceptance import ExactRule
from dsdnode.speculation.actions import (
    ForwardBlock,
    Gone,
)
from dsdnode.wire.messages import Closed, Nack, SessionLost

from .stages import LINE, SESSION, Stage, digests_of, told


def test_closed_while_it_runs_the_output_goes_nowhere(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:6], 0, num_draft=2)
    assert bob.machine.on_closed(0.0, Closed(SESSION, 0, 1, 4, 16)) == []
    assert bob.finish() == []


def test_close_while_it_runs_lets_go_afterwards(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:6], 0)
    assert bob.machine.on_close(0.0) == []
    assert bob.machine.next_wakeup() is None
    assert bob.finish() == [Gone()]
    assert not any(bob.engine.cells)
    assert bob.receive(LINE[:8], 6) == []


def test_after_its_worker_died_bob_says_so_until_he_is_opened_again(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:6], 0)
    bob.engine.lose()
    lost = told(bob.machine.on_engine_lost(0.0))
    assert [type(message) for message in lost] == [SessionLost]
    bob.held.clear()
    bob.hold = False
    assert told(bob.receive(LINE[:8], 6)) == [SessionLost(SESSION, 1, "its cache is gone", 0)]
    assert bob.machine.on_open(1.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 0
    assert len(bob.receive(LINE[:6], 0, route=1, epoch=2)) == 1


def test_a_refused_run_leaves_nothing_behind(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:4], 0)
    bob.finish()
    bob.receive(LINE[:6], 4)
    run = bob.held.pop()
    bob.engine.run(run.sequence, 4, (1,))  # a part of it was decoded
    assert bob.carry_out(bob.machine.on_run_failed(0.0)) == []
    bob.hold = False
    (forward,) = bob.receive(LINE[:6], 4)
    assert isinstance(forward, ForwardBlock)


def test_opened_again_bob_knows_how_much_of_the_line_he_has(bob: Stage) -> None:
    bob.receive(LINE[:8], 0)
    line = (*LINE[:5], 16, 16, 16, 16)
    assert bob.machine.on_open(0.0, 3, 1, 3, 60.0, b"".join(digests_of(line))) == 5
    assert bob.receive(LINE[:9], 8) == []  # the old route is no more
    assert bob.machine.on_open(0.0, 2, 1, 3, 60.0, b"") is None
    assert len(bob.receive(line, 5, route=3, epoch=7, base=5, floor=7)) == 1


def test_a_run_of_the_old_route_stays_cached_but_is_not_passed_on(bob: Stage) -> None:
    bob.hold = True
    bob.receive(LINE[:8], 0)
    assert bob.machine.on_open(0.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 8
    assert bob.finish() == []


def test_the_lease_runs_out(bob: Stage) -> None:
    bob.receive(LINE[:4], 0, now=10.0)
    assert bob.machine.next_wakeup() == 70.0
    actions = bob.carry_out(bob.machine.tick(70.0))
    assert [type(message) for message in told(actions)] == [SessionLost]
    assert actions[-1] == Gone()
    assert not any(bob.engine.cells)


def test_a_parked_session_keeps_its_cache_but_takes_no_more_blocks_of_its_route(bob: Stage) -> None:
    bob.receive(LINE[:6], 0)
    bob.machine.on_park(1.0, 300.0)
    assert bob.machine.next_wakeup() == 301.0
    assert bob.receive(LINE[:8], 6) == []
    assert bob.machine.on_open(2.0, 1, 1, 3, 60.0, b"".join(digests_of(LINE))) == 6
    (forward,) = bob.receive(LINE[:8], 6, route=1, epoch=2, base=6, floor=2)
    assert forward.block.position == 6


@pytest.mark.parametrize("still_running", [False, True])
def test_what_was_drawn_for_the_last_reply_does_not_judge_the_next(carol: Stage, still_running: bool) -> None:
    carol.hold = still_running
    carol.receive(LINE[:6], 0)
    carol.machine.on_park(1.0, 300.0)
    carol.machine.on_turn(64, ExactRule())
    assert carol.machine.on_open(2.0, 1, 2, 3, 60.0, b"".join(digests_of(LINE))) == 6
    if still_running:
        assert carol.finish() == []
    carol.hold = False
    draft_token = carol.receive(LINE[:8], 6, num_draft=2, route=1, epoch=2, base=6, floor=2)
    assert told(draft_token) == [Nack(SESSION, 1, 2, 2, 5)]


def test_a_parked_session_whose_time_is_over_frees_everything(bob: Stage) -> None:
    bob.receive(LINE[:6], 0)
    bob.machine.on_park(1.0, 300.0)
    assert any(isinstance(action, Gone) for action in bob.machine.tick(301.0))
