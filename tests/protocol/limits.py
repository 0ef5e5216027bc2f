"""The names of the limits in docs/protocol.md, and where the code has them."""

from __future__ import annotations

from typing import Final

from dsdnode import accounts, addresses
from dsdnode.client import asking
from dsdnode.dht import ids, lookup, store, table
from dsdnode.net import dials, lobby, moves, port, queues, rpc, zap
from dsdnode.node.drafter import delivery, routes
from dsdnode.node.shard import host, room, sessions, terms
from dsdnode.speculation import acceptance, actions, digest
from dsdnode.speculation.owner import flow, session, timer
from dsdnode.speculation.plan import SessionConfig
from dsdnode.speculation.stage import arrivals, judge
from dsdnode.swarm import announcer
from dsdnode.weights import sharing
from dsdnode.wire import codec, guesses, logprobs, manifests, masks, messages, pieces, records, shaping

_PATIENCE: Final = SessionConfig(b"", b"", 1, 1, 1)
_STAGE: Final = arrivals.DEFAULT_LIMITS

LIMITS: Final[dict[str, float]] = {
    "biases": shaping.MAX_BIASES,
    "logprobs": shaping.MAX_LOGPROBS,
    "token_bytes": logprobs.MAX_TOKEN_BYTES,
    "note_bytes": terms.MAX_NOTE_BYTES,
    "header_bytes": codec.MAX_HEADER_BYTES,
    "header_items": 1024,  # codec.decode has no name for it: test_page.py tries it
    "buffers": codec.MAX_BUFFERS,
    "frame_bytes": codec.MAX_FRAME_BYTES,
    "message_bytes": codec.MAX_MESSAGE_BYTES,
    "body_bytes": codec.MAX_BODY_BYTES,
    "body_items": codec._MAX_BODY_ITEMS,
    "body_containers": codec._MAX_CONTAINERS,
    "masks": masks.MAX_MASKS,
    "guesses": guesses.MAX_GUESSES,
    "request_id": codec.MAX_REQUEST_ID,
    "deadline_ms": codec.MAX_DEADLINE_MS,
    "addresses": messages.MAX_ADDRESSES,
    "contacts": messages.MAX_CONTACTS,
    "records": records.MAX_RECORDS,
    "record_bytes": messages.MAX_RECORD_BYTES,
    "record_ttl_s": records.MAX_TTL_S,
    "round_trips": records.MAX_ROUND_TRIPS,
    "layers": messages.MAX_LAYERS,
    "stages": messages.MAX_STAGES,
    "session_owner_bytes": messages.SESSION_OWNER_BYTES,
    "block_positions": messages.MAX_BLOCK_POSITIONS,
    "positions": messages.MAX_POSITIONS,
    "least_temperature": messages.MIN_TEMPERATURE,
    "digest_bytes": digest.DIGEST_BYTES,
    "seal_bytes": messages.MAX_SEAL_BYTES,
    "seal_key_bytes": messages.MAX_SEAL_KEY_BYTES,
    "weights_piece_bytes": pieces.MAX_PIECE_BYTES,
    "manifest_files": manifests.MAX_FILES,
    "manifest_tensors": manifests.MAX_TENSORS_TOLD,
    "weights_wait_s": sharing.MAX_WAIT_S,
    "open_digests": digest.MAX_OPEN_DIGESTS,
    "relaxed_told": judge.MAX_TOLD,
    "k": ids.K,
    "top": acceptance.NUM_TOP,
    "key_entropy": acceptance.KEY_ENTROPY,
    "key_gap": acceptance.KEY_GAP,
    "uncertain_entropy": acceptance.UNCERTAIN_ENTROPY,
    "deferred_matches": acceptance.DEFERRED_MATCHES,
    "least_deferred_matches": acceptance.MIN_DEFERRED_MATCHES,
    "budget": acceptance.BUDGET,
    "budget_tokens": acceptance.BUDGET_TOKENS,
    "attempt_s": port.ATTEMPT_TIMEOUT_S,
    "retry_s": port.RETRY_S,
    "dialled": port.MAX_DIALLED,
    "connections": lobby.MAX_CONNECTIONS,
    "connections_per_peer": lobby.MAX_PER_PEER,
    "unwelcomed": lobby.MAX_WAITING,
    "greeting_s": lobby.GREETING_S,
    "lowest_port": addresses.LOWEST_PORT,
    "calls_per_teacher": dials.PER_TEACHER,
    "calls_per_target": dials.PER_TARGET,
    "calls_per_both": dials.PER_TEACHER_AND_TARGET,
    "move_s": moves.MOVE_S,
    "connections_burst": zap.CONNECTIONS_BURST,
    "connections_per_s": zap.CONNECTIONS_PER_S,
    "lockdown_s": zap.LOCKDOWN_S,
    "waiting_peer_bytes": queues.MAX_PEER_BYTES,
    "waiting_peer_messages": queues.MAX_PEER_MESSAGES,
    "queued_messages": queues.MAX_QUEUED_MESSAGES,
    "served": rpc.MAX_SERVED,
    "served_per_peer": rpc.MAX_SERVED_PER_PEER,
    "serve_s": rpc.MAX_SERVE_S,
    "bulky_bytes": rpc.BULKY_BYTES,
    "strikes": rpc.STRIKES,
    "strikes_window_s": rpc.STRIKES_WINDOW_S,
    "ban_s": rpc.BAN_S,
    "lookup_parallelism": lookup.PARALLELISM,
    "lookup_max_parallelism": lookup.MAX_PARALLELISM,
    "lookup_patience_s": lookup.PATIENCE_S,
    "lookup_asked": lookup.MAX_ASKED,
    "per_network": ids.MAX_PER_GROUP,
    "table_per_network": table.MAX_TABLE_PER_GROUP,
    "store_keys_per_provider": store.MAX_KEYS_PER_PROVIDER,
    "store_piece_bytes": store.RECORD_PIECE_BYTES,
    "store_pieces_per_key": store.MAX_PER_KEY,
    "store_pieces": store.MAX_TOTAL,
    "announce_s": announcer.ANNOUNCE_EVERY_S,
    "open_timeout_s": routes.OPEN_TIMEOUT_S,
    "lease_s": host.MAX_LEASE_S,
    "parked_s": host.MAX_PARKED_S,
    "hop_timeout_s": _STAGE.hop_timeout_s,
    "waiting_blocks": _STAGE.max_waiting_blocks,
    "waiting_positions": _STAGE.max_waiting_positions,
    "waiting_bytes": sessions.MAX_WAITING_BYTES,
    "kept_blocks": _STAGE.max_kept_blocks,
    "kept_positions": _STAGE.max_kept_positions,
    "closings": _STAGE.max_closings,
    "spare_positions": _STAGE.max_spare_positions,
    "turn_s": accounts.TURN_S,
    "turn_spent_s": accounts.SPENT_S,
    "turn_back_s": accounts.BACK_S,
    "idle_s": room.IDLE_S,
    "flights": flow.MAX_FLIGHTS,
    "branches": actions.MAX_BRANCHES,
    "nacks": session.MAX_NACKS,
    "pass_s": _PATIENCE.pass_timeout_s,
    "position_s": _PATIENCE.position_timeout_s,
    "patience_doublings": timer.MAX_DOUBLINGS,
    "client_silence_s": asking.SILENCE_S,
    "client_ask_s": asking.ASK_TIMEOUT_S,
    "drafter_ping_s": delivery.WATCH_S,
    "drafter_answer_s": delivery.ANSWER_TIMEOUT_S,
}
