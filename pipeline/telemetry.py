"""What a run tells of itself: joins the metrics and the health endpoint to a run's parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

from pipeline.config import MetricsConfig
from pipeline.health import HealthServer
from pipeline.metrics import Metrics, RunParts

__all__ = ["Telemetry", "open_telemetry"]


def open_telemetry(config: MetricsConfig, stack: ExitStack) -> Telemetry:
    """Begin to answer, if a port is asked for; ``stack`` ends it.

    Raises:
        HealthError: The port cannot be had.

    """
    telemetry = Telemetry(config)
    stack.callback(telemetry.close)
    if telemetry.server is not None:
        host, port = telemetry.server.host, telemetry.server.port
        sys.stderr.write(f"metrics on http://{host}:{port}/metrics\n")
    return telemetry


class Telemetry:
    """Metrics always; the endpoint when a port is asked for, from before the model is loaded."""

    def __init__(self, config: MetricsConfig) -> None:
        self.metrics = Metrics()
        self._parts: RunParts | None = None
        self._redis_problem: Callable[[], str | None] = lambda: "not connected yet"
        self.server: HealthServer | None = None
        if config.port is not None:
            self.server = HealthServer(
                config.host,
                config.port,
                self.metrics.registry,
                alive={"stages": self._stages},
                ready={
                    "model": self._model,
                    "redis": self._redis,
                    "store": self._store,
                    "outputs": self._outputs,
                    "cameras": self._cameras,
                },
            )

    def ask_redis(self, problem: Callable[[], str | None]) -> None:
        """Tell how to find out what is wrong with Redis."""
        self._redis_problem = problem

    def watch(self, parts: RunParts) -> None:
        """Tell of a run whose model is loaded and whose stages are built."""
        self._parts = parts
        self.metrics.watch(parts)

    def close(self) -> None:
        """Stop answering. Idempotent."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def _stages(self) -> str | None:
        if self._parts is None:
            return None  # still loading
        failure = self._parts.supervisor.failure()
        return None if failure is None else str(failure)

    def _model(self) -> str | None:
        return "loading" if self._parts is None else None

    def _redis(self) -> str | None:
        return self._redis_problem()

    def _store(self) -> str | None:
        if self._parts is None:
            return None
        if self._parts.rules.store_problem is not None:
            return f"alerts wait in memory: {self._parts.rules.store_problem}"
        if self._parts.store.short_of_space:
            return "the disk is nearly full: alerts are written, captions are not archived"
        return None

    def _outputs(self) -> str | None:
        return None if self._parts is None else self._parts.outputs.problem

    def _cameras(self) -> str | None:
        if self._parts is None:
            return "not started"
        status = self._parts.capture.status()
        if any(camera.up for camera in status.values()):
            return None
        return f"none of {len(status)} is up"
