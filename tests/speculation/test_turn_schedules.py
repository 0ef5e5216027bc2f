"""Random conversations (conversation.py): right texts, whatever a reply before left behind."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from dsdnode.speculation import digest

from .schedules import red_seeds, violations_of

pytestmark = pytest.mark.slow

SEEDS = 60


def test_conversations_on_bad_networks() -> None:
    runs = [violations_of(seed, "conversation") for seed in range(SEEDS)]
    assert [violations for _, violations in runs if violations] == []
    assert sum(made.num_reused for made, _ in runs) > 20 * SEEDS


def test_a_cache_that_is_not_what_the_next_reply_begins_with_would_be_noticed() -> None:
    with patch.object(digest, "same", lambda mine, theirs: True):
        assert red_seeds(range(10), "conversation")
