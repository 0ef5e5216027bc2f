"""Which IP addresses a name has. Asked in threads that nobody waits for: where a name server is silent the system's
resolver comes back after half a minute, and neither other names nor the end of the process wait for that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

MAX_ASKED = 4
"""At once; more names wait."""


class Resolver:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(MAX_ASKED)

    async def hosts(self, name: str) -> list[str]:
        """In the order in which they are to be tried. Raises OSError (nobody's name) or UnicodeError. Has no end of its
        own: whoever gives it up leaves it to its thread, which keeps its slot."""
        await self._slots.acquire()
        answer: asyncio.Future[list[str]] = self._loop.create_future()
        try:
            threading.Thread(target=self._ask, args=(name, answer), name="resolver", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._slots.release()
            raise OSError(str(error)) from error
        return await answer

    def _ask(self, name: str, answer: asyncio.Future[list[str]]) -> None:
        """In a thread."""
        found: list[str] | Exception
        try:
            found = list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._answered, answer, found)

    def _answered(self, answer: asyncio.Future[list[str]], found: list[str] | Exception) -> None:
        self._slots.release()
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)
