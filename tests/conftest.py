"""Fixtures more than one test file uses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.alerts import EmbeddedRedis
from pipeline.store import Store

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs behind it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs under test inherit it

pytest_plugins = ["secret_watch"]

# A busy machine is no fault of the code: properties are checked, not times.
settings.register_profile("watchword", deadline=None)
settings.load_profile("watchword")


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A real server of the test's own."""
    with EmbeddedRedis() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store on disk."""
    opened = Store(tmp_path / "store.db")
    yield opened
    opened.close()
