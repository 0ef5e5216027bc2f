"""The port that others dial, shared with calls of our own: whoever is called from it sees how it looks from outside.

A home's router maps each port of a machine for itself. So what somebody sees of the port that we listen on has to be
seen of a connection that leaves from it. libzmq cannot make one (its callers do not set SO_REUSEPORT): these are plain
sockets.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys

import zmq

from dsdnode.addresses import ANY_HOST

CAN_SHARE = hasattr(socket, "SO_REUSEPORT") and sys.platform != "win32"
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENODEV, errno.EPROTONOSUPPORT)


def listen_on(router: zmq.Socket[bytes], host: str, port: int) -> int:
    """Have it listen there, on `::` for IPv4, too, and where there is no IPv6, for that alone. The port.

    Raises OSError, and zmq.ZMQError.
    """
    with _open(host, port) as listener:
        host, port = listener.getsockname()[:2]
        router.setsockopt(zmq.IPV6, int(":" in host))
        router.setsockopt(zmq.USE_FD, listener.fileno())
        router.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        listener.detach()  # libzmq closes it. Python would once more, when the number is another one's by then
    return port


def _open(host: str, port: int) -> socket.socket:
    try:
        return _listen(host, port)
    except OSError as error:
        if host != "::" or error.errno not in _NO_IPV6:
            raise
        return _listen("0.0.0.0", port)


def _listen(host: str, port: int) -> socket.socket:
    listener = _socket(host)
    try:
        if ":" in host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if sys.platform != "win32":  # where it lets anybody listen beside us
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
        if CAN_SHARE:  # only now: before, a second daemon of the same user would have got half of those who call us
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        listener.close()
        raise
    return listener


def socket_from(host: str, port: int, to: str) -> socket.socket:
    """A socket that leaves from the port that we listen on, to call the IP address `to`. `host`: listened on.

    Raises OSError where that cannot be. So may its `connect` where a connection between the same two ports lives, or
    has just ended (EADDRNOTAVAIL, EADDRINUSE): call from any other port then.
    """
    if not CAN_SHARE:
        raise OSError(errno.EADDRINUSE, "this system does not share ports")
    own = _socket(to)
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.bind((host if host not in ANY_HOST else "::" if ":" in to else "0.0.0.0", port))
    except OSError:
        own.close()
        raise
    return own


def _socket(host: str) -> socket.socket:
    own = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    own.setblocking(False)
    return own
