"""Guards of who comes in, who is called and who is named, taken out."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

HOMES: Final = "dsdnode.swarm.homes:Homes."
DOORS: Final = {
    "silent-most": Mutation("dsdnode.net.lobby:Lobby.arrived", "len(self._waiting) <= MAX_WAITING", "True"),
    "silent-heaviest": Mutation("dsdnode.net.lobby:Lobby.arrived", " if waiting.source == heaviest", ""),
    "greeting-time": Mutation("dsdnode.net.lobby:Lobby.overdue", "waiting.until_s <= now", "False"),
    "chatter-most": Mutation("dsdnode.net.lobby:Lobby.hears", "if waiting.num_messages > MAX_MESSAGES:", "if False:"),
    "refused-once": Mutation("dsdnode.net.lobby:Lobby.hears", "not waiting.refused and ", ""),
    "refusal-cost": Mutation(
        "dsdnode.net.zap:Gate.refused", "self._credits.charge(_group(address), now, REFUSAL_COST)", "pass"
    ),
    "places-most": Mutation("dsdnode.net.lobby:Lobby.admits", "len(self._peers) < MAX_CONNECTIONS", "True"),
    "places-network": Mutation("dsdnode.net.lobby:Lobby.admits", " or max(counts.values()) > counts[source] + 1", ""),
    "places-peer": Mutation("dsdnode.net.lobby:Lobby.greeted", "len(own) > MAX_PER_PEER", "False"),
    "same-connection": Mutation("dsdnode.net.door:Door.close", "os.fstat(copy.fileno()).st_ino == self.inode", "True"),
    "heartbeats": Mutation("dsdnode.net.sockets:_set_common", "zmq.HEARTBEAT_IVL, 0)", "zmq.HEARTBEAT_IVL, 2000)"),
    "farewell": Mutation("dsdnode.net.sockets:Farewell._look", "if not self._left or", "if True or"),
    "ban-closes": Mutation("dsdnode.net.router:Router.forget", "            self._close(inbound.descriptor)\n", ""),
    "named-nearer": Mutation("dsdnode.net.peers:Peer.hear", " if may_name(teacher.near, address)", ""),
    "said-nearer": Mutation("dsdnode.net.peers:Peer.ways", " if may_name(near, one)", ""),
    "resolved-nearer": Mutation("dsdnode.net.call:Way.may_lead_to", "near is not None and near >= self.near", "True"),
    "resolved-told": Mutation("dsdnode.net.resolver:Resolver.hosts", "(self._told, self._slots)", "(self._slots,)"),
    "resolved-reached": Mutation("dsdnode.net.peers:Peer.answered", "hearsay=not way.by_user", "hearsay=False"),
    "resolved-by-user": Mutation("dsdnode.net.link:Dealer._resolve", "hosts(host, named.by_user)", "hosts(host)"),
    "low-ports": Mutation(
        "dsdnode.addresses:may_name", "parse_address(address, LOWEST_PORT)", "parse_address(address)"
    ),
    "embedded": Mutation(
        "dsdnode.addresses:nearness", "_innermost(ipaddress.ip_address(host))", "ipaddress.ip_address(host)"
    ),
    "calls-teacher": Mutation("dsdnode.net.dials", "PER_TEACHER = 32", "PER_TEACHER = 1 << 20"),
    "calls-target": Mutation("dsdnode.net.dials", "PER_TARGET = 80", "PER_TARGET = 1 << 20"),
    "calls-both": Mutation("dsdnode.net.dials", "PER_TEACHER_AND_TARGET = 4", "PER_TEACHER_AND_TARGET = 1 << 20"),
    "calls-network": Mutation("dsdnode.net.dials:Teacher.seen_at", "network(host) or host", "peer.hex()"),
    "calls-paid": Mutation("dsdnode.net.links:Links.may_dial", "way.teacher is None", "True"),
    "calls-first": Mutation("dsdnode.net.dials:first_to_go", "len(calling) >= len(links) / 2", "False"),
    "calls-reached": Mutation(
        "dsdnode.net.peers:Peer.answered", "host=host, relayed", "host=host, teacher=way.teacher, relayed"
    ),
    "user-first": Mutation("dsdnode.net.zmq:ZmqTransport.introduce", "if teacher is not None:", "if False:"),
    "claims-wrong": Mutation(
        "dsdnode.net.peers:Peer.unanswered", "claim.failed |= address in claim.contact.addresses", "pass"
    ),
    "claims-idle": Mutation(
        "dsdnode.net.peers:_Claim.is_idle", "not all(can_pay(self.teacher, one) for one in own)", "False"
    ),
    "reached-alone": Mutation(HOMES + "reached", " if address in answering", ""),
    "told-nearer": Mutation("dsdnode.swarm.discovery:Discovery._closest", " if may_name(near, one)", ""),
    "home-shown": Mutation(HOMES + "may_show", "record.withdrawn or all(", "True or all("),
    "home-remembered": Mutation(
        HOMES + "_is_home", "return home in self._proven", "return address in self._transport.sighting(peer).reached"
    ),
    "reach-most": Mutation(
        "dsdnode.swarm.reach:_Voices.is_reached",
        "2 * sum(self.said.values()) > len(self.said)",
        "any(self.said.values())",
    ),
    "seen-network": Mutation("dsdnode.dht.table:Table.seen", "*networks", ""),
    "seen-asking": Mutation("dsdnode.dht.lookup:Lookup.on_reply", "*networks", ""),
    "open-next": Mutation(
        "dsdnode.node.shard.neighbours:Neighbours.refusal",
        "all(map(self._is_known, peers[index + 1 : index + 2]))",
        "True",
    ),
    "open-looks": Mutation(
        "dsdnode.node.shard.neighbours:Neighbours._look_around", " and now >= self._looked_s + LOOK_AGAIN_S", ""
    ),
    "twin-told": Mutation("dsdnode.net.zmq:ZmqTransport.greeted", "if not self._knocks.is_ours(hello):", "if False:"),
    "twin-ourselves": Mutation("dsdnode.net.knock:Knocks.is_twin", " and not knock.is_ours", ""),
    "twin-mute": Mutation("dsdnode.net.knock:Knocks.is_twin", "bool(dealer.answering)", "True"),
    "twin-late": Mutation(
        "dsdnode.net.knock:Knocks.is_ours", "return knock is not None", "return bool(knock) and not knock.over.done()"
    ),
    "twin-named": Mutation(
        "dsdnode.swarm.discovery:Discovery._closest", " or not here.issuperset(contact.addresses)", ""
    ),
    "twin-start": Mutation(
        "dsdnode.swarm.discovery:Discovery._check_twin", "if self._rpc.transport.twin:", "if False:"
    ),
    "twin-word": Mutation(
        "dsdnode.net.zmq:ZmqTransport.look_for_twin",
        "self._as_teacher(by) if by is not None else None",
        "None",
    ),
    "log-lines": Mutation("dsdnode.cli.logs:Sieve.__call__", "if num >= MAX_LINES:", "if False:"),
}
