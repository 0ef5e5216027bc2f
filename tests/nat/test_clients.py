"""A client behind a router asks somebody behind another one: a relay leads to him at first, and soon is not needed."""

from __future__ import annotations

import pytest

from tests.nat import clients
from tests.nat.namespaces import why_not


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_a_client_and_somebody_at_home_call_each_other_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """In IPv6, too, where each has a firewall that lets in answers."""
    both = "prc", clients.V6
    assert clients.play(both, both), capsys.readouterr().out
    told = capsys.readouterr().out
    assert all(f"| {kind} | {kind} | relayed |" in told for kind in both)
