"""A TCP connection that libzmq has accepted, seen by its descriptor: where it comes from, and how it is ended.

libzmq closes descriptors in a thread of its own, and a closed one's number is soon another's: so whatever is done is
done to a copy, which is first seen to be of the same connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from dsdnode.identity import short_id

_TCP_INFO, _RECEIVED = 11, slice(128, 136)
"""Of Linux: tcpi_bytes_received of struct tcp_info."""


@dataclass(frozen=True, slots=True)
class Door:
    """`host`: the other end's IP address, without a zone ("": it has hung up already), `local` ours; `inode` tells
    connections apart. `port`: of the other end; `caller`: the IP address that it counts for, which is another one where
    it comes by way of a relay; `relay`: the peer that says so."""

    descriptor: int
    host: str
    local: str
    inode: int
    port: int = 0
    caller: str = ""
    relay: bytes = b""

    def share(self, where: str) -> str:
        """Whose share it takes, of whoever comes from there."""
        return said_by(self.relay, where) if self.relay else where

    @classmethod
    def at(cls, descriptor: int) -> Door | None:
        """None: libzmq has closed it."""
        with contextlib.suppress(OSError), _copy(descriptor) as copy:
            host, port = "", 0
            with contextlib.suppress(OSError):
                host, port = plain_host(copy.getpeername()[0]), int(copy.getpeername()[1])
            local, inode = plain_host(copy.getsockname()[0]), os.fstat(copy.fileno()).st_ino
            return cls(descriptor, host, local, inode, port, host)
        return None

    def num_received_bytes(self) -> int:
        """Since it began, as TCP counts. Raises OSError where the system does not tell, or the connection has ended."""
        with _copy(self.descriptor) as copy:
            if os.fstat(copy.fileno()).st_ino != self.inode:
                raise OSError("this connection has ended")
            info = copy.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED.stop)
        return int.from_bytes(info[_RECEIVED], sys.byteorder)

    def is_open(self) -> bool:
        """Does libzmq still hold it?"""
        with contextlib.suppress(OSError), _copy(self.descriptor) as copy:
            return os.fstat(copy.fileno()).st_ino == self.inode
        return False

    def close(self) -> None:
        """End it, unless that has happened already: libzmq sees the other end gone, and tidies up."""
        if not self.host:  # nothing to end; and who knows whose number this is by now
            return
        with contextlib.suppress(OSError), _copy(self.descriptor) as copy:
            if os.fstat(copy.fileno()).st_ino == self.inode:
                copy.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _copy(descriptor: int) -> Iterator[socket.socket]:
    """Raises OSError: there is no such descriptor, or it is no longer a connection's between hosts."""
    copy = os.dup(descriptor)
    try:
        found = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        found.close()
        raise OSError(errno.EBADF, "its number is a local socket's by now")
    with found:
        yield found


def said_by(relay: bytes, where: str) -> str:
    """A share of their own have those of whom a relay says that they come from there: nobody who does pays for it."""
    return f"{short_id(relay)} says {where}"


def plain_host(host: object) -> str:
    """An IP address without a zone, and IPv4 as such."""
    return str(host).partition("%")[0].removeprefix("::ffff:")


def is_cut_off_from(host: str) -> bool:
    """Has this machine no way to an IP address at all, as when it is offline? Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
    except OSError:
        return True
    return False


def leads_here(host: str) -> bool:
    """Is this IP address one of this machine? Nothing is sent: the system says from where it would call there."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        probe.connect((host, 9))
        return str(probe.getsockname()[0]) == host
    return False
