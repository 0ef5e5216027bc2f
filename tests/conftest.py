"""For every test: time limits are pytest-timeout's; hypothesis would call a busy machine a failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")
