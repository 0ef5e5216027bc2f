"""What a session at a stage hears in each of its phases: the table of machine.py, driven line by line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsdnode.speculation.actions import Gone, RunChunk, SendToOwner
from dsdnode.speculation.digest import first
from dsdnode.speculation.stage.cache import Fate
from dsdnode.speculation.stage.machine import StageMachine
from dsdnode.speculation.stage.phases import NEXT, Phase
from dsdnode.wire.messages import Block, Closed, SessionLost

SESSION, SECRET, LEASE_S = b"s" * 16, b"k" * 32, 60.0
EVENTS = sorted({event for _, event in NEXT})


def opened() -> StageMachine:
    machine = StageMachine(SESSION, (0, 1), max_positions=64)
    assert machine.on_open(0.0, 0, 0, 2, LEASE_S, first(SECRET)) == 0
    return machine


def block(position: int = 0) -> tuple[Block, bytes, tuple[int, ...], None]:
    return Block(SESSION, 0, 1, 0, 0, position, 1, 0, 1), first(SECRET) + bytes(8), (7,), None


def running() -> StageMachine:
    machine = opened()
    [run] = machine.on_block(1.0, *block())
    assert isinstance(run, RunChunk)
    return machine


def lost() -> StageMachine:
    machine = opened()
    machine.on_engine_lost(1.0)
    return machine


def closing() -> StageMachine:
    machine = running()
    assert machine.on_close(1.0) == []
    return machine


def gone() -> StageMachine:
    machine = opened()
    assert [type(action) for action in machine.on_close(1.0)] == [Gone]
    return machine


MAKE: dict[Phase, Callable[[], StageMachine]] = {
    Phase.OPEN: running,
    Phase.LOST: lost,
    Phase.CLOSING: closing,
    Phase.GONE: gone,
}


def tell(machine: StageMachine, event: str) -> object:
    """What came of it: actions, or the answer to Open."""
    match event:
        case "Open":
            return machine.on_open(2.0, 1, 0, 2, LEASE_S, first(SECRET))
        case "Block":
            return machine.on_block(2.0, *block(4))
        case "Closed":
            return machine.on_closed(2.0, Closed(SESSION, 0, 1, 0, 5))
        case "Masks":
            return machine.on_masks(2.0, {}, ())
        case "run over":
            return machine.on_run_failed(2.0) if machine._running else []
        case "worker died":
            return machine.on_engine_lost(2.0)
        case "Close":
            return machine.on_close(2.0)
        case "lease over":
            return machine.tick(2.0 + LEASE_S)
    raise AssertionError(event)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", Phase)
def test_bob_hears_what_the_table_says_and_nothing_else(phase: Phase, event: str) -> None:
    bob = MAKE[phase]()
    assert bob.phase is phase
    before, is_running = bob.phase, bob._running is not None
    answer = tell(bob, event)
    after = NEXT.get((phase, event))
    if after is None:
        assert bob.phase is before and not answer
    elif after is Phase.CLOSING and not is_running:
        assert bob.phase is Phase.GONE and isinstance(answer, list) and isinstance(answer[-1], Gone)
    else:
        assert bob.phase is after
        if after is Phase.GONE:
            assert isinstance(answer, list) and isinstance(answer[-1], Gone)


def test_every_phase_can_be_reached_and_only_the_last_is_for_good() -> None:
    assert {after for after in NEXT.values()} == set(Phase)
    assert {phase for phase, _ in NEXT} == set(Phase) - {Phase.GONE}


def test_while_its_cache_is_lost_a_stage_says_so_to_each_block() -> None:
    [told] = lost().on_block(2.0, *block())
    assert isinstance(told, SendToOwner) and isinstance(told.message, SessionLost)


def test_every_fate_is_told_in_words_of_its_own() -> None:
    assert len({fate.value for fate in Fate}) == len(Fate) == 8
