"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def offenders(folder: str, forbidden: str, except_below: str = "-") -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(except_below)
        for name in imported(path)
        if name == forbidden or name.startswith(f"{forbidden}.")
    ]


def test_models_know_nothing_of_the_pipeline():
    assert offenders("models", "pipeline") == []


def test_the_pipeline_names_no_model():
    assert offenders("pipeline", "models") == []


def test_rules_know_nothing_of_the_configuration():
    assert offenders("pipeline/rules", "pipeline.config") == []


def test_nothing_that_serves_imports_training():
    trainers = ("models/training", "models/evaluation", "models/evaluate.py")
    for room in ("models.training", "models.evaluation", "models.evaluate"):
        assert offenders("pipeline", room) == []
        assert [o for o in offenders("models", room) if not o.startswith(trainers)] == []


def test_no_pipeline_file_imports_torch():
    assert offenders("pipeline", "torch") == []


def test_the_main_process_stays_light():
    code = (
        "import run_stream, pipeline.assembly, sys;"
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there_and_bring_no_torch():
    code = (
        "import sys, pipeline; light = 'redis' not in sys.modules;"
        "from pipeline import *;"
        "print(light, 'torch' in sys.modules, all(n in globals() for n in pipeline.__all__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True False True"


def test_the_words_and_commands_of_models_bring_no_torch():
    code = "import models, models.wording, models.commands, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
