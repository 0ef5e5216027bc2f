"""Whom and what alice's swarm has, and what a reply of it took. (Processes that play it need no pytest.)"""

from __future__ import annotations

from dsdnode.client.client import ReplyStats
from dsdnode.swarm.info import Coverage, ModelInfo, PeerInfo
from dsdnode.wire.replies import StageInfo

STATS = ReplyStats(
    prompt_tokens=12,
    completion_tokens=3,
    time_to_first_token_s=0.25,
    tokens_per_second=8.1,
    drafted=10,
    accepted=7,
    acceptance_rate=0.71,
    acceptance_length_mean=3.6,
    passes=2,
    pipeline=(StageInfo("ab" * 32, (0, 8)),),
    waited_s=0.25,
)
PEERS = [PeerInfo("cd" * 32, ("tcp://192.0.2.9:29170",), ("shard",), (0, 8), "demo\x1b[31m", 1, 1.5, 0.0)]
MODELS = [ModelInfo("demo-target", "ef" * 32, 8, (Coverage((0, 8), 2, 1),), 1, True, "", True)]
