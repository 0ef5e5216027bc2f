"""Who keeps a connection when there are too many."""

from __future__ import annotations

from dsdnode.net.lobby import (
    FAREWELL_S,
    GREETING_S,
    MAX_CONNECTIONS,
    MAX_MESSAGES,
    MAX_PER_PEER,
    MAX_WAITING,
    Lobby,
)


def test_silent_ones_make_room_for_newcomers_the_heaviest_network_s_first() -> None:
    lobby = Lobby()
    assert lobby.arrived(0.0, 1, "alice's") is None
    assert all(lobby.arrived(1.0, 100 + number, "mallory's") is None for number in range(MAX_WAITING - 1))
    ended = [lobby.arrived(2.0, 1000 + number, "mallory's") for number in range(300)]
    assert 1 not in ended and len(set(ended)) == 300, "alice, who came first, still has time to greet"
    assert ended[0] == 100, "of one network the oldest: who greets does so at once"
    assert lobby.arrived(3.0, 2, "bob's") in range(1000, 2000)
    assert lobby.num_waiting == MAX_WAITING


def test_only_those_that_have_greeted_count() -> None:
    lobby = Lobby()
    for number in range(MAX_WAITING):
        lobby.arrived(0.0, number, "mallory's")
    assert lobby.num_peers == 0 and lobby.admits("alice's")
    lobby.arrived(0.0, 500, "alice's")
    assert lobby.greeted(500, "alice's", b"alice") is None
    assert (lobby.num_peers, lobby.num_waiting) == (1, MAX_WAITING - 1)


def test_who_does_not_greet_is_ended_in_time() -> None:
    lobby = Lobby()
    lobby.arrived(0.0, 1, "a")
    lobby.arrived(5.0, 2, "a")
    assert lobby.overdue(GREETING_S - 0.1) == []
    assert lobby.overdue(GREETING_S) == [1] and lobby.overdue(GREETING_S) == []
    lobby.greeted(2, "a", b"alice")
    assert lobby.overdue(1e9) == []


def test_who_is_refused_is_heard_no_more_and_ended() -> None:
    lobby = Lobby()
    lobby.arrived(0.0, 1, "a")
    assert lobby.hears(1)
    lobby.refused(2.0, 1)
    assert not lobby.hears(1)
    assert lobby.overdue(2.0) == [] and lobby.overdue(2.0 + FAREWELL_S) == [1]


def test_messages_that_are_no_greeting_are_counted() -> None:
    lobby = Lobby()
    lobby.arrived(0.0, 1, "a")
    assert [lobby.hears(1) for _ in range(MAX_MESSAGES + 1)] == [True] * MAX_MESSAGES + [False]
    assert lobby.overdue(0.1) == [1]


def full_house() -> Lobby:
    """Carol and dave from networks of their own, and mallory's many names from hers."""
    lobby = Lobby()
    for number in range(MAX_CONNECTIONS):
        source = {0: "carol's", 1: "dave's"}.get(number, "mallory's")
        assert lobby.greeted(number, source, b"%d" % number) is None
    return lobby


def test_one_network_cannot_take_all_places_of_peers() -> None:
    lobby = full_house()
    assert lobby.admits("alice's") and not lobby.admits("mallory's")
    assert lobby.greeted(999, "alice's", b"alice") == MAX_CONNECTIONS - 1, "mallory's newest goes"
    assert lobby.num_peers == MAX_CONNECTIONS


def test_where_all_are_from_different_places_nobody_is_driven_out() -> None:
    lobby = Lobby()
    for number in range(MAX_CONNECTIONS):
        lobby.greeted(number, f"network {number}", b"%d" % number)
    assert not lobby.admits("alice's")


def test_one_peer_has_so_many_connections() -> None:
    lobby = Lobby()
    assert [lobby.greeted(number, "a", b"alice") for number in range(MAX_PER_PEER + 1)] == [None] * MAX_PER_PEER + [0]
    assert lobby.greeted(100, "a", b"bob") is None
    lobby.left(100)
    assert lobby.num_peers == MAX_PER_PEER
