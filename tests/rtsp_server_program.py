"""The RTSP server of aio-rtsp-toolkit, less a fault of its release 0.1.4.

Who hands a packet to the sender waits 50 ms, then takes it back and hands it over again; had it
been taken meanwhile, it is sent twice. A viewer is then shown a picture twice, or, where others
refer to it, damaged pictures until the next key frame. It happens where the machine is busy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

from aio_rtsp_toolkit.server_streaming import RtspStreamingMixin
from server_demo import main

_LOOK_EVERY_S = 0.05


def _put_once(
    self: RtspStreamingMixin,
    loop: asyncio.AbstractEventLoop,
    queue: asyncio.Queue[Any],
    item: object,
    stop_event: threading.Event,
) -> bool:
    """Put an item from a thread; False if nobody wants it any more."""
    future = asyncio.run_coroutine_threadsafe(queue.put(item), loop)
    while not stop_event.is_set():
        done, _ = concurrent.futures.wait([future], _LOOK_EVERY_S)
        if done:
            return not future.cancelled() and future.exception() is None
    future.cancel()
    return False


if __name__ == "__main__":
    assert hasattr(RtspStreamingMixin, "_threadsafe_queue_put")  # else there is nothing to mend
    RtspStreamingMixin._threadsafe_queue_put = _put_once
    main()
