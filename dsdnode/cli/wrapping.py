"""Words of a reply, wrapped where the terminal ends though they come in pieces: a word that does not fit is taken back,
and written on the next line."""

from __future__ import annotations

import shutil
import sys

from wcwidth import wcwidth

MAX_WORD_CELLS = 64
"""What is longer, a link or a row of signs, is left to the terminal, which cuts it."""


class Wrapping:
    """`feed` pieces of text; what comes out is what is to be written. One for each reply, which begins a line."""

    def __init__(self, width: int | None = None) -> None:
        """`width` in cells; None: the terminal's, as it is at each piece."""
        self._width = width
        self._column = 0
        self._word: list[str] = []
        self._word_cells = 0

    def feed(self, text: str) -> str:
        width = self._width or shutil.get_terminal_size().columns
        return "".join(self._sign(sign, width) for sign in text)

    def _sign(self, sign: str, width: int) -> str:
        if sign == "\n":
            self._column = 0
            self._begin_word()
            return sign
        cells = 8 - self._column % 8 if sign == "\t" else max(0, wcwidth(sign))
        if sign.isspace():
            self._begin_word()
            if self._column + cells > width:  # a blank at the edge is the break itself
                self._column = 0
                return "\n"
            self._column += cells
            return sign
        back = ""
        if self._column + cells > width:
            back = self._take_back()
        self._word.append(sign)
        self._word_cells += cells
        self._column += cells
        return back + sign

    def _take_back(self) -> str:
        """The word that has begun here, on the next line; one that fills the line goes on there."""
        word, cells = "".join(self._word), self._word_cells
        if cells >= min(self._column, MAX_WORD_CELLS):
            self._column = 0
            return "\n"
        self._column = cells
        return (f"\x1b[{cells}D\x1b[K" if cells else "") + "\n" + word

    def _begin_word(self) -> None:
        self._word.clear()
        self._word_cells = 0


def wrapping() -> Wrapping | None:
    """None where no terminal shows it: a pipe or a file gets a reply as it is."""
    return Wrapping() if sys.stdout.isatty() else None
