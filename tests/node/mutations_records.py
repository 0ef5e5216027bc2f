"""Guards of what peers say of themselves, taken out: what a record can say, and what becomes of a crowd."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

STORE: Final = "dsdnode.dht.store:"
NEWEST: Final = "dsdnode.wire.records:Newest.add"
NEWEST_ROOM: Final = "dsdnode.wire.records:Newest._has_room"
CATALOGUE: Final = "dsdnode.swarm.catalogue:"
PIPELINES: Final = "dsdnode.placement.pipelines:"
ROUTES: Final = "dsdnode.node.drafter.routes:"
ANNOUNCER: Final = "dsdnode.swarm.announcer:Announcer."

RECORDS: Final = {
    "store-key": Mutation(STORE + "_check", "key not in record_keys(record) or ", ""),
    "store-at-once": Mutation(STORE + "_check", " or len({record.role for record, _ in records}) < len(records)", ""),
    "store-one-number": Mutation(
        STORE + "_check", "len({(record.public_key, record.sequence) for record, _ in records}) > 1", "False"
    ),
    "store-sequence": Mutation(STORE + "Store.put", "old.sequence >= first.sequence", "False"),
    "store-time": Mutation(STORE + "Store.expire", "self._expiry and self._expiry[0][0] <= now", "False"),
    "store-per-key": Mutation(STORE + "Store._make_room", " > MAX_PER_KEY:", " > 1 << 30:"),
    "store-provider": Mutation(
        STORE + "Store.put", "self._num_keys[first.public_key] >= MAX_KEYS_PER_PROVIDER", "False"
    ),
    "store-total": Mutation(STORE + "Store._make_room", " > MAX_TOTAL:", " > 1 << 30:"),
    "store-network": Mutation(STORE + "_too_much", "(_provider, _address, _network)", "(_provider, _address)"),
    "store-address": Mutation(STORE + "_too_much", "(_provider, _address, _network)", "(_provider, _network)"),
    "store-first-come": Mutation(STORE + "_too_much", "(0, one.came, one)", "(0, -one.came, one)"),
    "store-newcomer": Mutation(STORE + "_too_much", "(0, 0, new)", "(0, new.came, new)"),
    "store-pieces": Mutation(STORE + "Store.put", "-(-len(one) // RECORD_PIECE_BYTES)", "1"),
    "store-source": Mutation(
        "dsdnode.swarm.discovery:Discovery._on_announce",
        "self._rpc.transport.source_of(peer)",
        'records[0][0].addresses[0].split("//")[1].split(":")[0]',
    ),
    "model-shape": Mutation("dsdnode.wire.records:model_id_of", " {vocab_size}", ""),
    "tokenizer-names": Mutation(
        "dsdnode.node.drafter.pairing:tokenizer_for",
        "any(model.tokenizer_hash == own for model in models)",
        "{model.name: model for model in models}[models[0].name].tokenizer_hash == own",
    ),
    "newest-whole": Mutation(
        NEWEST, "record.sequence, {record.role: record}", "record.sequence, {**roles, record.role: record}"
    ),
    "newest-role": Mutation(NEWEST, "roles.setdefault(record.role, record)", "roles.setdefault(str(record), record)"),
    "newest-most": Mutation(NEWEST_ROOM, "len(self._said) >= self._max_providers", "False"),
    "newest-share": Mutation(NEWEST_ROOM, "len(most) <= len(mine) + 1", "True"),
    "newest-teller": Mutation(NEWEST_ROOM, "len(mine) < len(self._told[known])", "False"),
    "past-taken-back": Mutation(ANNOUNCER + "_sign", "for record in self._past.values():", "for record in ():"),
    "past-found": Mutation(
        ANNOUNCER + "_count_on", "self._past.setdefault((record.role, record.model_id), record)", "pass"
    ),
    "life-counted": Mutation(ANNOUNCER + "__init__", "life << LIFE_BITS", "0"),
    "outdone": Mutation(ANNOUNCER + "_announce", "if not self._outdone:", "if True:"),
    "outdone-by-others": Mutation(
        ANNOUNCER + "_count_on_rival", "if record.public_key == self._identity.public_key", "if True"
    ),
    "outdone-elsewhere": Mutation(ANNOUNCER + "_count_on_rival", "if key in record_keys(record)", "if True"),
    "id-first": Mutation(CATALOGUE + "called", "return by_id or ", "return "),
    "id-prefix": Mutation(CATALOGUE + "called", "len(name) >= MIN_PREFIX and ", ""),
    "hosts-answering": Mutation(CATALOGUE + "Model.rank", " if shard.peer_id in answering", ""),
    "hosts-networks": Mutation(CATALOGUE + "Model.rank", "-len(networks), ", ""),
    "hosts-turns": Mutation(CATALOGUE + "_in_order", "_in_turn(sorted(", "(sorted("),
    "hosts-lot": Mutation(CATALOGUE + "_in_order", "pings.lot(one.peer_id)", "one.public_key"),
    "hosts-more": Mutation(CATALOGUE + "_answering", "answers |= await ask(more, SPARE_S)", "pass"),
    "models-lot": Mutation(CATALOGUE + "_answering", "pings.lot(model.model_id.encode())", "b''"),
    "models-joined": Mutation(CATALOGUE + "_answering", "shard.peer_id not in trusted", "True"),
    "hosts-ranges": Mutation(CATALOGUE + "_in_order", "[:MAX_ASKED_RANGES]", "[:0]"),
    "hosts-met": Mutation(
        CATALOGUE + "_in_order", "one.peer_id in trusted or pings.has_answered(one.peer_id)", "False"
    ),
    "hosts-spared": Mutation("dsdnode.swarm.pings:Pings.survey", "begun_s - spare_s", "begun_s"),
    "hosts-missed": Mutation("dsdnode.swarm.pings:Pings.survey", "peer in self._answered or self", "self"),
    "hosts-known": Mutation("dsdnode.swarm.pings:Pings.survey", "key=rank", "key=lambda peer: 0"),
    "hosts-at-once": Mutation("dsdnode.swarm.pings:Pings.survey", "range(AT_ONCE)", "range(len(peers))"),
    "hosts-time": Mutation("dsdnode.swarm.pings:Pings.survey", "loop.time() > begun_s + within_s", "False"),
    "context-least": Mutation(CATALOGUE + "_model", "longest_context(offers, first.num_layers) or max(", "min("),
    "context-route": Mutation(
        ROUTES + "Routes._open_all",
        "min(conversation.num_positions, places[index].record.context_tokens)",
        "conversation.num_positions",
    ),
    "context-most": Mutation("dsdnode.node.drafter.attempt:Attempt._roomy", "0 < longest <= self._num_tokens", "False"),
    "peer-twice": Mutation(
        "dsdnode.placement.coverage:hosting",
        "list({record.peer_id: record for record in sorted(shards, key=_age)}.values())",
        "shards",
    ),
    "usual-speed": Mutation(ROUTES + "Hosts._look_up", "with_usual_speeds(shards)", "shards"),
    "claims-first": Mutation("dsdnode.client.preference:by_preference", "max(1.0, slower)", "max(1e-9, slower)"),
    "lots-networks": Mutation("dsdnode.client.preference:by_lot", "network_of(record), []", '"", []'),
    "end-told": Mutation(
        "dsdnode.node.drafter.delivery:Delivery._end", "        except Exception:", "        except KeyError:"
    ),
}  # fmt: skip
