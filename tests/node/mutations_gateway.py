"""Guards of the gateway and its page, taken out: what strangers say of themselves, and who may look."""

from __future__ import annotations

from typing import Final

from tests.node.mutation import Mutation

GATEWAY: Final = {
    "page-key": Mutation(
        "dsdnode.gateway.doors:Rules.check", "path in OPEN_PATHS or path.startswith(OPEN_FOLDER)", "True"
    ),
    "health-names": Mutation("dsdnode.gateway.app:health", "not rules.key or rules.has_key(request.headers)", "True"),
    "page-policy": Mutation("dsdnode.gateway.page:_file", ", headers=HEADERS", ""),
    "map-names": Mutation("dsdnode.gateway.map:_words", "printable(text[:MAX_WORDS])", "text"),
    "map-peers": Mutation("dsdnode.gateway.map:swarm", "[:MAX_PEERS]", ""),
    "map-looks": Mutation("dsdnode.gateway.watched:Seen.__call__", "_now() >= self._until_s", "True"),
    "map-newcomer": Mutation("dsdnode.swarm.newcomer:newcomer", "if len(living) > MAX_SHARDS:", "if False:"),
    "metric-outcomes": Mutation(
        "dsdnode.gateway.metrics:Metrics.over",
        'outcome if outcome in REASONS or outcome in CODES else "other"',
        "outcome",
    ),
    "metric-ways": Mutation(
        "dsdnode.gateway.metrics:Seen._of_swarm",
        "for way in WAYS:",
        "for way in {*kinds, *(one.link for one in answering)}:",
    ),
    "api-unread": Mutation("dsdnode.gateway.server:Connection._await_reader", "self.transport.abort()", "pass"),
    "api-slow": Mutation("dsdnode.gateway.server:Connection._await_reader", "before and left >= before", "before"),
    "api-ahead": Mutation(
        "dsdnode.gateway.server:Connection.data_received", "self.conn.their_state is h11.DONE", "False"
    ),
    "routed-to": Mutation(
        "dsdnode.node.drafter.delivery:Delivery._tell_route",
        " and self._rpc.transport.can(self.client, ROUTE)",
        "",
    ),
}
