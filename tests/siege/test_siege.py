"""Of the siege what is told in seconds: what an attack is told of, lines of the table.

The attacks themselves take minutes, real daemons and root: `python -m tests.siege`.
"""

from __future__ import annotations

import msgspec

from tests.siege.attacks import Done
from tests.siege.table import COLUMNS, Round, Times, percentile
from tests.siege.user import Asked


def test_a_siege_as_a_line() -> None:
    """The neighbour apart; who was not served has waited, too; another text is neither served well nor hidden."""
    served = [Asked(0, "59", float(took)) for took in range(1, 5)]
    lost = Asked(0, "5", 60.0, "NoPipeline: nothing came")
    attacked = {"alice": served, "bob": [Asked(0, "58", 2.0)], "dave": [*served[:1], lost]}
    peace = {name: served[:2] for name in attacked}
    told = Round("pings", Done(300, 10.0, 0.5), attacked, peace, {0: "59"})
    cells = told.row.split(" | ")
    assert cells[:5] == ["pings", "30.0", "0.50", "5", "5"]
    assert cells[5:9] == ["2.00", "4.00", "4.00", "4.00"]
    assert cells[9:12] == ["1", "2", "60.00"]
    assert dict(zip(COLUMNS.split(" | "), cells, strict=False))["wrong texts"] == "1"
    assert cells[-2:] == ["2.00", "2.00"]
    assert len(cells) == len(COLUMNS.split(" | "))


def test_one_user_who_waits_is_not_hidden_by_those_who_ask_more_often() -> None:
    """Of 201 replies the 99th in a hundred is a good one, though bob was kept waiting for the whole round."""
    told = {"alice": [Asked(0, "59", 0.3)] * 200, "bob": [Asked(0, "59", 30.0)], "dave": [Asked(0, "59", 0.3)]}
    times = Times.of(told)
    assert (times.p99, times.worst_p99, times.longest) == (0.3, 30.0, 30.0)


def test_each_reply_is_kept_as_a_line() -> None:
    told = {"alice": [Asked(0, "59", 0.3, told=("waiting",))], "dave": [Asked(0, "59", 0.3)]}
    kept = [msgspec.json.decode(line) for line in Round("pings", Done(1, 1.0, 0.5), told, told, {0: "59"}).lines()]
    assert [(one["when"], one["user"]) for one in kept] == [
        ("attack", "alice"), ("attack", "dave"), ("peace", "alice"), ("peace", "dave")
    ]  # fmt: skip
    assert kept[0]["told"] == ["waiting"]


def test_a_siege_tells_failures_by_user() -> None:
    lost = Asked(0, "5", 60.0, "NoPipeline: nothing came")
    served = [Asked(0, "59", 1.0)]
    told = Round(
        "pings", Done(1, 1.0, 0.5), {"alice": served, "dave": [lost]}, {"alice": served, "dave": served}, {0: "59"}
    )
    assert told.failures == {"pings, attack, dave: NoPipeline: nothing came": 1}
    assert told.num_wrong == 0


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(one) for one in range(200, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [100.0, 198.0, 200.0]
    assert percentile([3.0], 0.99) == 3.0
