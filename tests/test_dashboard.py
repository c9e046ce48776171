"""The Grafana dashboard asks only for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from test_health import NAMES

DASHBOARD = Path(__file__).parent.parent / "docs" / "grafana-dashboard.json"


def test_every_metric_of_the_dashboard_is_served():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = {
        re.sub(r"_(total|bucket|sum|count)$", "", name)
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"watchword_(\w+)", target["expr"])
    }
    assert asked <= NAMES
    assert len(panels) == len({panel["id"] for panel in panels})
