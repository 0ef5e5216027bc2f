"""A caller whom all reach is called back by a callee whom nobody reaches: the relay is not needed for long."""

from __future__ import annotations

import pytest

from tests.nat.lab import lab
from tests.nat.namespaces import why_not
from tests.nat.pairs import Town


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_a_caller_whom_all_reach_is_called_back() -> None:
    with lab() as homes:
        assert Town(homes, ("public", "symf")).link("public", "symf").startswith("reversed ")
