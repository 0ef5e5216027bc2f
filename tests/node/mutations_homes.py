"""Guards of what a home's own network says, its router and who else is in it, taken out."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

MAPPING: Final = "dsdnode.net.mapping:"
HOMES: Final = {
    "router-address": Mutation(MAPPING + "_what_is_wrong", "nearness(host) is not Nearness.WORLD", "False"),
    "router-port": Mutation(MAPPING + "_what_is_wrong", "answer.port < LOWEST_PORT", "False"),
    "router-lease": Mutation(MAPPING + "Mapping._answered", "min(answer.lifetime_s, LEASE_S)", "answer.lifetime_s"),
    "router-news": Mutation(MAPPING + "Mapping._hear_clock", "max(now, self._began + AGAIN_S)", "now"),
    "router-nonce": Mutation("dsdnode.net.pcp:Request._read_pcp", "(nonce, protocol, inside) != ", "() == "),
    "router-sender": Mutation("dsdnode.net.mapper:PortMapper._announced", "sender[0] == router", "True"),
}
