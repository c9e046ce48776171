"""The pipeline: capture, batching, captioning, rules, alerts and outputs, joined by queues.

``from pipeline import run, subscribe, load_config`` is what programs use. The names are looked up
when they are first used, so that a grabber or captioner child loads only what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.alerts import Event, subscribe, subscribe_async
    from pipeline.api import run
    from pipeline.config import Config, load_config

__all__ = ["Config", "Event", "load_config", "run", "subscribe", "subscribe_async"]

_HOMES = {
    "Config": "pipeline.config",
    "Event": "pipeline.alerts",
    "load_config": "pipeline.config",
    "run": "pipeline.api",
    "subscribe": "pipeline.alerts",
    "subscribe_async": "pipeline.alerts",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
