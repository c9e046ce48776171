"""How grabber children come to be: cheap forks of a server that has OpenCV loaded."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext

from pipeline.grab_messages import GrabJob

__all__ = ["allow_descriptors", "grabber_context", "run_grabber"]

_PRELOAD = ["__main__", "numpy", "cv2", "pipeline.grabber", "pipeline.grabber_start"]


def run_grabber(connection: Connection, job: GrabJob) -> None:
    """Start of a child; imports OpenCV there, so that the main process need not."""
    from pipeline.grabber import run  # noqa: PLC0415

    run(connection, job)


def grabber_context() -> BaseContext:
    """Choose a server that has imported OpenCV to fork the children: they share its pages."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files: a camera takes about six."""
    if os.name != "posix":
        return
    import resource  # noqa: PLC0415 - there is no such module elsewhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
