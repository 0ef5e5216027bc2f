"""Which IP addresses a name has. Asked in threads that nobody waits for: where a name server is silent the system's
resolver comes back after half a minute, and neither other names nor the end of the process wait for that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

MAX_ASKED = 4
"""At once; more names wait."""
MAX_TOLD = 2
"""Of them names that others have told: whoever tells many of a silent server's does not hold up those of our user."""


class Resolver:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots, self._told = asyncio.Semaphore(MAX_ASKED), asyncio.Semaphore(MAX_TOLD)
        self._asked: dict[str, tuple[asyncio.Future[list[str]], Callable[[], None]]] = {}
        """Names under way, and what gives their slots back: whoever asks again shares the answer, and takes no other
        thread."""

    async def hosts(self, name: str, by_user: bool = True) -> list[str]:
        """In the order in which they are to be tried. `by_user`: our own has named it, nobody else. Raises OSError
        (nobody's name) or UnicodeError. Has no end of its own: whoever gives it up leaves it to its thread, which keeps
        its slot."""
        if name not in self._asked:
            slots = (self._slots,) if by_user else (self._told, self._slots)
            with contextlib.ExitStack() as taken:
                for slot in slots:
                    await slot.acquire()
                    taken.callback(slot.release)
                if name not in self._asked:  # nor by somebody else, meanwhile
                    self._begin(name, taken.pop_all().close)
        return await asyncio.shield(self._asked[name][0])

    def _begin(self, name: str, leave: Callable[[], None]) -> None:
        """`leave`: gives its slots back. Raises OSError."""
        answer: asyncio.Future[list[str]] = self._loop.create_future()
        self._asked[name] = answer, leave
        try:
            threading.Thread(target=self._ask, args=(name, answer), name="resolver", daemon=True).start()
        except RuntimeError as error:  # no more threads
            self._over(name)
            raise OSError(str(error)) from error

    def _over(self, name: str) -> None:
        _, leave = self._asked.pop(name)
        leave()

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
