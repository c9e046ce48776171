"""Configuration files: the shipped ones load, and every mistake says where it is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from models.runtimes import RUNTIMES
from pipeline.commands.check import problems_in
from pipeline.config import CAMERA_NAME, Config, OutputConfig, Runtime, load_config
from pipeline.errors import WrongUse
from pipeline.outputs import FORMATS
from pipeline.rules import load_rules
from pipeline.yaml_models import ConfigError, Strict

CONFIGS = Path(__file__).parent.parent / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    return str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_loads(path: Path) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if isinstance(data.get("rules"), list):
        assert load_rules(path).rules
    else:
        load_config(path, {})


def test_a_check_knows_the_models_runtimes(tmp_path: Path) -> None:
    assert get_args(Runtime) == RUNTIMES
    assert "openvino" in refused(write(tmp_path, "model: {runtime: openvin}\n"))


def test_default_file_spells_out_the_defaults() -> None:
    path = CONFIGS / "default.yaml"
    assert load_config(path, {}) == Config()
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    expected = Config().model_dump(mode="json")
    assert {name: sorted(section or ()) for name, section in written.items()} == {
        name: sorted(section or ()) for name, section in expected.items()
    }


def test_example_overlays_a_cameras_own_capture() -> None:
    config = load_config(CONFIGS / "cameras.example.yaml", {"LOBBY_PASSWORD": "hunter2"})
    assert config.cameras["lobby"].source == "rtsp://viewer:hunter2@192.0.2.10:554/stream1"
    assert "changeme" in config.cameras["loading-dock"].source
    dock = config.capture_of("loading-dock")
    assert (dock.transport, dock.analysis_fps, dock.read_timeout_s) == ("udp", 5.0, 5.0)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("capture:\n  analysis_fsp: 3\n", 2, "did you mean 'analysis_fps'"),
        ("model:\n  name: a\n  name: b\n", 3, "there twice"),
        ("redis:\n  url: redis://:${SECRET_WORD}@host\n", 2, "SECRET_WORD is not set"),
        ("output:\n  directory: !!python/name:os.system x\n", 2, "not allowed"),
        ("model: [1, 2\n", 2, "not valid YAML"),
        ("- a\n- b\n", 1, "must be a mapping"),
        ("\nmodel:\n  beam_size: many\n", 3, "given: 'many'"),
        ("cameras:\n  lobby: {}\n", 2, "'cameras.lobby.source' is missing"),
        ("cameras:\n  'a/b': {source: x.mp4}\n", 1, "camera name 'a/b' is not usable"),
    ],
)
def test_mistake_names_file_line_and_what_to_do(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    path = write(tmp_path, text)
    message = refused(path)
    assert message.startswith(f"{path}:{line}: ")
    assert said in message


def test_variable_is_filled_in_or_falls_back(tmp_path: Path) -> None:
    path = write(tmp_path, "output:\n  directory: ${PLACE:-here}/files\n")
    assert load_config(path, {}).output.directory == "here/files"
    assert load_config(path, {"PLACE": "there"}).output.directory == "there/files"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  beam_size: 0\nstore:\n  pth: x\n")
    assert len(refused(path).splitlines()) == 2


def test_missing_file_and_directory_are_told(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.yaml")
    assert "is a directory" in refused(tmp_path)


def test_secret_in_a_wrong_value_is_struck_out(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "model:\n  beam_size: rtsp://me:hunter2@host/x\n"))
    assert "hunter2" not in message
    assert "***" in message


@pytest.mark.parametrize(
    "text",
    [
        "mqtt: {host: broker, password: 48151623}",
        "webhooks: {desk: {url: https//hooks.example/48151623}}",
        "webhooks: {desk: {url: 'https://hooks.example/x', secret: 48151623}}",
        "cameras: {door: {source: 'rtsp://me:x 48151623\"y@'}}",
        "cameras: {door: {source: 'rtsp:/me:48151623@10.0.0.5/s'}}",
        "cameras: {door: {source: 'me:48151623@10.0.0.5/s'}}",
        "cameras: {door: {source: 'rtsps:me:48151623@10.0.0.5/s'}}",
        "cameras: {door: {source: ['rtsp//me:48151623@10.0.0.5/s']}}",
        "cameras: {door: 'rtsp//me:48151623@10.0.0.5/s'}",
        "cameras: {'rtsp:/me:48151623@10.0.0.5/s': {source: x.mp4}}",
        "cameras: {door: {source: x.mp4, 'rtsp:/me:48151623@10.0.0.5/s': 1}}",
        "redis: {url: {'redis//me:48151623@10.0.0.5': 1}}",
        "redis: {url: 48151623}",
    ],
)
def test_secret_of_a_wrong_kind_is_not_shown(tmp_path: Path, text: str) -> None:
    message = refused(write(tmp_path, f"{text}\n"))
    assert "config.yaml:1: " in message
    assert "48151623" not in message


@given(st.text(st.characters(codec="utf-8"), max_size=70))
def test_camera_name_is_taken_if_and_only_if_it_is_usable(name: str) -> None:
    data = {"cameras": {name: {"source": "x.mp4"}}}
    if CAMERA_NAME.fullmatch(name):
        assert name in Config.model_validate(data).cameras
    else:
        with pytest.raises(ValueError, match="not usable"):
            Config.model_validate(data)


def test_what_check_accepts_as_a_format_a_run_can_write():
    (items, _) = get_args(OutputConfig.model_fields["formats"].annotation)
    assert set(get_args(items)) == set(FORMATS)


def test_what_only_follows_from_another_error_is_not_told(tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - name: a\n    severity: info\n    keywords: gun\n")
    with pytest.raises(ConfigError) as raised:
        load_rules(rules)
    assert str(raised.value) == (
        f"{rules}:4: rules.0.keywords: must be a list, such as [a, b] (given: 'gun')"
    )


def test_every_default_can_be_read_by_who_writes_the_reference():
    models = [model for model in Strict.__subclasses__() if model.__module__ == Config.__module__]
    assert Config in models
    for model in models:
        for name, field in model.model_fields.items():
            assert field.is_required() or field.default_factory is None, f"{model.__name__}.{name}"


def test_a_configuration_s_cameras_are_its_own():
    one, other = Config(), Config()
    one.cameras["gate"] = None  # type: ignore[assignment]
    assert other.cameras == Config().cameras == {}


def test_check_misses_what_a_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing() -> None:
        raise WrongUse("snapshots.blur_faces needs the face detector; pip install it")

    monkeypatch.setattr("pipeline.commands.check.face_finder", missing)
    file = tmp_path / "site.yaml"
    file.write_text("cameras: {a: {source: '0'}}\nsnapshots:\n  blur_faces: true\n")
    (problem,), _ = problems_in(file)
    assert str(problem).endswith(":3: snapshots.blur_faces needs the face detector; pip install it")
