"""What the documents name is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import run_stream
from pipeline.alerts import Event
from pipeline.config import Config

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_TEST = re.compile(r"`(test_\w+\.py)(?:::(\w+))?`")
_COMMAND = re.compile(r"(?:(?<=bin/)|(?<![/\w]))watchword +([a-z]+)")


def _commands() -> dict[str, Any]:
    """Every command, those of groups as ``GROUP NAME``."""
    found = {}
    for name, command in typer.main.get_group(run_stream.app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner[each] for each in inner} if inner else {name: command}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = [t for t in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in _LINK.findall(index.read_text())}
    assert set((ROOT / "docs").glob("*.md")) - linked == {index}
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_code_are_commands(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = [*re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)]
    code += re.findall(r"`(watchword [^`]+)`", text)
    named = {name for part in code for name in _COMMAND.findall(part)}
    assert named - set(run_stream._COMMANDS) == set()


def test_the_tests_that_stand_for_faults_are_there() -> None:
    named = _TEST.findall((ROOT / "docs" / "faults.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        code = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not test or f"\ndef {test}(" in code, test


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_command_has_an_example_that_it_takes(name: str) -> None:
    examples = re.findall(r"(?m)(?:Examples?: |^)watchword (.+)$", _commands()[name].help or "")
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[: len(name.split())] == name.split()
        _commands()[name].make_context(name, words[len(name.split()) :])


def test_the_unit_is_one_for_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "docs" / "watchword.service").read_text(encoding="utf-8")
    here = tmp_path / "watchword.service"
    here.write_text(unit.replace("/opt/watchword/bin/watchword", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(here)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_container_copies_all_that_the_package_is_made_of() -> None:
    lines = (ROOT / "docs" / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert {"run_stream.py", "pipeline", "models", "configs", "pyproject.toml"} <= copied
    assert all((ROOT / name).exists() for name in copied if not name.startswith(("-", "/")))


def test_the_settings_that_guides_show_are_settings() -> None:
    for name in ("quick-start.md", "deployment.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            Config.model_validate(yaml.safe_load(block))


def test_the_subscriber_of_the_documents_outlives_a_camera_that_goes_offline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    data = {"camera": "lobby", "rule": "fire", "caption": "a fire burns"}
    offline = {"camera": "lobby", "reason": "no new frame"}
    answer = {"camera": "lobby", "rule": "fire", "alert_id": "a1", "by": "ann"}
    events = [
        Event("1", "watchword.alert.started", "10:00", data, "1-1"),
        Event("2", "watchword.camera.offline", "10:01", offline, "1-2"),
        Event("3", "watchword.alert.acknowledged", "10:02", answer, "1-3"),
    ]
    monkeypatch.setattr("pipeline.alerts.subscribe", lambda *_, **__: iter(events))
    text = (ROOT / "docs" / "alerts.md").read_text()
    (example,) = re.findall(
        r"```python\n(from pipeline.alerts import subscribe\n.*?)```", text, re.S
    )
    exec(example, {})
    assert capsys.readouterr().out.splitlines() == [
        "10:00 lobby watchword.alert.started fire a fire burns",
        "10:01 lobby watchword.camera.offline None None",
        "10:02 lobby watchword.alert.acknowledged fire None",
    ]
