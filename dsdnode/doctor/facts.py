"""What `dsdnode doctor` has found out, before anybody says what it means. No secrets are among it."""

from __future__ import annotations

from enum import Enum

import msgspec

from dsdnode.swarm.info import ReachInfo


class Interface(msgspec.Struct, frozen=True):
    """`hosts`: its addresses, without those that mean something on this machine or on one cable alone."""

    name: str
    works: bool
    hosts: tuple[str, ...] = ()


class Firewall(msgspec.Struct, frozen=True):
    """Of this machine. `tool`: the word that people know it by ("": none was seen). `shuts`: does it keep callers of
    our port out? None: its rules cannot be read, by this user at least."""

    tool: str = ""
    shuts: bool | None = None


class Machine(msgspec.Struct, frozen=True):
    """`route_v4`, `route_v6`: the address from which this machine would call the world ("": no way leads there).

    `not_told`: addresses of ours that others are not told, and why. `clock_set`: does the system keep its clock set by
    others (None: it does not say)? `descriptors`: how many a process may have, in the end (0: no limit is known).
    """

    interfaces: tuple[Interface, ...] = ()
    route_v4: str = ""
    route_v6: str = ""
    gateway: str = ""
    not_told: tuple[tuple[str, str], ...] = ()
    firewall: Firewall = Firewall()
    clock_set: bool | None = None
    descriptors: int = 0
    free_memory_bytes: int = 0


class ModelFile(msgspec.Struct, frozen=True):
    """`trouble`: why it cannot be served, in words."""

    role: str
    path: str
    num_bytes: int = 0
    trouble: str = ""


class Files(msgspec.Struct, frozen=True):
    """`trouble`: why the data dir, or the key in it, cannot be used, in words. `free_bytes` None: nobody says."""

    data_dir: str
    trouble: str = ""
    free_bytes: int | None = None
    models: tuple[ModelFile, ...] = ()


class Listening(msgspec.Struct, frozen=True):
    """Of the node that runs, or of one that would be started. `trouble`: why it cannot listen there; `used_by`: who has
    the port, where that can be seen."""

    where: str
    advertise: tuple[str, ...] = ()
    trouble: str = ""
    used_by: str = ""


class Answer(Enum):
    """What came of one address of a member, as far as TCP goes."""

    OPEN = "open"
    UNTRIED = "untried"
    UNKNOWN_NAME = "unknown name"
    NO_RESOLVER = "no resolver"
    NO_WAY = "no way"
    REFUSED = "refused"
    SILENT = "silent"


class Tried(msgspec.Struct, frozen=True):
    """`hosts`: IP addresses of a name."""

    address: str
    answer: Answer
    hosts: tuple[str, ...] = ()


class Member(msgspec.Struct, frozen=True):
    """One whom we were to join by. `named`: by our user; else remembered from the last time. `greeted`: it has answered
    our greeting; else `trouble` says why not."""

    join: str
    key: str
    named: bool = True
    is_self: bool = False
    tried: tuple[Tried, ...] = ()
    greeted: bool = False
    trouble: str = ""


class Facts(msgspec.Struct, frozen=True):
    """`running`: a node, which was asked; else one was tried for the moment."""

    running: bool
    listening: Listening
    machine: Machine
    files: Files
    reach: ReachInfo | None = None
    members: tuple[Member, ...] = ()
    troubles: tuple[str, ...] = ()
    """Of its engines, in words."""
    unanswered: str = ""
    """Why a node that is there said nothing."""
