"""`--role auto`: a node that is to be told nothing looks around, and takes the part that brings the swarm most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from dsdnode.config import NodeConfig
from dsdnode.node import machine
from dsdnode.node.proposal import Found, Proposal, propose
from dsdnode.swarm.catalogue import survey
from dsdnode.swarm.discovery import Discovery
from dsdnode.swarm.pings import Pings

log = structlog.get_logger(__name__)

MAX_SURVEYED = 256
"""Records; in a larger swarm those that were found first say enough of what it lacks."""
NUM_PINGS = 2
JOINED_S = 3.0
"""For the others that it was told to join by: the first that answers may be a hermit, or a liar."""

Agree = Callable[[Proposal], Awaitable[None]]
"""The user hears what is to be done. Raises DsdError where he does not want it."""


async def agreed(proposal: Proposal) -> None:
    """Of who has nobody to ask."""


async def settle(config: NodeConfig, discovery: Discovery, pings: Pings, agree: Agree) -> tuple[NodeConfig, Proposal]:
    """The configuration with the roles, and the models, of what is proposed. Raises ModelRefused, BadInput, and what
    `agree` raises."""
    found = await look_around(discovery, pings)
    proposal = await propose(config, discovery.contact, found, machine.at_hand(config.data_dir))
    await agree(proposal)
    layers = "{}:{}".format(*proposal.layers) if proposal.layers else "none"
    log.info("part taken", roles=", ".join(proposal.roles), layers=layers, why=proposal.why)
    target, draft = proposal.target, proposal.draft
    return replace(
        config,
        roles=proposal.roles,
        model=target.path if target else config.model,
        draft_model=draft.path if draft else config.draft_model,
    ), proposal


async def look_around(discovery: Discovery, pings: Pings) -> Found:
    await discovery.joined_all(JOINED_S)
    return Found.of(*await survey(discovery, pings, MAX_SURVEYED, NUM_PINGS))
