"""Callers whom all reach, or nobody, and a callee behind a firewall: the relay is not needed for long."""

from __future__ import annotations

import pytest

from tests.nat.lab import lab
from tests.nat.namespaces import why_not
from tests.nat.pairs import Town


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_who_is_reached_is_called_back_and_both_call_at_once_where_nobody_is() -> None:
    with lab() as homes:
        town = Town(homes, ["public", "prc"], ["fw"])
        assert town.link("public", "fw").startswith("reversed ")
        assert town.link("prc", "fw").startswith("punched ")
