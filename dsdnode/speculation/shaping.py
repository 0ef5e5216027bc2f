"""What a request does to the logits of a position before anything else: a pure function of the tokens before it.

    bias         + its value                                                      of the tokens that it names
    repetition   / repetition where the logit is above 0, else * repetition       of those among the last `last_tokens`
    presence     - presence                                                       of those that the reply has
    frequency    - frequency * how often                                          of those that the reply has

in this order, in float32. Repetition looks at the prompt, too (as llama.cpp's and Hugging Face's does); presence and
frequency count the reply's own tokens alone (as OpenAI's). Filters, temperature and noise (sampling.py) come after it.

Here is what is asked for, without numpy, which commands that only ask need not wait for; shaper.py does it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shaping:
    """Of one request; with the defaults it changes nothing. `last_tokens` -1: the whole line; 0: none of it."""

    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    last_tokens: int = -1
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def counts(self) -> bool:
        """Does it matter how often the reply has a token?"""
        return self.presence != 0 or self.frequency != 0

    @property
    def looks_back(self) -> bool:
        """Does it matter what is in the line, prompt included?"""
        return self.repetition != 1 and self.last_tokens != 0

    @property
    def has_past(self) -> bool:
        """Does it matter at all what is before a position?"""
        return self.counts or self.looks_back

    @property
    def is_plain(self) -> bool:
        return not (self.has_past or self.bias)

    def first_counted(self, position: int, num_prompt: int) -> int:
        """The first position of the line whose token matters at `position`, or at later ones."""
        firsts = [position]
        if self.counts:
            firsts.append(num_prompt)
        if self.looks_back:
            firsts.append(0 if self.last_tokens < 0 else max(0, position - self.last_tokens))
        return min(firsts)


PLAIN = Shaping()
