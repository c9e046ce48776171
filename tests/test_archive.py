"""Search over archived captions: what is found, in which order, and that no query breaks it."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import run_stream
from pipeline.commands.found import moments
from pipeline.errors import WrongUse
from pipeline.messages import Alternative, Caption, Concept, FrameStamp, Region, Word
from pipeline.outputs.lines import caption_line, to_json_line
from pipeline.store import Archive, Found, SearchQuery, Store, StoreError
from pipeline.store.archive import fts_query
from pipeline.store.evidence import packed_evidence, with_evidence

START = datetime(2026, 1, 2, tzinfo=timezone.utc)
TEXTS = {
    "lobby-1": ["two men are fighting in a lobby", "a man walks with a dog", "a red car is parked"],
    "lobby-2": ["a man fights with another man", "a motorcycle passes by"],
    "gate": ["a house is on fire", "a fire truck stands at the gate"],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "store.sqlite3"
    store = Store(path)
    store.record(
        state={"recording:gate": "/footage/gate.mp4"},
        captions=[
            Caption(FrameStamp(camera, n, START + timedelta(hours=n), 0, n * 1.5), text, -1.0)
            for camera, texts in TEXTS.items()
            for n, text in enumerate(texts)
        ],
    )
    store.close()
    return path


def texts(path: Path, text: str, **more: object) -> set[str]:
    archive = Archive(path)
    try:
        return {found.text for found in archive.search(SearchQuery(text, **more))}  # type: ignore[arg-type]
    finally:
        archive.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("fight", {TEXTS["lobby-1"][0], TEXTS["lobby-2"][0]}),
        ("man fighting", {TEXTS["lobby-2"][0]}),
        ('"a fire truck"', {TEXTS["gate"][1]}),
        ("fire -truck", {TEXTS["gate"][0]}),
        ("motor*", {TEXTS["lobby-2"][1]}),
        ("dog OR motorcycle", {TEXTS["lobby-1"][1], TEXTS["lobby-2"][1]}),
        ("unicorn", set()),
    ],
)
def test_words_phrases_prefixes_and_what_must_not_occur(path: Path, query: str, expected: set[str]):
    assert texts(path, query) == expected


def test_camera_and_time_narrow_the_search(path: Path):
    assert texts(path, "man", camera="lobby-2") == {TEXTS["lobby-2"][0]}
    assert texts(path, "fight", camera="lobby*") == texts(path, "fight")
    assert texts(path, "a", camera="nowhere") == set()
    late = START + timedelta(minutes=30)
    assert texts(path, "fire", since=late) == {TEXTS["gate"][1]}
    assert texts(path, "fire", until=late) == {TEXTS["gate"][0]}
    other_zone = late.astimezone(timezone(timedelta(hours=9)))
    assert texts(path, "fire", since=other_zone) == {TEXTS["gate"][1]}


def test_the_closest_match_comes_first_and_is_marked(path: Path):
    archive = Archive(path)
    first, second = archive.search(SearchQuery("fire"))
    assert "[fire]" in first.snippet
    assert first.recording == Path("/footage/gate.mp4")
    assert first.media_time_s == 0.0
    assert {first.text, second.text} == set(TEXTS["gate"])
    assert archive.search(SearchQuery("fire", limit=1)) == [first]
    assert archive.cameras() == sorted(TEXTS)
    archive.close()


@given(st.text(max_size=40))
def test_no_query_is_a_syntax_error(path: Path, text: str):
    archive = Archive(path)
    try:
        archive.search(SearchQuery(text))
    except ValueError as error:
        assert "no word to look for" in str(error)
    finally:
        archive.close()


def test_a_search_sees_what_a_running_writer_has_added(path: Path, tmp_path: Path):
    store = Store(tmp_path / "s.sqlite3")
    archive = Archive(tmp_path / "s.sqlite3")
    assert archive.search(SearchQuery("zebra")) == []
    store.record(captions=[Caption(FrameStamp("zoo", 0, START, 0, None), "a zebra runs", -1.0)])
    assert [found.text for found in archive.search(SearchQuery("zebras"))] == ["a zebra runs"]
    archive.close()
    store.close()


def test_what_is_no_store_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="no store there"):
        Archive(tmp_path / "nothing")
    (tmp_path / "text").write_text("no database at all, but a text of some length\n" * 50)
    with pytest.raises(StoreError, match="cannot be searched"):
        Archive(tmp_path / "text")


words = st.text(st.characters(codec=None), max_size=9)
shares = st.integers(0, 10**6).map(lambda millionths: millionths / 10**6)
regions = st.none() | st.builds(Region, shares, shares, shares, shares)


@given(
    st.lists(st.tuples(words, shares), max_size=4),
    st.lists(st.tuples(words, shares), max_size=3),
    st.dictionaries(words, st.builds(Concept, shares, regions), max_size=3),
    st.dictionaries(words, shares, max_size=2),
    st.booleans(),
)
def test_evidence_comes_back_as_it_was(
    said: list[tuple[str, float]],
    beams: list[tuple[str, float]],
    concepts: dict[str, Concept],
    scores: dict[str, float],
    finished: bool,
):
    caption = Caption(
        FrameStamp("gate", 1, START, 2, 3.0), "a fire", -1.5,
        tuple(Word(*word) for word in said), tuple(Alternative(*beam) for beam in beams),
        "m-0123", concepts, scores, finished,
    )  # fmt: skip
    bare = Caption(caption.stamp, caption.text, caption.log_probability)
    assert with_evidence(bare, packed_evidence(caption)) == caption


def smoke(n: int, probability: float, camera: str = "gate") -> Caption:
    """A caption that says nothing of a fire, of which the model may be sure all the same."""
    stamp = FrameStamp(camera, n, START + timedelta(seconds=n), 0, float(n))
    concepts = {"fire": Concept(probability, Region(0.1, 0.2, 0.3, 0.4))}
    return Caption(stamp, "a yard", -2.0, (Word("yard", 0.5),), (), "m-0123", concepts)


RULES = """
rules:
  - name: burning
    severity: critical
    keywords: [fire]
    evidence: {or_concepts: {fire: 0.5}}
