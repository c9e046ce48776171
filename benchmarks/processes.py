"""The program's processes as ``/proc`` shows them: which there are, what they hold. Linux only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["cpu_s_by_kind", "memory_kib", "processes", "slope"]


def processes(root: int) -> Iterator[tuple[int, str]]:
    """Every process below ``root``, itself included, with what it is."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")")[-1].split()[1]
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
    kinds = {root: "main"}
    for _ in range(3):
        for pid, parent in parents.items():
            if parent in kinds and pid not in kinds:
                kinds[pid] = "grabber" if kinds[parent] == "forkserver" else _kind(pid)
    yield from kinds.items()


def memory_kib(pid: int) -> dict[str, int]:
    """What a process holds in KiB: ``Pss``, ``Private_Dirty`` and so on.

    Raises:
        FileNotFoundError: It has ended; or ProcessLookupError.

    """
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}


def cpu_s_by_kind(root: int) -> dict[str, float]:
    """User and system seconds so far of the processes that are there now, by what they are."""
    used: Counter[str] = Counter()
    for pid, kind in processes(root):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        used[kind] += int(stat[11]) + int(stat[12])
    return {kind: ticks / os.sysconf("SC_CLK_TCK") for kind, ticks in used.items()}


def slope(times: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Least squares slope a second, and its standard error."""
    centred = times - times.mean()
    found = float((centred * values).sum() / (centred**2).sum())
    rest = values - values.mean() - found * centred
    return found, float(np.sqrt((rest**2).sum() / max(len(times) - 2, 1) / (centred**2).sum()))


def _kind(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    for mark, kind in ((b"forkserver", "forkserver"), (b"spawn_main", "captioner")):
        if mark in command:
            return kind
    return "other"
