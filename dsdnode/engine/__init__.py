"""Layer ranges of a GGUF on unmodified llama.cpp: what the comments of these files take for granted.

Shard. An ordinary GGUF that llama.cpp believes is a small complete model: `block_count` is the range's length, its
blocks are renumbered from 0 with their bytes as they were, per-layer metadata is cut to the range. The first shard
keeps the embeddings, the last has the head in their place and the real final norm; what is missing elsewhere is a
dummy, with a norm of ones. Only the first takes tokens; text, and the tokenizer, stay with the draft model.
Architectures that this cannot cut exactly are refused by name (gguf_arch.py).

States. The others are fed hidden states (`llama_batch.embd`). What leaves all but the last is the residual stream
`l_out-<last layer>`, read by the callback `cb_eval`, which then stops the graph: the head is never computed for
nothing. The callback comes once a micro-batch, with the rows whose logits were asked for.

Branches. A branch is a sequence copy within one context with a unified cache; rollback removes a sequence's tail.

Cost. A decode looks at all cells up to the last that is in use, whosever they are: three positions took 0.8 ms alone
and 4.7 ms beside 3,000 cells of others (half of the demo model, one thread), 87 and 125 ms (Gemma 3 270M, whole). With
a cache a sequence (`kv_unified` false) each would have 1/n_seq_max of the cells, and branches would be copied. In a
second context long lines would cost others nothing, but each decode of both would read the weights twice, which is
more than it saves unless the cache outweighs the weights (from 662 cells on here, from 13,700 on there).

Rounding. The shape of a batch, threads, flash attention and the order of cells in the cache change the last bits:
logits move by up to 0.1, and a near-tie may fall the other way. Shards equal the whole model in the same state, always
(but for running states that were taken back, which are made anew in blocks of another size: hybrid.py).
One setting is exact whatever the blocks (`EngineOptions.strict`): one thread, flash attention, one reply in the cache,
the same chunks of prompt, one kernel for all sizes of blocks (worker.py), and never one row alone. (Layers with
running states, in F32 files, are the exception that is known.)

Crashes. A failed assertion, a bad file or memory that runs out aborts the process: each engine has one of its own
(worker.py), and the daemon lives. Untrusted files meet a checksum and our own bounded parser before llama.cpp sees
them.
"""
