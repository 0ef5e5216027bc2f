"""Last step: write a checkpoint as a GGUF of llama.cpp's `llama` architecture, tokenizer and chat template inside."""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from model import load

TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ['system', 'user', 'assistant'] -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}"
    "{%- else -%}{{- raise_exception('unknown role: ' + message['role']) -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """Copy vocabulary and merges of tokenizer.json under the names llama.cpp reads."""
    source = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = sorted(source["model"]["vocab"], key=source["model"]["vocab"].get)
    special = {token["content"] for token in source["added_tokens"]}
    kinds = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in vocabulary]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(vocabulary.index("<|endoftext|>"))
    writer.add_pad_token_id(vocabulary.index("<|endoftext|>"))
    writer.add_eos_token_id(vocabulary.index("<|end|>"))
    writer.add_eot_token_id(vocabulary.index("<|end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def export(checkpoint: Path, tokenizer: Path, out: Path, name: str, kind: str) -> None:
    """Write one model; `kind` is q8_0 or f32 (norms are always f32)."""
    model, _ = load(checkpoint)
    config = model.config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name(name)
    writer.add_description("Demo model of dsdnode: grade-school word problems. See MODEL_CARD.md.")
    writer.add_license("apache-2.0")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, tokenizer)
    for key, tensor in model.state_dict().items():
        if key.startswith("exit_norm"):
            continue
        values = tensor.float().numpy().astype(np.float32)
        if kind == "q8_0" and values.ndim == 2:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(key, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkpoint", "tokenizer", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--name", required=True, help="general.name of the file")
    parser.add_argument("--kind", choices=("q8_0", "f32"), default="q8_0")
    args = parser.parse_args()
    export(args.checkpoint, args.tokenizer, args.out, args.name, args.kind)


if __name__ == "__main__":
    main()
