from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import PASSWORD

from pipeline.frame_clock import MediaClock, Ticks
from pipeline.redaction import redact, redact_url
from pipeline.sources import SourceError, SourceKind, expand_sources, parse_source

PASSWORDS = st.text(alphabet="abzé漢019@:/#?!&=$+%", min_size=1, max_size=12)


@given(PASSWORDS)
def test_any_password_is_passed_on_whole_and_never_shown(password: str):
    text = f"rtsp://admin:{password}@10.0.0.7:8554/stream"
    source = parse_source(text)
    parts = urlsplit(source.location)
    assert (parts.hostname, parts.port, parts.path) == ("10.0.0.7", 8554, "/stream")
    assert unquote_to_bytes(parts.password or "") == unquote_to_bytes(password)
    shown = "rtsp://***@10.0.0.7:8554/stream"
    assert source.display == redact(text) == shown and repr(source) == f"Source(rtsp, {shown!r})"


@given(st.text(alphabet="""ab@:/?# '"<>\n\\é""", min_size=1, max_size=12))
def test_one_url_is_told_without_its_password_whatever_is_in_it(password: str):
    assert redact_url(f"redis://me:{password}@h:6379/0") == "redis://***@h:6379/0"
    text = f"rtsp://admin:{password}@10.0.0.7:8554/stream"
    if not text.isspace():
        assert parse_source(text).display == "rtsp://***@10.0.0.7:8554/stream"


@pytest.mark.parametrize(
    "place",
    [
        "h/user=admin_password={}_channel=1_stream=0.sdp",
        "h/user=admin&password={}&channel=1",
        "h/video?loginuse=admin&loginpas={}",
        "h/video?api_key={}&x=1",
        "h/video?access_token={}#live",
        "h/video?PWD={}",
    ],
)
def test_a_password_in_the_path_or_query_is_struck_out_and_passed_on(place: str):
    source = parse_source(f"rtsp://{place.format(PASSWORD)}")
    assert PASSWORD in source.location
    assert PASSWORD not in source.display
    assert source.display.startswith("rtsp://h/")
    assert PASSWORD not in redact(f"cannot open {source.location}: refused")


@pytest.mark.parametrize(
    "text",
    [
        "concat:a|b",
        "subfile,,start,0,end,0,,:x",
        "data:video/mp4;base64,AA",
        "file:///etc/passwd",
        "pipe:0",
        "tcp://h:1",
        "lavfi:testsrc",
        "",
    ],
)
def test_schemes_that_are_not_listed_are_refused(text: str):
    with pytest.raises(SourceError):
        parse_source(text)


@pytest.mark.parametrize("text", ["rtsp:/h/x", "rtsp:h/x", "RTPS://h/x", "rtps:/h/x"])
def test_an_address_that_is_mistyped_is_told_what_it_should_be(text: str):
    with pytest.raises(SourceError, match="did you mean rtsp://"):
        parse_source(text)


MISTYPED = (
    "rtsp:/{}@10.0.0.5/s",
    "{}@10.0.0.5/stream",
    "rtsps:{}@10.0.0.5/s",
    "rtsp//{}@10.0.0.5/s",
    "//{}@10.0.0.5/s",
    "rtsp//{}*@10.0.0.5/s",
    "door=rtsp//{}@10.0.0.5/s",
    "htp://{}@10.0.0.5/s",
)


@pytest.mark.parametrize("text", MISTYPED)
def test_a_mistyped_address_is_refused_without_its_password(text: str):
    text = text.format(f"admin:{PASSWORD}")
    with pytest.raises(SourceError) as caught:
        expand_sources([text])
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in redact(f"cannot open {text}: refused")
    assert PASSWORD not in redact_url(text)


def test_a_folder_whose_name_looks_like_a_login_is_read(tmp_path: Path):
    folder = tmp_path / "12:30@gate"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"\0video")
    ((name, source),) = expand_sources([str(folder)])
    assert (name, source.location) == ("a", str(folder / "a.mp4"))


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_that_does_not_exist_is_refused(port: int):
    with pytest.raises(SourceError, match=f"no port {port}; ports go from 1 to 65535") as caught:
        parse_source(f"rtsp://admin:{PASSWORD}@h:{port}/x")
    assert PASSWORD not in str(caught.value)
    assert parse_source("rtsp://h:65535/x").live


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [("rtsp://h/cam@1", "h", "/cam@1"), ("rtsp://h:554/cam@1", "h", "/cam@1")],
)
def test_an_at_sign_in_the_path_is_no_password(text: str, host: str, path: str):
    parts = urlsplit(parse_source(text).location)
    assert (parts.hostname, parts.path, parts.username) == (host, path, None)


