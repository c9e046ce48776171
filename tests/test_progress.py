"""How far all recordings are: what is known, what is guessed, what people are told of it."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.outputs.progress import TotalProgress
from pipeline.outputs.terminal import CameraInfo, TerminalView

RECORDINGS = st.lists(
    st.tuples(st.integers(1, 10**10), st.floats(0.1, 1e5), st.floats(0.0, 1.0)), min_size=1
)


@given(RECORDINGS)
def test_when_all_lengths_are_known_it_is_their_sum(made: list[tuple[int, float, float]]) -> None:
    total = TotalProgress({str(n): size for n, (size, _, _) in enumerate(made)})
    for n, (_, duration_s, share) in enumerate(made):
        total.move(str(n), share * duration_s, duration_s)
    now = total.now()
    assert now is not None
    assert now.media_s == pytest.approx(sum(duration for _, duration, _ in made))
    assert now.read_s == pytest.approx(sum(duration * share for _, duration, share in made))


@given(RECORDINGS)
def test_at_the_end_all_is_read(made: list[tuple[int, float, float]]) -> None:
    total = TotalProgress({str(n): size for n, (size, _, _) in enumerate(made)})
    for n, (_, duration_s, share) in enumerate(made):
        total.move(str(n), share * duration_s, duration_s)
        assert total.end(str(n))
        assert not total.end(str(n))
    now = total.now()
    assert now is not None
    assert (now.ended, now.left_s(1.0)) == (len(made), pytest.approx(0.0, abs=1e-6))


def test_what_waits_is_guessed_from_its_size_and_what_was_done_before_is_left_out() -> None:
    total = TotalProgress({"open": 100, "waits": 300, "before": 1000})
    assert total.now() is None
    assert not total.end("before")
    total.move("open", 5.0, 10.0)
    now = total.now()
    assert now is not None
    assert (now.recordings, now.ended, now.read_s, now.media_s) == (3, 1, 5.0, 40.0)
    assert now.left_s(elapsed_s=10.0) == pytest.approx(70.0)


def lines_of(file: io.StringIO) -> list[str]:
    return [line for line in file.getvalue().splitlines() if not line.startswith("watching")]


def test_in_a_pipe_the_total_is_said_now_and_then_and_seldom_in_a_long_run() -> None:
    file, now = io.StringIO(), [0.0]
    cameras = [CameraInfo("a", "a.mp4", size_bytes=10), CameraInfo("b", "b.mp4", size_bytes=30)]
    with TerminalView(Console(file=file, width=80), cameras, clock=lambda: now[0]) as view:
        view.progress("a", 0.0, 100.0)
        now[0] = 10.0
        view.progress("a", 50.0, 100.0)
        assert lines_of(file) == [
            "a: 50% of 01:40, 5.0x, 00:10 left",
            "total (0 of 2 done): 12% of 06:40, 5.0x, 01:10 left",
        ]
        now[0] = 12.0
        view.ended("a")
        assert lines_of(file)[2:] == ["a: finished"]
        now[0] = 20.0
        view.progress("b", 0.0, 300.0)
        now[0] = 31.0
        view.progress("b", 110.0, 300.0)
        assert "b: 37% of 05:00, 10.0x, 00:19 left" in lines_of(file), "it waited for its turn"
        before = len(lines_of(file))
        for second in range(31, 36_000):
            now[0] = float(second)
            view.progress("b", second / 200, 300.0)
    totals = [line for line in lines_of(file)[before:] if line.startswith("total")]
    assert 100 < len(totals) < 500
    assert "\x1b" not in file.getvalue()


def test_on_a_terminal_only_what_is_read_has_a_bar_beside_the_total() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    cameras = [CameraInfo(f"c{n}", f"c{n}.mp4", size_bytes=10) for n in range(40)]
    view = TerminalView(console, cameras)
    for n in range(6):
        view.progress(f"c{n}", 1.0, 10.0)
    for n in range(4):
        view.ended(f"c{n}")
    out = Console(file=io.StringIO(), width=80, height=24)
    with out.capture() as captured:
        out.print(view.drawn())
    text = captured.get()
    assert "total (4 of 40 done)" in text
    bars = [line for line in text.splitlines() if "%" in line]
    assert [line.split()[0] for line in bars] == ["total", "c4", "c5"]
    assert len(text.splitlines()) <= 24
