"""A client behind a router asks somebody behind another one: a relay leads to him at first, and soon is not needed."""

from __future__ import annotations

import pytest

from tests.nat import clients
from tests.nat.namespaces import why_not


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("nft")), reason=why_not("nft"))
def test_a_client_and_somebody_at_home_call_each_other_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert clients.main(["prc", "prc"]) == 0, capsys.readouterr().out
    assert "| prc | prc | relayed |" in capsys.readouterr().out
