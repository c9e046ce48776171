"""A recording of any length, made of short clips by ffmpeg: encoded once, then repeated."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["VIDEOS", "ffmpeg", "long_recording"]

VIDEOS = Path(__file__).parent.parent.parent / "shared" / "data" / "videos"


def long_recording(
    folder: Path, clips: Sequence[Path], seconds: float, size: tuple[int, int], fps: int = 25
) -> Path:
    """Make ``seconds`` of H.264 video, one clip after the other and then from the first again.

    Pictures are scaled to ``size`` (width, height) with their shape kept and black bars beside.

    Raises:
        SystemExit: There is no clip.
        subprocess.CalledProcessError: ffmpeg failed; it has said why on stderr.

    """
    if not clips:
        raise SystemExit("no clips to make a recording of; give a folder that has some")
    width, height = size
    fit = (
        f"scale={width}:{height}:force_original_aspect_ratio=decrease,"
        f"pad={width}:{height}:(ow-iw)/2:(oh-ih)/2,setsar=1,fps={fps},format=yuv420p"
    )
    inputs = [part for clip in clips for part in ("-i", str(clip))]
    scaled = "".join(f"[{n}:v]{fit}[v{n}];" for n in range(len(clips)))
    joined = "".join(f"[v{n}]" for n in range(len(clips)))
    once, whole = folder / "once.mp4", folder / "recording.mp4"
    graph = f"{scaled}{joined}concat=n={len(clips)}[out]"
    length = ["-t", str(seconds)]
    encode = [*length, "-c:v", "libx264", "-preset", "veryfast", "-g", str(2 * fps)]
    ffmpeg([*inputs, "-filter_complex", graph, "-map", "[out]", *encode, str(once)])
    ffmpeg(["-stream_loop", "-1", "-i", str(once), *length, "-c", "copy", str(whole)])
    return whole


def ffmpeg(arguments: Sequence[str]) -> None:
    """Run ffmpeg.

    Raises:
        subprocess.CalledProcessError: It failed; it has said why on stderr.

    """
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments]
    subprocess.run(command, check=True)
