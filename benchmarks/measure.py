"""Contenders side by side: interleaved rounds, CPU and wall time, where and with what."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "Contender",
    "Timing",
    "environment",
    "interleave",
    "print_environment",
    "print_table",
    "print_wall_table",
    "write_json",
]

_PACKAGES = (
    *("torch", "torchvision", "timm", "openvino", "onnxruntime", "transformers"),
    *("opencv-python", "opencv-python-headless", "numpy"),
)


@dataclass(frozen=True)
class Contender:
    """Something to time: ``run()`` does ``items`` items."""

    name: str
    run: Callable[[], object]
    items: int = 1


@dataclass
class Timing:
    """Milliseconds an item, one value a round; CPU counts this process and ended children."""

    name: str
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)

    @property
    def least_ms(self) -> float:
        """Least CPU time of all rounds: what the work costs when nothing disturbs it."""
        return min(self.cpu_ms)

    @property
    def median_ms(self) -> float:
        """Median CPU time of all rounds."""
        return statistics.median(self.cpu_ms)


def interleave(
    contenders: Sequence[Contender], rounds: int = 7, warm_up: bool = True
) -> dict[str, Timing]:
    """Time each contender once a round, in turn, after one untimed round if ``warm_up``."""
    timings = {contender.name: Timing(contender.name) for contender in contenders}
    for number in range(0 if warm_up else 1, rounds + 1):
        for contender in contenders:
            cpu_s, wall_s = _cpu_s(), time.perf_counter()
            contender.run()
            cpu_s, wall_s = _cpu_s() - cpu_s, time.perf_counter() - wall_s
            if number:
                timings[contender.name].cpu_ms.append(1e3 * cpu_s / contender.items)
                timings[contender.name].wall_ms.append(1e3 * wall_s / contender.items)
        sys.stderr.write(f"round {number} of {rounds}\n")
    return timings


def _cpu_s() -> float:
    """User and system seconds of this process and of its children that have ended."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, both))


def environment() -> dict[str, Any]:
    """Where and with what: processor, graphics device, cores, load, versions."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": _device_name(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": os.getloadavg(),
        "threads": os.environ.get("OMP_NUM_THREADS", "as the libraries choose"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def print_environment() -> None:
    """Print where and with what, one line an entry."""
    for name, value in environment().items():
        if name == "packages":
            there = ", ".join(f"{key} {v}" for key, v in value.items() if v is not None)
            print(f"packages: {there}")
        else:
            print(f"{name}: {value}")
    sys.stdout.flush()


def _device_name() -> str:
    """Name of the first CUDA device, or of the processor where there is none."""
    import torch

    if not torch.cuda.is_available():
        return _cpu_name()
    about = torch.cuda.get_device_properties(0)
    memory_gib = about.total_memory / 2**30
    return f"{about.name}, {memory_gib:.0f} GiB, CUDA {torch.version.cuda}"


def _cpu_name() -> str:
    """Name of the processor and those of its abilities that matter here."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines())
    lines = {key.strip(): value.strip() for key, value in lines.items()}
    able = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in lines.get("flags", "")]
    return f"{lines.get('model name', 'unknown')} ({', '.join(able)})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def print_table(title: str, timings: dict[str, Timing]) -> None:
    """Print one line a contender: CPU least and median, wall median."""
    print(f"\n{title}")
    print(f"{'':44s} {'CPU ms least':>12s} {'median':>9s} {'wall median':>12s}")
    for name, timing in timings.items():
        wall_ms = statistics.median(timing.wall_ms)
        print(f"{name:44s} {timing.least_ms:12.2f} {timing.median_ms:9.2f} {wall_ms:12.2f}")


def print_wall_table(title: str, timings: dict[str, Timing]) -> None:
    """Print one line a contender: wall time least and median, and CPU time beside it."""
    print(f"\n{title}")
    print(f"{'':44s} {'wall ms least':>13s} {'median':>9s} {'CPU least':>10s}")
    for name, timing in timings.items():
        wall_ms = timing.wall_ms
        median_ms = statistics.median(wall_ms)
        print(f"{name:44s} {min(wall_ms):13.3f} {median_ms:9.3f} {timing.least_ms:10.3f}")
    sys.stdout.flush()


def write_json(file: Path, results: dict[str, Any]) -> None:
    """Write results with the environment; timings become their rounds."""
    file.parent.mkdir(parents=True, exist_ok=True)

    def plain(value: Any) -> Any:
        return asdict(value) if isinstance(value, Timing) else str(value)

    text = json.dumps({"environment": environment(), **results}, indent=1, default=plain)
    file.write_text(text + "\n")
