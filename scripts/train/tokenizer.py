"""Step 1: train the byte-level BPE tokenizer both demo models share (llama.cpp's pre-tokenizer `smollm`).

Digits stand alone, so that arithmetic has one form; specials are whole tokens, so that no user text can forge them.
"""

import argparse
import random
from pathlib import Path

from data import chat_documents, clean_gsm8k, read_jsonl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dsdnode.models.problems import problems

SPECIALS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
VOCAB_SIZE = 2048


def train(texts: list[str]) -> Tokenizer:
    """Return a BPE of VOCAB_SIZE tokens whose splitting equals llama.cpp's `smollm` regular expressions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Gather the texts of all three sources and write tokenizer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsm8k", type=Path, required=True, help="gsm8k_train.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write")
    args = parser.parse_args()
    texts = [text for row in read_jsonl(args.gsm8k) for text in clean_gsm8k(row)]
    texts += [text for p in problems(seed=11, count=12_000) for text in (p.question, p.answer)]
    rng = random.Random(12)
    texts += [text for _ in range(3_000) for _, text in chat_documents(rng)]
    train(texts).save(str(args.out))


if __name__ == "__main__":
    main()
