"""The watch for passwords over the whole run does see one that leaks, wherever it comes out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from planted import ODD_PASSWORD, PASSWORD, PLANTED, needles

TESTS = Path(__file__).parent
LEAKS = {
    "printed": "print(f'opening rtsp://admin:{PASSWORD}@host')",
    "a_piece": "print(ODD_PASSWORD.split('@')[-1])",
    "quoted": "print(quote(ODD_PASSWORD, safe=''))",
    "logged": "logging.getLogger('x').warning('cannot open %s', ODD_PASSWORD)",
    "by_a_child": "os.system('echo $LEAK >&2')",
    "run": "subprocess.run('echo $LEAK', shell=True, capture_output=True, check=True)",
    "swallowed": "print(PASSWORD); capsys.readouterr()",
    "written": "(tmp_path / 'out.jsonl').write_text(json.dumps({'source': ODD_PASSWORD}))",
    "database": "sqlite3.connect(tmp_path / 's.db').executescript(f\"create table t as select '"
    "{PASSWORD}' as a\")",
}
CLEAN = "print('rtsp://***@host'); (tmp_path / 'w.yaml').write_text(PASSWORD)"
_URL_PASSWORD = re.compile(r"://[^/\s'\"]*:([^\s'\"]+)@")
_NAMED = ("PASSWORD", "MARK", "{password}", "${", "***", "554/cam")


def test_a_leak_fails_its_test_and_the_run_and_is_not_repeated(tmp_path: Path) -> None:
    head = (
        "import json, logging, os, sqlite3, subprocess\nfrom urllib.parse import quote\n"
        "from planted import ODD_PASSWORD, PASSWORD\n"
    )
    bodies = {**LEAKS, "clean": CLEAN}
    tests = [f"def test_{name}(tmp_path, capsys):\n    {body}\n" for name, body in bodies.items()]
    # Those that look at what pytest captures must not capture it themselves.
    direct = ("printed", "a_piece", "quoted", "by_a_child")
    text = head + "".join(tests)
    for name in direct:
        text = text.replace(f"test_{name}(tmp_path, capsys)", f"test_{name}(tmp_path)")
    (tmp_path / "test_leaks.py").write_text(text)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "secret_watch", "-p", "no:cacheprovider"),
            *("--show-capture=no", "--basetemp", str(tmp_path / "base"), "test_leaks.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TESTS), "LEAK": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(tmp_path / "base")
    failed = set(re.findall(r"ERROR test_leaks.py::test_(\w+)", done.stdout))
    assert failed == set(LEAKS), done.stdout + done.stderr
    assert done.returncode == 1
    assert f"{len(bodies)} passed, {len(LEAKS)} errors" in done.stdout


def test_every_form_of_an_odd_password_is_looked_for() -> None:
    found = {needle.decode() for needle in needles()}
    assert {"batt3ryXq", "%C3%A9Xq%E6%BC%A2", r"\u00e9Xq\u6f22", PASSWORD, ODD_PASSWORD} <= found


def test_passwords_in_the_tests_are_planted_ones() -> None:
    known = (*PLANTED, *_NAMED)
    for path in set(TESTS.glob("*.py")) - {Path(__file__)}:
        for password in _URL_PASSWORD.findall(path.read_text(encoding="utf-8")):
            assert any(mark in password for mark in known), f"{path.name}: see tests/planted.py"
