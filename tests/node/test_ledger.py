"""What a volunteer's machine gave, by day, as its user is told of it: after restarts, years and a broken disk."""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dsdnode.client.client import GenerateRequest
from dsdnode.config import NodeConfig
from dsdnode.node.admission import Admission
from dsdnode.node.ledger import MAX_DAYS, Given, Ledger
from dsdnode.node.volunteering import Volunteering
from tests.node.swarm import FakeSwarm, tokens_of
from tests.node.test_drafter_host import story

TODAY = date(2026, 12, 1)
ONE = Given(1, 1, 10, 20)


def ledger(path: Path) -> Ledger:
    made = Ledger(path)
    made.read()
    return made


def test_sam_s_record_goes_on_after_a_restart_and_years_stay_in_the_sum(tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    one = ledger(path)
    for ago in range(2 * MAX_DAYS, -1, -1):
        if ago % 100 == 0:
            one.write()
            one = ledger(path)
        one.add(TODAY - timedelta(days=ago), ONE)
    one.write()
    told = ledger(path).told(TODAY)
    assert told.today == ONE
    assert (told.month.tokens, told.all.tokens) == (30, 2 * MAX_DAYS + 1)
    assert told.all.received_bytes == 20 * (2 * MAX_DAYS + 1)
    assert len(json.loads(path.read_bytes())["days"]) == MAX_DAYS
    assert ledger(path).told(TODAY + timedelta(days=29)).month == ONE
    assert ledger(path).told(TODAY + timedelta(days=30)).month == Given()


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "given.json")
    one = ledger(tmp_path / "given.json")
    one.add(TODAY, ONE)
    one.write()
    assert one.told(TODAY).all == ONE


@pytest.mark.parametrize(
    "broken", [b"", b"{", b'{"days": {"yesterday": {}}}', b'{"days": {"2026-12-01": {"tokens": "many"}}}', b"[" * 10**6]
)
def test_a_record_that_is_broken_is_passed_over_in_words(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "given.json"
    path.write_bytes(broken)
    with capture_logs() as logs:
        one = ledger(path)
    assert "cannot be read" in logs[0]["event"]
    one.add(TODAY, ONE)
    one.write()
    assert ledger(path).told(TODAY).all == ONE


def test_a_disk_that_takes_nothing_costs_the_record_alone(tmp_path: Path) -> None:
    one = Ledger(tmp_path / "gone" / "given.json")
    one.add(TODAY, ONE)
    with capture_logs() as logs:
        one.write()
    assert "cannot be written" in logs[0]["event"]
    assert one.told(TODAY).today == ONE


async def test_what_was_given_before_midnight_is_yesterday_s(tmp_path: Path) -> None:
    counted, now = [Given()], [datetime(2026, 11, 30, 23, 59, tzinfo=UTC)]
    one = Volunteering(NodeConfig(data_dir=tmp_path), Admission(), lambda: None, lambda: counted[0], now=lambda: now[0])
    one.start()
    counted[0] = Given(5, 1, 100, 200)
    assert one.given().today.tokens == 5
    now[0] = datetime(2026, 12, 1, 0, 1, tzinfo=UTC)
    counted[0] = Given(7, 2, 100, 200)
    told = one.given()
    assert told is not None
    assert (told.today, told.month) == (Given(2, 1), Given(7, 2, 100, 200))
    await one.close()
    assert ledger(tmp_path / "given.json").told(TODAY).all == Given(7, 2, 100, 200)


def test_sam_s_part_of_alice_s_reply_is_in_his_record(tmp_path: Path) -> None:
    async def tell(swarm: FakeSwarm) -> None:
        sam = await swarm.add("sam", layers=(0, 4))
        dora = await swarm.add("dora", drafts=True)
        ann = await swarm.add("ann")
        for _ in range(2):
            await tokens_of(await swarm.client(), GenerateRequest(prompt_tokens=(5, 17, 42, 8), max_tokens=60))
        given = [member.node.status().given for member in (sam, dora, ann)]
        assert [one.today.replies for one in given if one] == [2, 2, 0]
        tokens = [one.today.tokens for one in given if one]
        assert tokens[0] >= 2 * (3 + 60)
        assert tokens[1] > 0
        assert tokens[2] == 0
        sent = [one.today.sent_bytes for one in given if one]
        assert all(num > 0 for num in sent)

    story(tmp_path, tell)
