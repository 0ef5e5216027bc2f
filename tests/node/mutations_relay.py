"""Guards of relays, taken out: who is whom there, and who gets how much."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

FRAMES: Final = "dsdnode.net.relay.frames:"
BOOK: Final = "dsdnode.net.relay.book:Book."
SERVER: Final = "dsdnode.net.relay.server:Relay."
CONNECTION: Final = "dsdnode.net.relay.connection:Connection."
RATES: Final = "dsdnode.net.relay.rates:Rates."
AGENT: Final = "dsdnode.net.relay.agent:Agent."
BEHIND: Final = "dsdnode.net.behind:Behind."
GATE: Final = "dsdnode.net.zap:Gate."
CIRCUITS: Final = "dsdnode.net.relays:Circuits."
RELAYING: Final = "dsdnode.swarm.relaying:Relaying."
RELAYS: Final = "dsdnode.net.relays:Relays."
PUNCHING: Final = "dsdnode.swarm.punching:Punching."
RELAY: Final = {
    "relay-signature": Mutation(SERVER + "_check", "if not verify(", "if False and not verify("),
    "relay-challenge": Mutation(FRAMES + "to_reserve", " + challenge", ""),
    "relay-own-key": Mutation(FRAMES + "to_reserve", " + relay_key", ""),
    "relay-member": Mutation(FRAMES + "is_member", "not known or ", "True or "),
    "relay-token-once": Mutation(BOOK + "accept", " or circuit.accepted", ""),
    "relay-token-time": Mutation(BOOK + "accept", " or now > circuit.since_s + self.limits.answer_s", ""),
    "relay-callee": Mutation(BOOK + "accept", "if not verify(", "if False and not verify("),
    "relay-early": Mutation(SERVER + "_dialled", "connection.hold(True)", "pass"),
    "relay-preamble": Mutation(SERVER + "arrived", "self._limits.preamble_s", "3600"),
    "relay-answer": Mutation(SERVER + "_dialled", "self._limits.answer_s", "3600"),
    "relay-guests": Mutation(BOOK + "arrived", "len(self._guests) <= self.limits.guests", "True"),
    "relay-connections": Mutation(BOOK + "arrived", "not self._connections.spend(machine_of(host), now)", "False"),
    "relay-words": Mutation(BOOK + "heard", "return self._words.spend(reservation.peer, now)", "return True"),
    "relay-circuits": Mutation(BOOK + "dial", "len(circuits) >= limits.circuits:", "False:"),
    "relay-circuits-share": Mutation(BOOK + "_gives_way", "if not heaviest:", "if False:"),
    "relay-per-callee": Mutation(BOOK + "dial", "len(to_callee) >= limits.circuits_per_callee", "False"),
    "relay-callee-share": Mutation(BOOK + "dial", "way(caller, to_callee, ", "way(caller, [], "),
    "relay-per-caller": Mutation(BOOK + "dial", ">= limits.circuits_per_caller", "> 9999"),
    "relay-house": Mutation(BOOK + "dial", "machine_of(host)", "host"),
    "relay-dials": Mutation(BOOK + "dial", "not self._dials.spend(caller.address, now)", "False"),
    "relay-told": Mutation(BOOK + "dial", "not self._calls.spend(reservation.peer, now)", "False"),
    "relay-told-network": Mutation(
        BOOK + "dial", "not self._of_networks.spend((reservation.peer, caller.network), now)", "False"
    ),
    "relay-vain": Mutation(BOOK + "dial", "now < vain.until_s", "False"),
    "relay-vain-callee": Mutation("dsdnode.net.relay.book:_way", "callee.peer", 'b""'),
    "relay-vain-memory": Mutation(BOOK[:-1], "lambda: LRUCache(MAX_REMEMBERED)", "lambda: LRUCache(1 << 20)"),
    "relay-reservations": Mutation(BOOK + "reserve", "len(others) >= self.limits.reservations:", "False:"),
    "relay-reservations-address": Mutation(BOOK + "reserve", ">= self.limits.reservations_per_caller", "> 9999"),
    "relay-bytes": Mutation(BOOK + "is_spent", "circuit.num_bytes >= self.limits.circuit_bytes", "False"),
    "relay-rate": Mutation("dsdnode.net.relay.rates:Bucket.take", " - num_bytes", ""),
    "relay-rate-all": Mutation(RATES + "_set_chunk", "self._all.left(now) > 0", "True"),
    "relay-turns": Mutation(RATES + "resumed", "min(able, key=self._turn_before)", "next(reversed(able))"),
    "relay-turns-network": Mutation(RATES + "resumed", "min(able, key=self._turn_before)", "next(iter(able))"),
    "relay-idle": Mutation(BOOK + "overdue_circuits", "now >= one.used_s + limits.idle_s or ", ""),
    "relay-hour": Mutation(BOOK + "overdue_circuits", " or now >= one.since_s + longest[one.answered]", ""),
    "relay-unanswered": Mutation(BOOK + "overdue_circuits", "longest[one.answered]", "limits.circuit_s"),
    "relay-lease": Mutation(BOOK + "overdue_reservations", "min(one.until_s, one.heard_s + silent_s)", "one.until_s"),
    "relay-kept": Mutation(CONNECTION + "_look", "self._held or (", "self._held or (False and "),
    "relay-linger": Mutation(CONNECTION + "finish", "self._transport.abort", "bool"),
    "relay-admits": Mutation(AGENT + "_called", " or not self._callee.admits(incoming.host)", ""),
    "relay-taken": Mutation(AGENT + "_called", " or len(self._circuits) >= MAX_TAKEN", ""),
    "relay-calls": Mutation(AGENT + "_called", 'not self._calls.spend(b"", self._loop.time()) or ', ""),
    "relay-host": Mutation(AGENT + "_called", "not is_plain_ip(incoming.host) or ", ""),
    "relay-moved": Mutation("dsdnode.net.relay.server:Relay._reserve", "if one.peer == reservation.peer:", "if False:"),
    "relay-stays": Mutation(RELAYS + "unreserved", " or self._loop.time() < held.keep_until_s", ""),
    "relay-back": Mutation(RELAYS + "reserved", 'held.keep_until_s = float("-inf")', "pass"),
    "relay-back-late": Mutation(RELAYS + "moved", "min(held.keep_until_s, until_s)", "held.keep_until_s"),
    "reach-moved": Mutation("dsdnode.swarm.reach:Reach.moved", "self._forget_all_but(given)", "pass"),
    "doubt-often": Mutation("dsdnode.net.links:Links.doubt", "now < peer.doubted_s + DOUBT_EVERY_S or ", ""),
    "relay-talk": Mutation(AGENT + "_stay", "for _ in range(MAX_FRAMES):", "while True:"),
    "circuit-caller": Mutation(CIRCUITS + "caller", "if self.has(door) else", "if False else"),
    "circuit-house": Mutation(CIRCUITS + "begin", "nearness(host) is Nearness.WORLD and ", ""),
    "circuit-own": Mutation(CIRCUITS + "begin", " and not leads_here(host)", ""),
    "circuit-late": Mutation("dsdnode.net.router:Router._greet", "door is None or not door.host", "door is None"),
    "move-waits": Mutation("dsdnode.net.moves:Moves.leave", "other.waits_for[link] = None", "pass"),
    "move-time": Mutation("dsdnode.net.moves:Moves.leave", "call_later(MOVE_S, ", "call_later(9999.0, "),
    "lane-borrowed": Mutation("dsdnode.net.moves:Moves.waits", "link.waits_for[lent] = None", "pass"),
    "path-near": Mutation("dsdnode.net.paths:Paths.call", " if may_name(teacher.near, one)", ""),
    "path-asked": Mutation(
        "dsdnode.swarm.shortcuts:Shortcuts._on_find_path", " or not self._asked.spend(peer, _now())", ""
    ),
    "path-asked-back": Mutation(
        "dsdnode.swarm.shortcuts:Shortcuts._may_go_now", " and _now() >= rest.until_s - TRY_AGAIN_S + ASKED_BACK_S", ""
    ),
    "punch-near": Mutation("dsdnode.net.paths:_is_far", "may_name(Nearness.WORLD, address)", "True"),
    "punch-name": Mutation("dsdnode.net.paths:_is_far", " and is_ip(parse_address(address)[0])", ""),
    "punch-asked": Mutation(PUNCHING + "_on_punch", "not self._punches.spend(peer, asked_s)", "False"),
    "punch-met": Mutation(PUNCHING + "_on_punch", "len(self._met) >= MAX_MET", "False"),
    "punch-relayed": Mutation(PUNCHING + "_on_punch", "paths.kind(peer) is not LinkKind.RELAYED", "False"),
    "punch-one": Mutation(PUNCHING + "_on_punch", "met.asked is not message", "False"),
    "circuit-parted": Mutation(CIRCUITS + "end", "call_later(PARTED_S, ", "call_later(0.0, "),
    "circuit-flood": Mutation(
        BEHIND + "admits", "self._gate.admits_circuit(self._loop.time(), self._relay, host)", "True"
    ),
    "circuit-relay": Mutation(GATE + "admits_circuit", "(relay, _group(address))", '(b"", _group(address))'),
    "circuit-refused": Mutation(GATE + "refused", "if circuit:", "if False:"),
    "circuit-spliced": Mutation(BEHIND + "spliced", "self._gate.comes_by(port, self._relay, host)", "pass"),
    "circuit-named": Mutation("dsdnode.net.router:Router._greet", "door.port if self._circuits.has(door) else 0", "0"),
    "circuit-share": Mutation("dsdnode.net.door:Door.share", "said_by(self.relay, where) if self.relay else ", ""),
    "circuit-teacher": Mutation("dsdnode.net.peers:Peer.seen_at", "if relay:", "if False:"),
    "circuit-networks": Mutation("dsdnode.net.peers:Peer.sighting", " if not inbound.relay]", "]"),
    "circuit-locked-relay": Mutation(GATE + "admits_circuit", "(where, said_by(relay, where))", "(where,)"),
    "circuit-locked": Mutation(GATE + "admits_circuit", "if now <", "if False and now <"),
    "relayed-port": Mutation(RELAYS + "reserved", "if terms.port < LOWEST_PORT:", "if False:"),
    "relayed-most": Mutation(
        RELAYS + "reserved",
        "min(float(terms.bytes_per_s), MAX_RELAY_BYTES_PER_S)",
        "float(terms.bytes_per_s)",
    ),
    "relayed-nothing": Mutation(RELAYS + "reserved", "if not terms.bytes_per_s:", "if False:"),
    "relayed-address": Mutation(RELAYS + "reserved", "filter(is_address, (", "iter(("),
    "relaying-own": Mutation(RELAYING + "_own_hosts", "is_ip(host) and leads_here(host)", "True"),
    "relaying-name": Mutation(RELAYING + "_choose", "filter(is_ip, hosts)", "hosts"),
    "relaying-cut-off": Mutation(RELAYING + "_is_fit", "not self._reach.is_cut_off and ", ""),
    "relaying-port": Mutation(RELAYING + "_ask", " and answer.port >= LOWEST_PORT", ""),
    "relaying-most": Mutation(RELAYING + "_be_reached", "len(self._chosen) < most and ", ""),
    "relaying-pause": Mutation(RELAYING + "_rest", "min(2 * pause_s, MOST_PAUSE_S)", "pause_s"),
    "relaying-said": Mutation(RELAYING + "_most", "relays.is_last_resort and any", "False and any"),
    "relaying-hosts": Mutation(RELAYING + "_hosts", "is_plain_ip(one) and nearness(one) is Nearness.WORLD", "True"),
    "relaying-zone": Mutation("dsdnode.net.places:is_plain_ip", " and is_address(to_address(host, LOWEST_PORT))", ""),
    "reach-no-way": Mutation("dsdnode.swarm.checks:Checks._on_find_me", "may_lead(parse_address(one)[0])", "True"),
    "relaying-back": Mutation(RELAYING + "_look_at", " or not is_wanted", ""),
}
