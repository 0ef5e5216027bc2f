"""`--role auto`: a node that is told nothing looks around, and takes the part that brings the swarm most."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import structlog

from dsdnode.config import GATEWAY, NodeConfig
from dsdnode.dht.ids import model_key
from dsdnode.net.rpc import Rpc
from dsdnode.node import machine
from dsdnode.node.fetching import Hubs, User
from dsdnode.node.offers import NUM_PINGS
from dsdnode.node.proposal import Found, Proposal, propose
from dsdnode.node.shard.claiming import claim_layers
from dsdnode.node.targets import Target
from dsdnode.placement.layers import Fits
from dsdnode.placement.moving import Holes
from dsdnode.placement.ranges import Range
from dsdnode.swarm.catalogue import survey
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import ProviderRecord, is_pinned

log = structlog.get_logger(__name__)

MAX_SURVEYED = 256
"""Records; in a larger swarm those that were found first say enough of what it lacks."""
LOOK_S = 40.0
"""Between two looks at what the swarm lacks, on the average: a few of them in placement/moving.py's patience."""
MAX_PINGED = 64
"""Shards, at each look."""
JOINED_S = 3.0
"""For the others that it was told to join by: the first that answers may be a hermit, or a liar."""


async def settle(
    config: NodeConfig, rpc: Rpc, discovery: Discovery, pings: Pings, user: User
) -> tuple[NodeConfig, Proposal]:
    """The configuration with the roles, and the models, of what is proposed; what is not here has been fetched.

    Raises ModelRefused, BadInput, DsdError (it cannot be fetched), and what `user` raises.
    """
    found = await look_around(discovery, pings)
    async with Hubs(config, user, rpc) as sources:
        here = machine.at_hand(config.data_dir)
        proposal = await propose(config, discovery.contact, found, here, sources)
        parts = [one.part(layers) for one, layers in proposal.pulls]
        await user.agree(proposal, [part.quote() for part in parts])
        layers = "{}:{}".format(*proposal.layers) if proposal.layers else "none"
        log.info("part taken", roles=", ".join(proposal.roles), layers=layers, why=proposal.why)
        model = draft = None
        if proposal.target is not None and proposal.layers is not None:
            model = await _here(config, discovery, proposal, proposal.target, proposal.layers, sources)
        if proposal.draft is not None:
            draft = proposal.draft.path or await sources.fetch(proposal.draft, None)
    return replace(
        config,
        roles=proposal.roles + tuple(role for role in config.roles if role == GATEWAY),
        model=model or config.model,
        model_source="",
        draft_model=draft or config.draft_model,
        no_draft_model=proposal.draft is None,
    ), proposal


async def _here(
    config: NodeConfig, discovery: Discovery, proposal: Proposal, target: Target, wanted: Range, sources: Hubs
) -> Path:
    """The file with these layers; or with others, if somebody else takes these while it looks."""
    if target.path is not None:
        return target.path
    claim = target.kind(config, discovery.contact)
    layers = await claim_layers(discovery, claim, proposal.capacity_layers, target.fits(), wanted)
    return await sources.fetch(target, layers)


async def moved(config: NodeConfig, rpc: Rpc, discovery: Discovery, target: Target, layers: Range, user: User) -> Path:
    """The file with these layers of a model that is not here as a whole. Raises DsdError."""
    assert target.pull is not None, "a target is here, or at a source"
    found = await discovery.find_providers(model_key(target.manifest.model_id))
    peers = list(dict.fromkeys(one.peer_id for one in found if one.role == "shard"))
    source, weights_hash = str(target.pull.remote.source), target.manifest.weights_hash
    async with Hubs(config, user, rpc) as sources:
        if is_pinned(source):
            pull = await sources.look(source, weights_hash, peers)
        else:
            pull = await sources.among(peers, weights_hash)
        return await sources.fetch(replace(target, pull=pull), layers)


async def until_needed_elsewhere(
    discovery: Discovery, pings: Pings, own: ProviderRecord, capacity_layers: int, fits: Fits
) -> Range:
    """Return when this shard, which offers `own`, is to leave its layers: those that it is to host then."""
    holes, loop = Holes(), asyncio.get_running_loop()
    while True:
        await asyncio.sleep(discovery.rng.uniform(0.5, 1.5) * LOOK_S)
        others = await _living(discovery, pings, own)
        layers = holes.look(loop.time(), own, others, capacity_layers, fits)
        if layers is not None:
            log.info("these layers are needed more", layers="{}:{}".format(*layers), left=f"{own.start}:{own.end}")
            return layers


async def _living(discovery: Discovery, pings: Pings, own: ProviderRecord) -> list[ProviderRecord]:
    """The model's other shards, but for those that do not answer. Of many, those are asked that the fewest stand in
    for: the others' silence would open no hole."""
    found = await discovery.find_providers(model_key(own.model_id))
    others = [one for one in found if one.role == "shard" and one.model_id == own.model_id]
    others = [one for one in others if one.public_key != own.public_key]
    replicas = Counter((one.start, one.end) for one in others)
    asked = sorted(others, key=lambda one: (replicas[one.start, one.end], one.peer_id))[:MAX_PINGED]
    answers = await asyncio.gather(*(pings.rtt_s(one.peer_id) for one in asked))
    silent = {one.peer_id for one, rtt_s in zip(asked, answers, strict=True) if rtt_s is None}
    return [one for one in others if one.peer_id not in silent]


async def look_around(discovery: Discovery, pings: Pings) -> Found:
    await discovery.joined_all(JOINED_S)
    return Found.of(*await survey(discovery, pings, MAX_SURVEYED, NUM_PINGS))
