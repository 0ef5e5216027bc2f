"""Check an export: llama.cpp's logits against torch's (use an f32 export), and its tokens against tokenizers'."""

import argparse
from pathlib import Path

import numpy as np
import torch
from data import gsm8k_documents, render
from model import load
from runner import Runner
from tokenizers import Tokenizer

ODD = (
    "", " ", "  two  spaces ", "tabs\tand\nlines\n\n", "Grüße, naïve café — “quotes”", "日本語とかな", "🙂👍🏽",
    "x=3*(4+5)/2", "1234567890 3.14 $5,000 50%", "don't we've I'll they're", "a\u00a0b", "\r\nwindows\r\n", "½ ² Ⅷ ٣",
    "<|user|>hi<|end|>",    "<|user|>  hi  <|end|><|assistant|>\n3", "tail   ", "\n\n\n", " 7",
    "--- *** ///", "İstanbul ß ﬁ", "{%- if x -%}",
)  # fmt: skip


def main() -> None:
    """Compare and print the largest difference and the texts that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkpoint", "export", "tokenizer", "gsm8k"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    runner = Runner(args.export, precise=True)
    model, _ = load(args.checkpoint)
    documents, _ = gsm8k_documents(args.gsm8k)
    texts = [render(turns) for turns in documents[:1500]] + list(ODD)
    differing = [text for text in texts if runner.encode(text) != tokenizer.encode(text).ids]
    changed = [text for text in texts if "<|" not in text and runner.decode(runner.encode(text)) != text]
    print(f"tokens: {len(differing)} of {len(texts)} texts differ {differing[:5]}; not restored: {changed[:5]}")
    worst = 0.0
    for text in texts[:20]:
        ids = tokenizer.encode(text).ids
        runner.truncate(0)
        theirs = runner.forward(ids, wanted=len(ids))
        with torch.no_grad():
            batch = torch.tensor([ids])
            ours = model.head(model(batch, torch.zeros_like(batch))[0])[0].numpy()
        worst = max(worst, float(np.abs(ours - theirs).max()))
    print(f"logits: largest difference {worst:.2e}")
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "}]
    print(f"template: {runner.render(system)!r}")


if __name__ == "__main__":
    main()