def test_kinds():
    assert parse_source("0").kind is SourceKind.DEVICE
    assert parse_source("https://h/x.m3u8").live
    assert not parse_source("clip.mp4").live


def test_a_camera_of_this_machine_has_several_names():
    for text in ("2", "/dev/video2", "/dev/../dev/video2"):
        source = parse_source(text)
        assert (source.kind, source.location, source.display) == (
            SourceKind.DEVICE,
            "2",
            "camera 2",
        )
    assert parse_source("/dev/null").kind is SourceKind.FILE


def test_names_are_made_unique_and_globs_opened(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").write_bytes(b"\0video")
    (tmp_path / "a" / "notes.txt").write_text("no video")
    found = expand_sources([f"{tmp_path}/*/*", "door=rtsp://u:hunter2@h:554/x", "rtsp://h/x"])
    assert [name for name, _ in found] == ["clip", "clip-2", "door", "h"]


def test_a_folder_of_videos_is_a_recording_each_and_one_with_pictures_is_one(tmp_path: Path):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for name in ("b.MKV", "a.mp4"):
        (recordings / name).write_bytes(b"\0video")
    (recordings / "notes.txt").write_text("no video")
    found = expand_sources([str(recordings)])
    assert [(name, source.kind) for name, source in found] == [
        ("a", SourceKind.FILE), ("b", SourceKind.FILE)
    ]  # fmt: skip
    with pytest.raises(SourceError, match="gate: one name for 2 recordings"):
        expand_sources([f"gate={recordings}"])
    (recordings / "._a.mp4").write_bytes(b"\0what macOS leaves on a card")
    assert expand_sources([str(recordings)]) == found
    (recordings / "still.jpg").write_bytes(b"\0jpeg")
    with pytest.raises(SourceError, match=r"holds videos and pictures; .*\*\.mp4"):
        expand_sources([str(recordings)])
    assert [name for name, _ in expand_sources([f"{recordings}/*.mp4"])] == ["a"]
    for name in ("b.MKV", "a.mp4"):
        (recordings / name).unlink()
    assert [source.kind for _, source in expand_sources([str(recordings)])] == [SourceKind.FOLDER]


def test_a_folder_of_folders_is_refused_with_the_glob_that_finds_their_videos(tmp_path: Path):
    day = tmp_path / "2026-11-23"
    day.mkdir()
    (day / "a.mp4").write_bytes(b"\0video")
    with pytest.raises(SourceError, match=r"'([^']*\*\*/\*\.mp4)'$") as refused:
        expand_sources([str(tmp_path)])
    pattern = str(refused.value).split("'")[1]
    assert [name for name, _ in expand_sources([pattern])] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", "schön, aber kein Video\n".encode(), "is text"),
        ("folder", "folder", "without images"),
    ],
)
def test_what_cannot_be_a_video_is_refused_with_one_line(
    tmp_path: Path, name: str, content: bytes | str | None, said: str
):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        expand_sources([str(path)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "ga te", "Tür", "-gate", "g" * 65])
def test_what_cannot_name_a_camera_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    for source in ("a.mp4", f"rtsp://user:{PASSWORD}@camera/live"):
        with pytest.raises(SourceError, match="cannot name a camera: a name is") as caught:
            expand_sources([f"{name}={source}"])
        assert PASSWORD not in str(caught.value)
    Path(f"{name}=a.mp4").write_bytes(b"\0video")  # a file that is called so
    assert len(expand_sources([f"{name}=a.mp4"])) == 1
    assert len(expand_sources([f"{name}=*.mp4"])) == 1


def test_a_name_without_a_source_is_told():
    with pytest.raises(SourceError, match="gate=: no source behind the '='"):
        expand_sources(["gate="])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 120))
def test_media_time_always_increases(positions: list[float], fps: float):
    clock = MediaClock(fps)
    times = [clock.advance(position) for position in positions]
    assert times == sorted(set(times))


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_sampler_looks_at_the_asked_rate(fps: int, analysis_fps: int):
    sampler = Ticks(analysis_fps)
    seen = sum(sampler.take(k / fps) for k in range(fps * 20))
    assert abs(seen - 20 * min(fps, analysis_fps)) <= 1


def test_all_files_of_a_folder_that_cannot_be_used_are_told_at_once(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mp4").write_text("no video at all, but a text")
    with pytest.raises(SourceError) as told:
        expand_sources([str(tmp_path)])
    first, second = str(told.value).splitlines()
    assert "a.mp4: is empty" in first
    assert "b.mp4: is text" in second
