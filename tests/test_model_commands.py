"""``models list``, ``show`` and ``audit`` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import run_stream
from models.audit import AuditError, captions_in
from models.wording import FORBIDDEN_WORDS


def lines_of(*arguments: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(run_stream.app, ["models", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        run_stream.main(["models", *arguments])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_all_kinds_are_listed_with_names_that_a_training_takes() -> None:
    listed = lines_of("list")
    names = {kind: {i["name"] for i in listed if i["kind"] == kind} for kind in ("fusion", "cell")}
    assert {"additive", "adaptive"} <= names["fusion"] and "lstm" in names["cell"]
    encoders = {item["name"] for item in listed if item["kind"] == "encoder"}
    assert {"tf_efficientnet_lite0", "torchvision/resnet50"} <= encoders


def test_a_filter_leaves_what_fits_and_a_long_list_is_shortened() -> None:
    found = lines_of("list", "--kind", "encoder", "--filter", "torchvision/vgg*")
    assert found and all(str(item["name"]).startswith("torchvision/vgg") for item in found)
    plain = CliRunner().invoke(run_stream.app, ["models", "list"]).stdout
    assert len(plain.splitlines()) < 60 and "--kind encoder" in plain


def test_every_listed_checkpoint_has_a_card_and_a_configuration() -> None:
    names = [str(item["name"]) for item in lines_of("list", "--kind", "checkpoint")]
    assert "default" in names
    for name in names:
        (about,) = lines_of("show", name)
        assert str(about["id"]).startswith(f"{name}-{str(about['sha256'])[:12]}-")
        shown = CliRunner().invoke(run_stream.app, ["models", "show", name])
        assert shown.exit_code == 0
        assert "odel card" in shown.stdout and "decoder.hidden_size: " in shown.stdout


def test_a_model_that_is_not_there_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert "default" in refused(capsys, "show", "nothing")


def test_the_audit_counts_in_data_sets_and_in_what_a_run_wrote(tmp_path: Path) -> None:
    for name in ("street", "shop"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "captions.jsonl").write_text(
            json.dumps({"captions": ["a fat man", "a black dog"], "image": "a.jpg"}) + "\n"
        )
    run = tmp_path / "lobby.jsonl"
    run.write_text(
        json.dumps({"type": "caption", "text": "a Fat white man"})
        + "\n\n"
        + json.dumps({"type": "summary", "error": None})
    )
    assert lines_of("audit", str(tmp_path)) == [
        {"captions": 4, "with_words": 2, "words": {"fat": 2}}
    ]
    assert lines_of("audit", str(run)) == [
        {"captions": 1, "with_words": 1, "words": {"fat": 1, "white": 1}}
    ]


@given(st.lists(st.sampled_from(["man", "dog", *sorted(FORBIDDEN_WORDS)]), max_size=12))
def test_every_forbidden_word_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    file = tmp_path_factory.mktemp("audit") / "a.jsonl"
    file.write_text("".join(json.dumps({"caption": f"a {word} sits"}) + "\n" for word in words))
    (counted,) = lines_of("audit", str(file))
    assert counted["captions"] == len(words)
    assert counted["with_words"] == sum(word in FORBIDDEN_WORDS for word in words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{\n", ":1: no JSON"),
        (b"[]\n", ":1: must be an object"),
        (b'{"text": "a dog"}\n{"captions": [1]}\n', ":2: needs captions"),
        (b"\xff\n", "not text in UTF-8"),
    ],
)
def test_captions_that_cannot_be_read_are_told_with_their_line(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "captions.jsonl").write_bytes(content)
    with pytest.raises(AuditError, match=said):
        list(captions_in(tmp_path))


def test_an_audit_of_nothing_is_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be read" in refused(capsys, "audit", str(tmp_path / "none.jsonl"))
    assert "no captions.jsonl" in refused(capsys, "audit", str(tmp_path))


@pytest.mark.parametrize("package", ["tqdm", "pycocoevalcap"])
@pytest.mark.parametrize("program", ["models.evaluate", "models.training"])
def test_a_program_without_its_extra_says_what_to_install(program: str, package: str) -> None:
    code = (
        f"import runpy, sys; sys.modules[{package!r}] = None;"
        f"runpy.run_module({program!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"python -m {program} needs" in done.stderr
    assert package in done.stderr
    assert "pip install 'watchword[train]'" in done.stderr
    assert done.stderr.count("\n") == 1
