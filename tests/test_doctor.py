"""``doctor`` on this machine, and on one that is not well."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

import run_stream


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    done = CliRunner().invoke(run_stream.app, ["doctor", "--json", *arguments])
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.exit_code, {line["what"]: line for line in lines}


def test_doctor_tells_what_works_and_what_does_not(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text(
        "redis: {url: 'redis://:secret@127.0.0.1:1/0', timeout_s: 0.2}\nmodel: {name: none}\n"
        f"store: {{path: '{tmp_path}/new/store.sqlite3'}}\n"
    )
    code, found = findings("--config", str(config))
    assert code == 1
    assert [what for what, finding in found.items() if not finding["good"]] == ["redis", "model"]
    assert "secret" not in str(found) and "no model" in str(found["model"]["says"])
    assert not (tmp_path / "new").exists(), "it left something behind"


def test_doctor_captions_with_the_shipped_model(tmp_path: Path) -> None:
    config = tmp_path / "site.yaml"
    config.write_text("model: {device: cpu, runtime: eager}\n")
    code, found = findings("--config", str(config))
    assert (code, {finding["good"] for finding in found.values()}) == (0, {True})
    assert "ms a captioned frame" in str(found["model"]["says"])
