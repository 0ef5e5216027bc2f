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
        self._asked: dict[str, asyncio.Future[list[str]]] = {}
        """Names under way: whoever asks again shares the answer, and takes no other thread."""

    async def hosts(self, name: str) -> list[str]:
        """In the order in which they are to be tried. Raises OSError (nobody's name) or UnicodeError. Has no end of its
        own: whoever gives it up leaves it to its thread, which keeps its slot."""
        if name not in self._asked:
            await self._slots.acquire()
            if name in self._asked:  # by somebody else, meanwhile
                self._slots.release()
            else:
                self._begin(name)
        return await asyncio.shield(self._asked[name])

    def _begin(self, name: str) -> None:
        """Raises OSError."""
        answer = self._asked[name] = self._loop.create_future()
        try:
            threading.Thread(target=self._ask, args=(name, answer), name="resolver", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._over(name)
            raise OSError(str(error)) from error

    def _over(self, name: str) -> None:
        del self._asked[name]
        self._slots.release()

    def _ask(self, name: str, answer: asyncio.Future[list[str]]) -> None:
        """In a thread."""
        found: list[str] | Exception
        try:
            found = list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._answered, name, answer, found)

    def _answered(self, name: str, answer: asyncio.Future[list[str]], found: list[str] | Exception) -> None:
        self._over(name)
        if isinstance(found, Exception):
            answer.set_exception(found)
            answer.exception()  # nobody may be left to hear it
        else:
            answer.set_result(found)
