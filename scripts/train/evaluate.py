"""Measure the pair through llama.cpp: right answers, tokens per judge pass, acceptance by position.

A pass judges one block of up to `--window` draft tokens and yields those accepted + 1. The first pass of a reply
carries the prompt too. Greedy, so the text is the target's own. The end-of-reply token counts as a token.
"""

import argparse
import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from runner import Runner

from dsdnode.models.problems import final_answer, is_right, problems

DEMO = "Ben has 34 stickers. Mia gives Ben 25 more. How many stickers does Ben have now?"
SEED = 20_260  # not used in training


@dataclass
class Tally:
    """Counts over many replies; `judged[i]` counts blocks whose token i was judged, `kept[i]` accepted."""

    replies: int = 0
    tokens: int = 0
    passes: int = 0
    ended: int = 0
    judged: list[int] = field(default_factory=lambda: [0] * 64)
    kept: list[int] = field(default_factory=lambda: [0] * 64)

    def report(self, title: str, window: int) -> None:
        """Print the figures of one set of prompts."""
        shares = [f"{k / j:.3f}" if j else "-" for k, j in zip(self.kept[:window], self.judged, strict=False)]
        alpha = sum(self.kept) / max(1, sum(self.judged))
        print(f"{title}: {self.replies} replies, {self.tokens} tokens, {self.passes} passes")
        print(f"  tokens per pass          {self.tokens / self.passes:.2f}")
        print(f"  acceptance rate          {alpha:.3f} (of draft tokens judged while those before were accepted)")
        print(f"  acceptance by position   {' '.join(shares)}")
        print(f"  replies that end         {self.ended / self.replies:.3f}", flush=True)


def draft_block(draft: Runner, text: list[int], window: int) -> list[int]:
    """Let the draft model draft up to `window` tokens after `text`."""
    same = next((i for i, (a, b) in enumerate(zip(draft.tokens, text, strict=False)) if a != b), len(draft.tokens))
    draft.truncate(min(same, len(text) - 1))
    block: list[int] = []
    fresh = text[len(draft.tokens) :]
    while len(block) < window:
        block.append(int(draft.forward(fresh)[0].argmax()))
        fresh = block[-1:]
        if block[-1] == draft.eos:
            break
    return block


def speculate(target: Runner, draft: Runner, prompt: list[int], window: int, limit: int, tally: Tally) -> list[int]:
    """Generate one reply greedily with speculation; returns its tokens without the end token."""
    text = list(prompt)
    target.truncate(0)
    while len(text) - len(prompt) < limit and text[-1] != target.eos:
        block = draft_block(draft, text, window)
        given = text[len(target.tokens) :]
        if len(given) > 1:  # the prompt, in a call of its own: so its states do not depend on the block beside it
            first = target.forward(given)
            choices = np.concatenate((first, target.forward(block, wanted=len(block)))).argmax(axis=1)
        else:
            choices = target.forward(given + block, wanted=len(block) + 1).argmax(axis=1)
        accepted = 0
        for position, (draft_token, choice) in enumerate(zip(block, choices, strict=False)):
            tally.judged[position] += 1
            if draft_token != choice:
                break
            tally.kept[position] += 1
            accepted += 1
        new = [*block[:accepted], int(choices[accepted])]
        new = new[: new.index(target.eos) + 1] if target.eos in new else new
        new = new[: limit - (len(text) - len(prompt))]
        text += new
        target.truncate(len(text) - 1)
        tally.passes += 1
        tally.tokens += len(new)
    tally.replies += 1
    tally.ended += text[-1] == target.eos
    return [token for token in text[len(prompt) :] if token != target.eos]


def gsm8k_prompts(path: Path) -> list[tuple[str, int | None]]:
    """Return (question, right answer) of a GSM8K file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(row["question"], final_answer("answer is " + row["answer"].rpartition("####")[2].strip())) for row in rows]


def main() -> None:
    """Run both sets and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = Path(__file__).resolve().parents[2] / "dsdnode" / "models"
    parser.add_argument("--target", type=Path, default=folder / "demo-target.gguf")
    parser.add_argument("--draft", type=Path, default=folder / "demo-draft.gguf")
    parser.add_argument("--gsm8k", type=Path, help="a GSM8K file whose prompts to measure acceptance on")
    parser.add_argument("--count", type=int, default=500, help="generated problems")
    parser.add_argument("--gsm8k-count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--show", type=int, default=0, help="print that many replies of each set")
    args = parser.parse_args()
    target, draft = Runner(args.target), Runner(args.draft)

    def answer(question: str, tally: Tally) -> str:
        prompt = target.encode(target.render([{"role": "user", "content": question}]))
        return target.decode(speculate(target, draft, prompt, args.window, args.max_tokens, tally))

    print(f"demo question: {answer(DEMO, Tally())!r}")
    tally, right = Tally(), 0
    wrong: dict[str, int] = {}
    for number, problem in enumerate(problems(args.seed, args.count)):
        reply = answer(problem.question, tally)
        right += is_right(reply, problem)
        if not is_right(reply, problem):
            wrong[problem.family] = wrong.get(problem.family, 0) + 1
        if number < args.show:
            print(f"--- {problem.question}\n{reply}")
    tally.report("generated problems", args.window)
    print(f"  right answers            {right}/{args.count} = {right / args.count:.3f}; wrong by family: {wrong}")
    if args.gsm8k:
        tally, right = Tally(), 0
        for number, (question, result) in enumerate(islice(gsm8k_prompts(args.gsm8k), args.gsm8k_count)):
            reply = answer(question, tally)
            right += final_answer(reply) == result
            if number < args.show:
                print(f"--- {question}\n{reply}")
        tally.report("GSM8K prompts", args.window)
        print(f"  right answers            {right}/{tally.replies}")


if __name__ == "__main__":
    main()
