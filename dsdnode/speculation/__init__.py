"""Speculative decoding over a ring of peers: what the comments of these files mean by "speculation, section N".

1. Sources. *Decentralized Speculative Decoding* (arXiv 2511.11733): a model is split over N nodes, and one pass round
   them verifies a whole block of drafted tokens; acceptance adapts to how much a token matters. *Distributed
   Speculative Decoding* (arXiv 2511.21669): drafters and targets on different machines, the simulator DSD-Sim, Adaptive
   Window Control (AWC). Draft-ahead streams, hedges, keyed noise and the protocol of section 4 are this project's.

2. Symbols. N `num_stages`; c_s(b) = fixed + slope b, the time of stage s for b positions; t1, a link's latency one way;
   H link crossings of a pass: N + 1 in our ring, N where the owner sits beside the first stage, N - 1 in the papers; d
   `draft_s`, the drafter's time for a token; alpha `acceptance_rate`, the chance that a draft token is right given
   those before it, over a whole reply 1 - rejections / draft tokens judged; gamma `window`, draft tokens not yet
   judged. Latency of a pass P(b) = sum c_s(b) + H (t1 + b payload_s); interval of the bottleneck tau_b = max(b d, max
   c_s(b), b payload_s).

3. Speeds, tokens per second, for a constant alpha (speeds.py; `python -m tests.sim.theory` compares):

       plain                    1 / P(1)
       rounds of k              E / (k d + P(k + 1)),  E = (1 - alpha^(k + 1)) / (1 - alpha)
       stream of blocks of b    1 / (1 - alpha) / (tau_b / (1 - alpha^b) + P(b))
       hedged stream            the same, with (1 - alpha)(1 - h) for the share of tokens that pay P;
                                h: rejections that a live branch covers
       any single line, at most 1 / ((1 - alpha) P)

   In the stream's formula a correction leaves with a full block, an interval after the rejection, as if dead blocks
   stood in its way. Ours leaves alone and at once, for they are dropped: `stream_cycle` describes it.

4. Protocol. Only the owner numbers epochs; an epoch is its parent's tokens up to `base`, then its own, and is never
   rewritten. `given` tokens are decided, `draft` tokens are to be judged. A stage appends at its length only, and only
   where its tokens' keyed digest is the block's; else it asks (NACK) with its length. A rejection closes the epoch and
   its children behind it; siblings live. Verdicts are cumulative and carry the next token. The tables at the top of
   session.py and stage.py say it exactly; `python -m tests.speculation.schedules` hunts for counterexamples, and
   tests/speculation/guards.txt says what each rule is good for.

5. Acceptance. Exact (sampling.py): the judge draws its own token at each position with noise keyed by (seed, position,
   token id), and a draft token stands while it is equal: the text is the target's at any temperature. Relaxed
   (acceptance.py): key tokens stay strict (certain ones, digits, operators, code); elsewhere a draft token of the
   target's own top set stands if p >= (1 - threshold) p_max, under a budget of log-probability per 100 tokens;
   deferred: only if the next ones match.

6. Windows (window.py): `fixed`; `awc`, whose five features (queue utilisation, recent acceptance, round trip, time a
   token, window) a small network maps to the next window, clamped to [1, 12], smoothed by 0.4, off after two
   predictions of 1 or less; `throughput`, the default: the argmax of section 3 over (mode, block, window) by what was
   just measured. Never slower than plain decoding is a promise, judged on what really happened.
"""
