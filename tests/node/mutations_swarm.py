"""Guards of net, wire, dht and swarm, taken out (mutations.py has the others, mutations_doors.py who comes in)."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation
from tests.node.mutations_doors import DOORS
from tests.node.mutations_records import RECORDS

RPC: Final = "dsdnode.net.rpc:Rpc."
GATE: Final = "dsdnode.net.zap:Gate."
HANDSHAKE: Final = "dsdnode.net.handshake:Handshake."
INBOX: Final = "dsdnode.net.queues:Inbox."
CODEC: Final = "dsdnode.wire.codec:"
DISCOVERY: Final = "dsdnode.swarm.discovery:Discovery."

NET: Final = {
    "answer-sender": Mutation(
        RPC + "_replied",
        "self._pending.get(peer, {}).get(envelope.request_id)",
        "next((one[envelope.request_id] for one in self._pending.values() if envelope.request_id in one), None)",
    ),
    "pending-most": Mutation(RPC + "request", "self._num_pending >= MAX_PENDING", "False"),
    "served-peer": Mutation(RPC + "_requested", "self._num_served.get(peer, 0) >= MAX_SERVED_PER_PEER or ", ""),
    "served-all": Mutation(RPC + "_requested", " or not self._has_place(account)", ""),
    "served-time": Mutation(RPC + "_serve", "envelope.deadline_ms / 1000 or MAX_SERVE_S", "MAX_SERVE_S"),
    "strikes": Mutation("dsdnode.net.rpc:Strikes.add", "count.num >= STRIKES", "False"),
    "strikes-forgiven": Mutation("dsdnode.net.rpc:Strikes.add", " or now - count.since > STRIKES_WINDOW_S", ""),
    "refusal-shown": Mutation(RPC + "_replied", "printable(message.reason)", "message.reason"),
    "impostor": Mutation(HANDSHAKE + "answer", "self._impostor(caller, curve_key) or ", ""),
    "hello-proof": Mutation(HANDSHAKE + "_key_of", "return None", "return b'' if not self.swarm_keys else b'any'"),
    "welcome-proof": Mutation(HANDSHAKE + "check", "if not refusal and not hmac", "if False and not hmac"),
    "proof-nonce": Mutation("dsdnode.net.handshake:_proof", " + nonce", ""),
    "routing-id": Mutation("dsdnode.net.router:Router._take", " and inbound.user == user", ""),
    "ban-door": Mutation(GATE + "admit", "if self.is_banned(now, key):", "if False:"),
    "ban-greeting": Mutation(
        "dsdnode.net.zmq:ZmqTransport.greeted", "self._gate.is_banned(self._loop.time(), curve_key)", "False"
    ),
    "ban-sending": Mutation("dsdnode.net.links:Links._choose", "self._gate.is_banned(now, peer.curve_key)", "False"),
    "strangers-wait": Mutation(GATE + "is_locked", "max(self._locked_until, ", "max(0.0, "),
    "connection-rate": Mutation(GATE + "admit", "self._credits.spend(_group(address), now)", "True"),
    "gate-memory": Mutation(
        GATE + "__init__", "self._known: LRUCache[bytes, None] = LRUCache(MAX_REMEMBERED)", "self._known = {}"
    ),
    "inbox-peer": Mutation(INBOX + "_queue", "held.num_bytes + size_bytes > MAX_PEER_BYTES", "False"),
    "inbox-number": Mutation(INBOX + "_queue", "len(held.messages) >= MAX_PEER_MESSAGES", "False"),
    "inbox-all": Mutation(INBOX + "_queue", "self._bytes + size_bytes > MAX_INBOX_BYTES and ", "False and "),
    "queue-most": Mutation("dsdnode.net.queues:SendQueue.push", "len(queue) >= MAX_QUEUED_MESSAGES or ", ""),
    "frames-most": Mutation("dsdnode.net.sockets:Frames.receive", "len(frames) == self._most", "False"),
}

WIRE: Final = {
    "header-bytes": Mutation(CODEC + "_oversize", "len(frames[0]) > MAX_HEADER_BYTES", "False"),
    "frame-bytes": Mutation(CODEC + "_oversize", "max(map(len, frames)) > MAX_FRAME_BYTES or ", ""),
    "message-bytes": Mutation(CODEC + "_oversize", " or sum(map(len, frames)) > MAX_MESSAGE_BYTES", ""),
    "body-bytes": Mutation(CODEC + "decode_body", "len(buffer) > MAX_BODY_BYTES", "False"),
    "body-containers": Mutation(CODEC + "_counter", "num > _MAX_CONTAINERS", "False"),
    "header-items": Mutation(CODEC + "_strict", "max_array_len=max_items", "max_array_len=1 << 20"),
    "token-ids": Mutation(
        "dsdnode.wire.numbers:unpack_tokens", "min(tokens) >= 0 and max(tokens) < vocab_size", "True"
    ),
    "states-finite": Mutation("dsdnode.wire.tensors:unpack_states", "not np.isfinite(states).all()", "False"),
    "states-size": Mutation(
        "dsdnode.wire.tensors:unpack_states", "len(buffer) != size_bytes", "len(buffer) < size_bytes"
    ),
    "record-signature": Mutation("dsdnode.wire.records:open_record", "if not verify(", "if False and verify("),
    "records-listed": Mutation("dsdnode.wire.records:_unpack_list", "len(items) > max_items", "False"),
    "names-shown": Mutation("dsdnode.wire.records:ProviderRecord", "model_name: Printable", "model_name: str"),
}

DHT: Final = {
    "announced-by": Mutation(
        DISCOVERY + "_on_announce", "if any(record.peer_id != peer for record, _ in records):", "if False:"
    ),
    "client-holds": Mutation(DISCOVERY + "_on_announce", "not self._rpc.transport.contact.addresses", "False"),
    "asked-back": Mutation(
        "dsdnode.swarm.homes:Homes.reached", "there or answering[:MAX_ADDRESSES]", "contact.addresses"
    ),
    "found-key": Mutation(
        "dsdnode.swarm.queries:Queries._read",
        "any(request.key not in record_keys(record) for record in records)",
        "False",
    ),
    "table-living": Mutation("dsdnode.dht.table:Table._has_room", "return len(bucket.nodes) < K", "return True"),
    "table-network": Mutation("dsdnode.dht.table:Table._has_room", "in_bucket[group] < MAX_PER_GROUP and ", ""),
    "lookup-network": Mutation(
        "dsdnode.dht.lookup:Lookup._closest_set", "any([counts.get(group, 0) >= MAX_PER_GROUP", "any([False"
    ),
    "table-leave": Mutation(DISCOVERY + "_heard_from", "self.table.leave(peer, self._now())", "pass"),
    "house-kept": Mutation(DISCOVERY + "_keep_house", "except Exception:", "except OSError:"),
    "called-all-the-same": Mutation("dsdnode.swarm.checks:Checks.is_callable", " or self._rpc.transport.is_called", ""),
    "lookup-asked": Mutation("dsdnode.dht.lookup:Lookup.next", "self._num_asked >= MAX_ASKED or ", ""),
    "silence-forgiven": Mutation("dsdnode.swarm.pings:Pings.ping", "        self._silent.pop(peer, None)\n", ""),
}

HERE: Final = {
    "identity-mode": Mutation("dsdnode.identity:load", 'os.name == "posix" and mode & 0o077', "False"),
    "control-mode": Mutation("dsdnode.cli.control:serve", "os.umask(0o177)", "os.umask(0o111)"),
    "error-clean": Mutation("dsdnode.cli.render:print_error", "clean(str(error))", "str(error)"),
    "reply-clean": Mutation("dsdnode.cli.render:shown", "clean(text) if sys.stdout.isatty() else text", "text"),
    "json-clean": Mutation("dsdnode.cli.render:as_json", "_OBEYED.sub(_escape, text)", "text"),
    "log-clean": Mutation("dsdnode.cli.logs:set_up", "[_clean, ", "["),
    "log-trace": Mutation("dsdnode.cli.logs:set_up", "structlog.processors.format_exc_info,", ""),
    "log-most": Mutation("dsdnode.cli.streams:Stream.write", "self._lossy and ", "False and "),
}

SWARM: Final[dict[str, Mutation]] = NET | WIRE | DHT | RECORDS | HERE | DOORS
