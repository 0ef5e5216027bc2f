"""Guards of what a home's own network says, its router and who else is in it, taken out."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

MAPPING: Final = "dsdnode.net.mapping:"
MAPPER: Final = "dsdnode.net.mapper:PortMapper."
KNOCKS: Final = "dsdnode.net.knock:Knocks."
VISITS: Final = "dsdnode.swarm.visits:"
BEACON: Final = "dsdnode.net.beacon:Neighbours."
JOINING: Final = "dsdnode.swarm.joining:Joining."
HOUSE: Final = {
    "router-address": Mutation(MAPPING + "_what_is_wrong", "nearness(host) is not Nearness.WORLD", "False"),
    "router-port": Mutation(MAPPING + "_what_is_wrong", "answer.port < LOWEST_PORT", "False"),
    "router-lease": Mutation(MAPPING + "Mapping._answered", "min(answer.lifetime_s, LEASE_S)", "answer.lifetime_s"),
    "router-news": Mutation(MAPPING + "Mapping._hear_clock", "max(now, self._began + AGAIN_S)", "now"),
    "router-nonce": Mutation("dsdnode.net.pcp:Request._read_pcp", "(nonce, protocol, inside) != ", "() == "),
    "router-same": Mutation(MAPPER + "__init__", "identity or Identity", "Identity"),
    "router-other": Mutation("dsdnode.net.mapper:_nonce", "where.encode()", 'b""'),
    "router-unasked": Mutation(MAPPING + "Mapping.heard", "if not self._attempt:", "if False:"),
    "router-sender": Mutation(MAPPER + "_announced", "sender[0] == router", "True"),
    "beacon-swarm": Mutation(BEACON + "hear", "tag not in self._tags or ", ""),
    "beacon-near": Mutation(BEACON + "hear", " or not self._is_near(host)", ""),
    "beacon-size": Mutation(BEACON + "hear", " <= MAX_DATAGRAM_BYTES", ""),
    "beacon-machine": Mutation(BEACON + "hear", "not self._credits.spend(host, now) or ", ""),
    "beacon-all": Mutation(BEACON + "hear", ' or not self._credits_of_all.spend("", now)', ""),
    "beacon-memory": Mutation(BEACON + "__init__", "LRUCache(MAX_NEIGHBOURS)", "LRUCache(1 << 20)"),
    "beacon-service": Mutation(
        "dsdnode.net.house:House._hear", "may_name(Nearness.CABLE, one)", 'one.startswith("tcp:")'
    ),
    "met-price": Mutation(JOINING + "meet", "introduce(neighbour, teacher)", "introduce(neighbour)"),
    "met-machine": Mutation(JOINING + "_make_room", "len(here) < MAX_OF_A_HOST and ", ""),
    "met-room": Mutation(JOINING + "_make_room", "if not self._table.is_live(peer)", "if False"),
    "met-named": Mutation(JOINING + "_make_room", " if join.teacher is not None", ""),
    "met-gone": Mutation(JOINING + "tick", " and now >= join.since + UNHEARD_S", " and False"),
    "met-moved": Mutation(JOINING + "meet", "self._table.is_live(peer) or (join is None and ", "join or ("),
    "look-said": Mutation("dsdnode.net.router:Router._take", "if not inbound.is_look", "if True"),
    "look-heard": Mutation("dsdnode.net.views:View.received", "self.close()", "return"),
    "seen-agreed": Mutation("dsdnode.net.nat:judged", "said.total() < 2", "not said"),
    "seen-world": Mutation("dsdnode.net.views:seen_in", " and may_name(Nearness.WORLD, said)", ""),
    "visit-home": Mutation(VISITS + "Visits.ask_for", " and parse_address(one)[0] == source", ""),
    "visit-address": Mutation(VISITS + "Visits._on_visit", "if not _may_visit(message.address)", "if False"),
    "visit-asked": Mutation(VISITS + "Visits.ask_for", " and self._asked.allow(now, source)", ""),
    "visit-most": Mutation(VISITS + "_Limit.allow", "self._of_one.spend(network_of(host), now) and ", ""),
    "visit-all": Mutation(VISITS + "_Limit.allow", ' and self._of_all.spend("", now)', ""),
    "visit-account": Mutation(KNOCKS + "visit", "teacher.near, teacher)", "teacher.near)"),
    "visit-near": Mutation(KNOCKS + "visit", "may_name(teacher.near, address)", "True"),
    "visit-link": Mutation("dsdnode.net.knock:_Knock.__init__", ", LOOK)", ",)"),
    "knock-price": Mutation(
        "dsdnode.net.link:Dealer.call_proven",
        "if self._call is None:",
        "self.answering.append(call.way)\n        if self._call is None:",
    ),
    "knock-turn": Mutation(KNOCKS + "_begin", "num_held[one.account]", "0"),
    "knock-share": Mutation(KNOCKS + "_begin", "not self._make_room(place.account, now)", "True"),
    "calls-of-place": Mutation("dsdnode.swarm.homes:Homes._has_room", "num_there < MAX_OF_A_PLACE and ", ""),
    "calls-of-one": Mutation("dsdnode.swarm.homes:Homes.call_soon", " and len(calls.under_way) < MAX_CALLED", ""),
    "hasty-most": Mutation("dsdnode.swarm.reach:Reach.heard", " and self._num_hasty < MAX_HASTY", ""),
    "open-called": Mutation("dsdnode.net.outlook:Outlook.called_by", " and host not in self._links.called", ""),
    "open-next-door": Mutation("dsdnode.net.outlook:Outlook.is_open", "one != own", "True"),
}