"""


def invoked(*arguments: object) -> Any:
    return CliRunner().invoke(run_stream.app, list(map(str, arguments)))


def test_rules_test_reads_the_store_as_it_reads_the_jsonl(tmp_path: Path):
    captions = [smoke(n, 0.9 if n in (3, 4) else 0.1) for n in range(9)]
    lines = [to_json_line(caption_line(each)) for each in captions]
    (tmp_path / "gate.jsonl").write_text("".join(lines))
    (tmp_path / "rules.yaml").write_text(RULES)
    store = Store(tmp_path / "watchword.sqlite3")
    store.record(captions=[*captions, smoke(3, 0.9, "yard")])
    store.close()

    def replayed(file: Path, *more: str) -> list[Any]:
        rules = ("--rules", tmp_path / "rules.yaml")
        done = invoked("rules", "test", "--captions", file, *rules, *more)
        assert done.exit_code == 0
        return [json.loads(line) for line in done.stdout.splitlines()]

    expected = replayed(tmp_path / "gate.jsonl")
    assert [event["data"]["rule"] for event in expected][:1] == ["burning"]
    assert replayed(tmp_path, "--camera", "gate") == expected, "the folder that holds the store"
    store_file = tmp_path / "watchword.sqlite3"
    assert replayed(store_file, "--camera", "ga*", "--from", "2026-01-02") == expected
    assert len(replayed(store_file)) > len(expected), "the other camera's too"
    for file in (store_file, tmp_path / "gate.jsonl"):
        assert replayed(file, "--from", "2026-01-03T00:00:00Z") == []
        assert replayed(file, "--camera", "door") == []


def test_captions_of_an_older_version_are_read_without_evidence(tmp_path: Path):
    path = tmp_path / "s.sqlite3"
    store = Store(path)
    store.record(captions=[smoke(0, 0.9)])
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE caption_evidence")
    connection.close()
    archive = Archive(path)
    assert [(each.text, each.concepts) for each in archive.captions()] == [("a yard", {})]
    archive.close()


def test_a_recording_that_is_watched_again_is_found_as_it_is_told_now(tmp_path: Path):
    path, stamp = tmp_path / "s.sqlite3", FrameStamp("zoo", 0, START, 0, 0.0)
    store = Store(path)
    for text in ("a zebra runs", "a striped horse runs", "a striped horse runs"):
        store.record(captions=[Caption(stamp, text, -1.0, model=text[2:7])])
    store.close()
    assert texts(path, "zebra") == set()
    assert texts(path, "horse") == {"a striped horse runs"}
    archive = Archive(path)
    assert [each.model for each in archive.captions()] == ["strip"]
    archive.close()


def test_a_store_is_given_by_its_folder_too_and_tells_times_of_the_recorders_clock(
    tmp_path: Path,
):
    store = Store(tmp_path / "watchword.sqlite3")
    zone = "Asia/Tokyo"  # nine hours ahead, and no summer time
    store.record(captions=[smoke(0, 0.1), smoke(0, 0.1, "yard")], state={"zone:gate": zone})
    store.close()
    searched = ("search", "yard", "--store", tmp_path, "--camera", "gate")
    assert "2026-01-02 09:00:00  gate" in invoked(*searched).output
    assert "gate" in invoked(*searched, "--from", "2026-01-02 09:00").output
    assert "nothing in" in invoked(*searched, "--from", "2026-01-02 09:01").output
    told = json.loads(invoked(*searched, "--json").stdout)
    assert told["time"] == "2026-01-02T00:00:00.000000Z"
    archive = Archive(tmp_path / "watchword.sqlite3")
    assert (archive.time_zone("gate"), archive.time_zone("*")) == (zone, None), "not one for all"
    archive.close()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 90), st.booleans()), unique=True))
def test_moments_hold_each_caption_once_and_the_best_stay_first(
    hits: list[tuple[str, int, bool]],
):
    found = [
        Found(
            camera, START + timedelta(seconds=at), None, "a red car" if red else "a dog", "", None
        )
        for camera, at, red in hits
    ]
    joined = moments(found)
    assert sum(each.captions for each in joined) == len(found)
    places = [found.index(each.best) for each in joined]
    assert places == sorted(places) and places[:1] == [0][: len(found)]
    assert all(each.first <= each.best.time <= each.last for each in joined)


def test_a_caption_said_for_long_is_one_moment_and_another_text_or_time_is_not():
    def at(second: int, text: str = "a red car is parked", camera: str = "gate") -> Found:
        return Found(camera, START + timedelta(seconds=second), None, text, text, None)

    found = [at(2), at(0), at(1), at(11), at(40), at(3, "two men talk"), at(2, camera="yard")]
    told = [(each.best.camera, each.captions, each.last - each.first) for each in moments(found)]
    assert told == [
        ("gate", 4, timedelta(seconds=11)),
        ("gate", 1, timedelta(0)),
        ("gate", 1, timedelta(0)),
        ("yard", 1, timedelta(0)),
    ]


def test_without_a_screen_nothing_is_played_and_the_place_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda _: "/bin/false")
    (tmp_path / "gate.mp4").touch()
    store = Store(tmp_path / "watchword.sqlite3")
    store.record(captions=[smoke(9, 0.1)], state={"recording:gate": str(tmp_path / "gate.mp4")})
    store.close()
    done = invoked("search", "yard", "--store", tmp_path, "--play")
    assert isinstance(done.exception, WrongUse)
    assert "no screen" in str(done.exception) and "at 7.0 s" in str(done.exception)


def test_quotes_cannot_leave_their_string():
    assert fts_query('fire" OR camera:"x') == '"fire" AND " OR camera:" AND "x"'


def test_the_command_prints_json_and_people_s_lines(path: Path):
    runner = CliRunner()
    done = runner.invoke(run_stream.app, ["search", "fire truck", "--store", str(path), "--json"])
    assert done.exit_code == 0
    line = json.loads(done.stdout)
    assert (line["camera"], line["media_time_s"]) == ("gate", 1.5)
    assert line["recording"] == "/footage/gate.mp4"
    shown = runner.invoke(run_stream.app, ["search", "fire truck", "--store", str(path)])
    assert "gate  0:00:01 a fire truck stands" in shown.stdout


def played(
    path: Path, monkeypatch: pytest.MonkeyPatch, browser: bool = True
) -> tuple[int, str, list[str]]:
    """Exit code, what is said, and pages opened by ``search --play``."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda page: opened.append(page) or browser)
    done = CliRunner().invoke(run_stream.app, ["search", "zebra", "--store", str(path), "--play"])
    return done.exit_code, done.output, opened


def test_play_opens_the_report_that_tells_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pipeline.outputs import CameraSource, OutputSet  # noqa: PLC0415 - for this test alone

    path, report = tmp_path / "s.sqlite3", tmp_path / "report.html"
    store, outputs = Store(path), OutputSet(tmp_path, [CameraSource("zoo")], ("report",))
    seen = Caption(FrameStamp("zoo", 0, START, 0, None), "a zebra runs", -1.0)
    outputs.caption(seen)
    outputs.close()
    store.record(captions=[seen], state={"report:zoo": str(report)})
    store.close()
    code, _, opened = played(path, monkeypatch)
    assert (code, opened) == (0, [f"{report.as_uri()}#at=zoo@2026-01-02T00%3A00%3A00%2B00%3A00"])
    code, _, _ = played(path, monkeypatch, browser=False)
    assert code != 0, "a live camera has no recording to fall back on"
    other = OutputSet(tmp_path, [CameraSource("zoo")], ("report",))
    other.caption(Caption(FrameStamp("zoo", 0, START + timedelta(days=1), 0, None), "a dog", -1.0))
    other.close()
    code, _, opened = played(path, monkeypatch)
    assert (code != 0, opened) == (True, []), "the report was written anew and tells of another day"
