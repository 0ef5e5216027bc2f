"""How fast the simulator is: python -m tests.sim.speed [--requests 1000]

A busy afternoon: 50 people at once ask 4 drafters and 4 shards (two stages of a model, each twice, 10 ms away) for
replies of 200 tokens, drafted 8 ahead. One core; messages are those between peers.
"""

from __future__ import annotations

import argparse
import logging
import time

import structlog

from dsdnode.sim.report import NetworkTraffic
from dsdnode.sim.scenario import Group, LoadTerms, NetworkTerms, Pair, Policies, Scenario
from dsdnode.sim.simulate import simulate


def busy(num_requests: int) -> Scenario:
    shards = Group("shard", 4, stages=2, fixed_ms=10, position_ms=0.5, max_sessions=32)
    return Scenario(
        peers=(shards, Group("drafter", 4, fixed_ms=2, max_sessions=32)),
        name="busy",
        links=NetworkTerms(latency_ms=10),
        pair=Pair(layers=8, acceptance=0.8),
        load=LoadTerms(requests=num_requests, users=50, prompt_tokens=64, reply_tokens=200, clients=4),
        policies=Policies(draft_max=8),
    )


def num_messages(network: NetworkTraffic) -> int:
    return sum(lane.messages for lane in (network.control, network.verify, network.draft, network.bulk))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    began_s, cpu_s = time.monotonic(), time.process_time()
    result = simulate(busy(args.requests), seed=1)
    wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    messages = num_messages(result.network)
    print(
        f"{result.completed} replies, {result.tokens} tokens, {messages} messages in "
        f"{result.simulated_s:.0f} simulated seconds: {cpu_s:.1f} s of a core ({wall_s:.1f} s), "
        f"{messages / cpu_s:.0f} messages and {result.tokens / cpu_s:.0f} tokens a second"
    )


if __name__ == "__main__":
    main()
