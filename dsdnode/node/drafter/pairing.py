"""Which models a draft model drafts for: those with its own tokenizer, or else those whose tokenizer it fits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from dsdnode.engine.nodraft import NoDraft
from dsdnode.engine.port import Engine, ShardInfo, TextEngine
from dsdnode.errors import DsdError, ModelRefused
from dsdnode.net.rpc import Rpc
from dsdnode.node.drafter.texts import Draft, Reading, Texts
from dsdnode.swarm.catalogue import Model, preferred, wholly_hosted
from dsdnode.swarm.pings import Pings
from dsdnode.wire.records import NO_HASH

log = structlog.get_logger(__name__)

MAX_COMPARED = 8
"""Models whose text files are got for it: some megabytes each."""
LOOK_S = 20.0
"""Between two looks for a target, where there was none."""
FOLLOW_S = 60.0
"""So, where there is one, of a drafter without a draft model: it goes on to another one's tokenizer when the target is
gone."""
MAX_MISSED = 3
"""Looks in a row without it: one look need not find all records."""
MAX_TOLD = 3
"""Models in an error."""


async def texts_of(
    rpc: Rpc,
    pings: Pings,
    draft: TextEngine,
    tools: Draft | None,
    folder: Path,
    models: Sequence[Model],
    shard: Engine | None,
) -> Texts:
    """What a drafter reads with. `models`: that it might draft for; `shard`: of one of them, where it is hosted here.
    Raises ModelRefused for a draft model that fits none of them."""
    own = None if isinstance(draft, NoDraft) else Reading(draft, await draft.vocabulary())
    texts = Texts(rpc, own, draft.shard.tokenizer_hash, tools, folder)
    if shard is not None:
        texts.know(shard.shard.text_hash, shard.text_file)
    texts.tokenizer_hash = await tokenizer_for(texts, draft.shard, models, pings)
    for model in [one for one in models if one.complete and one.tokenizer_hash == texts.tokenizer_hash][:1]:
        texts.begin(model)
    return texts


async def tokenizer_for(texts: Texts, draft: ShardInfo, models: Sequence[Model], pings: Pings) -> str:
    """The tokenizer hash of the models to draft for, of the `models` that there are (none: its own): of those that it
    fits, the one to be preferred.

    Raises ModelRefused where it fits none of them: a draft model that nobody can use is a mistake, and never silent.
    """
    own = draft.tokenizer_hash
    if not models or (own != NO_HASH and any(model.tokenizer_hash == own for model in models)):
        return own
    reasons = []
    for model in (await preferred(models, pings))[:MAX_COMPARED]:
        reason = ""
        if model.text_hash:
            try:
                fit = await texts.fit(model)
                reason = fit.reason
            except DsdError as error:
                fit, reason = None, str(error)
            if fit is not None and not reason:
                log.info("drafting for another tokenizer", model=model.name, ids_that_differ=fit.told or "none")
                return model.tokenizer_hash
        reasons.append(f"{model.name} ({model.tokenizer_hash[:12]}{f': {reason}' if reason else ''})")
    more = f" and {len(reasons) - MAX_TOLD} more" if len(reasons) > MAX_TOLD else ""
    if draft.tokenizer_hash == NO_HASH:
        raise ModelRefused(f"no tokenizer can be had of {', '.join(reasons[:MAX_TOLD])}{more}")
    raise ModelRefused(
        f"the draft model {draft.model_name} has another tokenizer ({draft.tokenizer_hash[:12]}) than "
        f"{', '.join(reasons[:MAX_TOLD])}{more}. A text must be the same ids to both: name a draft model of the "
        "target's own family (--model-draft), or leave out the role drafter"
    )


async def follow_targets(
    texts: Texts,
    pings: Pings,
    draft: TextEngine,
    has_target: bool,
    look: Callable[[], Awaitable[Sequence[Model]]],
    changed: Callable[[], None],
) -> None:
    """`changed` is called when its tokenizer has become another's: once, of a draft model that had no target."""
    while isinstance(draft, NoDraft) or not has_target:
        if await wait_for_target(texts, pings, draft.shard, look):
            changed()
        has_target = True


async def wait_for_target(
    texts: Texts, pings: Pings, draft: ShardInfo, look: Callable[[], Awaitable[Sequence[Model]]]
) -> bool:
    """Until there is a target that it fits, where there was none at first, or where it has no draft model and the one
    that it had is gone. Has its tokenizer become another's?"""
    told, num_missed = "", 0
    while True:
        has_one = texts.tokenizer_hash != draft.tokenizer_hash
        await asyncio.sleep(FOLLOW_S if has_one else LOOK_S)
        models = await look()
        targets = [model for model in models if model.tokenizer_hash == texts.tokenizer_hash]
        if has_one:
            is_there = await wholly_hosted(targets, pings)  # records alone anybody goes on renewing
            models = [] if is_there else await wholly_hosted([one for one in models if one not in targets], pings)
            num_missed = num_missed + 1 if models else 0  # where nobody answers it may be our own network that is gone
        if not models or (has_one and num_missed < MAX_MISSED):
            continue
        try:
            found = await tokenizer_for(texts, draft, models, pings)
        except ModelRefused as error:
            if str(error) != told:
                told = str(error)
                log.warning("nothing to draft for", reason=told)
            continue
        changed, texts.tokenizer_hash = found != texts.tokenizer_hash, found
        return changed
