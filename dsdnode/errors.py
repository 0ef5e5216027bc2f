"""Errors named by the reaction they call for; anything else that is raised is a bug.

Each carries the exit code of the command that ends with it (README, "Exit codes").
"""

from __future__ import annotations


class DsdError(Exception):
    """Base of everything dsdnode raises on purpose: its text is meant for the user."""

    exit_code = 1


class BadInput(DsdError):
    """The user asked for something malformed; say what is wrong and what to do. Exit code 2."""

    exit_code = 2


class NotRunning(DsdError):
    """No daemon answers on the control socket. Exit code 3."""

    exit_code = 3


class NoPipeline(DsdError):
    """Some layers of the model are hosted by nobody who answers (or no drafter is left). Exit code 4."""

    exit_code = 4


class ModelRefused(DsdError):
    """A model file is missing, malformed, or cannot be served exactly. Exit code 5."""

    exit_code = 5


class PeerUnavailable(DsdError):
    """A peer did not answer in time or could not be reached: try another one."""


class PeerMisbehaved(DsdError):
    """A peer sent something that no correct peer sends: drop the message, count it, perhaps ban the peer."""


class Overloaded(DsdError):
    """A limit is reached (sessions, cache, queue): ask another peer or later. Exit code 4."""

    exit_code = 4


class WorkFailed(DsdError):
    """An engine cannot do what was asked of it, though it is well: the same would fail again, here or elsewhere."""


class EngineLost(DsdError):
    """The worker process died: its sequences are gone and must be prefilled again."""


class WorkerDied(EngineLost):
    """It died while it did this very work: the same may end the next one, so try it once more at the most."""
