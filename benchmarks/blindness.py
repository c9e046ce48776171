"""How well a blind camera is told from one that sees, on single pictures.

    python -m benchmarks.blindness FOLDER_OR_TAR [...]

Real pictures must not be called blind; the same pictures, spoilt, must be. Prints one line a case
with the share called blind and a 95 % Wilson interval. An event needs such pictures for seconds.
"""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.pictures import measure
from pipeline.sight import blindness_of

Grey = NDArray[np.uint8]
_RANDOM = np.random.default_rng(7)
_SQUARE_PIXELS = 224


def pictures(source: Path) -> Iterator[Grey]:
    if source.is_dir():
        datas = (path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file())
    else:
        datas = _members(source)
    for data in datas:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if image is not None:
            size = (_SQUARE_PIXELS, _SQUARE_PIXELS)
            yield cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _members(archive: Path) -> Iterator[bytes]:
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                yield file.read()


def compressed(image: Grey) -> Grey:
    noisy = np.clip(image + _RANDOM.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 70])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def blurred(sigma: float) -> Callable[[Grey], Grey]:
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


CASES: dict[str, Callable[[Grey], Grey]] = {
    "as they are": lambda image: image,
    "sensor noise 2, JPEG quality 70": compressed,
    "a quarter of the light": lambda image: (image // 4).astype(np.uint8),
    "blurred, sigma 4 of 224 pixels": blurred(4),
    "blurred, sigma 8 of 224 pixels": blurred(8),
    "blurred, sigma 8, then noise and JPEG": lambda image: compressed(blurred(8)(image)),
    "a twentieth of the light": lambda image: (image // 20).astype(np.uint8),
    "covered: a twentieth of the contrast": lambda image: (100 + image // 20).astype(np.uint8),
}


def interval(count: int, total: int) -> tuple[float, float]:
    z, share = 1.96, count / total
    middle = share + z * z / (2 * total)
    reach = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    scale = 1 + z * z / total
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def main() -> None:
    cv2.setNumThreads(1)
    for source in map(Path, sys.argv[1:]):
        counts, total = dict.fromkeys(CASES, 0), 0
        for image in pictures(source):
            total += 1
            for name, spoil in CASES.items():
                counts[name] += blindness_of(measure(spoil(image))) is not None
        print(f"{source.parent.name}/{source.name}: {total} pictures called blind")
        for name, count in counts.items():
            low, high = interval(count, total)
            print(f"  {name:40s} {count / total:7.2%}  ({low:.2%} .. {high:.2%})")


if __name__ == "__main__":
    main()
