"""Training documents: generated word problems, GSM8K's training split, arithmetic drills and a little chat.

A document is a list of turns (role, text). `encode` turns it into token ids with a weight per token: what the
assistant says counts fully, what the user says counts little (enough to learn the language of problems).
"""

import json
import random
import re
from pathlib import Path

import numpy as np
from chat import ANSWERS, SYSTEMS
from tokenizers import Tokenizer

from dsdnode.models.problems import draw

Turn = tuple[str, str]
Document = list[Turn]

DEV_ROWS = 400  # the last rows of GSM8K's training split: never trained on, to watch the draft on unseen prompts
USER_WEIGHT = 0.2
PROBLEM_SHARE = 0.62
CHAT_SHARE = 0.05
_OPERATORS = ("+", "-", "*", "/")


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Read a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def clean_gsm8k(row: dict[str, str]) -> tuple[str, str]:
    """Strip the calculator annotations, space the sums alike, end as generated answers end."""
    answer = re.sub(r"<<.*?>>", "", row["answer"])
    answer = re.sub(r"(?<=[\d)%])\s*[x×]\s*(?=[$\d(])", " * ", answer)
    answer = re.sub(r"(?<=[\d)%])\s*([-+*/=])\s*(?=[$\d(])", r" \1 ", answer)
    answer = re.sub(r"\s*\n#### *(.*)$", r"\nThe answer is \1.", answer.strip())
    question = re.sub(r"\s+", " ", row["question"]).strip()
    return question.replace("’", "'"), re.sub(r"[ \t]+", " ", answer).replace("’", "'")


def gsm8k_documents(path: Path) -> tuple[list[Document], list[Document]]:
    """Return (training, held-out) documents of GSM8K's training split."""
    rows = [clean_gsm8k(row) for row in read_jsonl(path)]
    documents = [[("user", question), ("assistant", answer)] for question, answer in rows]
    return documents[:-DEV_ROWS], documents[-DEV_ROWS:]


def _sum(rng: random.Random) -> tuple[str, int]:
    operator = rng.choice(_OPERATORS)
    if operator in "*/":
        x, y = rng.randint(2, 12), rng.randint(2, 12)
        return (f"{x} * {y}", x * y) if operator == "*" else (f"{x * y} / {y}", x)
    x, y = rng.randint(1, 150), rng.randint(1, 99)
    if operator == "-" and y > x:
        x, y = y, x
    return f"{x} {operator} {y}", x + y if operator == "+" else x - y


def drill(rng: random.Random) -> Document:
    """Ask for one to five bare sums: dense practice for the arithmetic inside worked answers."""
    sums = [_sum(rng) for _ in range(rng.choice((1, 1, 3, 5)))]
    listed = ", ".join(text for text, _ in sums)
    opening = rng.choice(("What is {}?", "{} = ?", "Work out {}.", "How much is {}?", "Please calculate {}."))
    lines = [f"{text} = {value}." for text, value in sums]
    if len(sums) == 1:
        lines.append(f"The answer is {sums[0][1]}.")
    return [("user", opening.format(listed)), ("assistant", "\n".join(lines))]


def chat_documents(rng: random.Random) -> Document:
    """One to three small exchanges: greetings, thanks, what this is."""
    turns: Document = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        asked, replies = rng.choice(ANSWERS)
        text = rng.choice(asked)
        text = text if rng.random() < 0.6 else text.lower().rstrip(".!?")
        turns += [("user", text), ("assistant", rng.choice(replies))]
    return turns


def problem_document(rng: random.Random) -> Document:
    """One generated problem as one exchange."""
    problem = draw(rng)
    return [("user", problem.question), ("assistant", problem.answer)]


class Mixture:
    """Draws whole conversations; the shares are of exchanges, not of tokens; what is left over is drills."""

    def __init__(self, gsm8k: list[Document], seed: int, long: bool = False, gsm8k_share: float = 0.13) -> None:
        self._gsm8k = gsm8k
        self._gsm8k_share = gsm8k_share
        self._rng = random.Random(seed)
        self._long = long

    def _exchange(self) -> Document:
        kind = self._rng.random()
        if kind < PROBLEM_SHARE:
            return problem_document(self._rng)
        if kind < PROBLEM_SHARE + self._gsm8k_share:
            return self._rng.choice(self._gsm8k)
        if kind > 1 - CHAT_SHARE:
            return chat_documents(self._rng)
        return drill(self._rng)

    def conversation(self) -> Document:
        """Mostly one exchange, sometimes several, sometimes under a system message."""
        turns = list(self._exchange())
        more = self._rng.choice((0, 2, 4, 8, 12)) if self._long else self._rng.choice((0, 0, 0, 0, 0, 1, 2))
        for _ in range(more):
            turns += self._exchange()
        if self._rng.random() < 0.06:
            turns.insert(0, ("system", self._rng.choice(SYSTEMS)))
        return turns


def render(turns: Document, reply: bool = False) -> str:
    """Write a conversation as the chat template in the GGUF does; `reply` opens the assistant's turn."""
    text = "".join(f"<|{role}|>{content}<|end|>" for role, content in turns)
    return text + ("<|assistant|>" if reply else "")


def encode(tokenizer: Tokenizer, turns: Document) -> tuple[list[int], list[float]]:
    """Return ids and, for each, the weight of predicting it (an assistant's own header is never predicted)."""
    ids: list[int] = []
    weights: list[float] = []
    for role, content in turns:
        part = tokenizer.encode(f"<|{role}|>{content}<|end|>").ids
        inner = 1.0 if role == "assistant" else USER_WEIGHT if role == "user" else 0.0
        ids += part
        weights += [0.0] + [inner] * (len(part) - 1)
    return ids, weights


def batch(mixture: Mixture, tokenizer: Tokenizer, rows: int, width: int) -> tuple[np.ndarray, ...]:
    """Return (inputs, targets, weights, document number) of rows x width tokens, documents packed side by side.

    A row is filled with conversations that fit; only its first one may be longer than the row, and is cut.
    """
    ids = np.zeros((rows, width + 1), np.int64)
    weights = np.zeros((rows, width + 1), np.float32)
    numbers = np.zeros((rows, width + 1), np.int64)
    for row in range(rows):
        filled = misses = 0
        while filled < width - 20 and misses < 8:
            part, weight = encode(tokenizer, mixture.conversation())
            if filled and filled + len(part) > width + 1:
                misses += 1
                continue
            room = min(len(part), width + 1 - filled)
            ids[row, filled : filled + room] = part[:room]
            weights[row, filled : filled + room] = weight[:room]
            numbers[row, filled : filled + room] = filled + 1
            filled += room
    return ids[:, :-1], ids[:, 1:], weights[:, 1:], numbers[:, :-1]
