"""Prometheus metrics: all their names in one place.

Counters are read from the books when somebody asks, so they cost the pipeline nothing and cannot
disagree with the summary. Durations are observed as they happen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.alerts.publisher import Publishers
from pipeline.capture import Capture
from pipeline.ledger import Ledger
from pipeline.messages import Alert, Caption, FrameRef
from pipeline.outputs import OutputSet
from pipeline.outputs.screen import Screen
from pipeline.rules.stage import RuleStage
from pipeline.store import REDIS, Store
from pipeline.supervisor import Supervisor

__all__ = ["Metrics", "RunParts"]

_LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_STAGE_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class RunParts:
    """Where the numbers of a run are read from."""

    capture: Capture
    ledger: Ledger
    supervisor: Supervisor
    rules: RuleStage
    store: Store
    publishers: Publishers
    outputs: OutputSet
    screen: Screen


class Metrics:
    """The metrics of one run, in a registry of its own.

    It is a sink of captions and alerts too (see :mod:`pipeline.outputs.stage`): latencies are taken
    where a caption is handed to files and subscribers, an alert when it is safe in the outbox.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU, descriptors of the main process
        self._stages = Histogram(
            "watchword_stage_duration_seconds",
            "Time a stage worked on what it took, without waiting for the next stage; "
            "encode and decode are parts of the captioner's.",
            ["stage"],
            buckets=_STAGE_S,
            registry=self.registry,
        )
        self._batches = Histogram(
            "watchword_batch_size", "Frames in a batch.", buckets=_BATCH, registry=self.registry
        )
        self._batch_age = Histogram(
            "watchword_grab_to_batch_seconds",
            "From the grab of a frame until it is taken into a batch: hand-over and queue.",
            buckets=_STAGE_S,
            registry=self.registry,
        )
        self._caption_age = Histogram(
            "watchword_grab_to_caption_seconds",
            "From the grab of a window's last frame to its caption.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._alert_age = Histogram(
            "watchword_grab_to_alert_seconds",
            "From the grab of the frame that raised an alert to the alert in the outbox.",
            buckets=_LATENCY_S,
            registry=self.registry,
        )

    def watch(self, parts: RunParts) -> None:
        """Serve what the books of a run say from now on."""
        self.registry.register(_Books(parts))

    def stage_worked(self, stage: str, seconds: float) -> None:
        """Observe one call of a stage."""
        self._stages.labels(stage).observe(seconds)

    def batch_made(self, frames: int) -> None:
        """Observe one batch."""
        self._batches.observe(frames)

    def frame_taken(self, ref: FrameRef) -> None:
        """Observe how long a frame has waited for its batch."""
        self._batch_age.observe(_age_s(ref.stamp.captured_monotonic_ns))

    def caption(self, caption: Caption) -> None:
        """Observe a caption's age."""
        self._caption_age.observe(_age_s(caption.stamp.captured_monotonic_ns))

    def alert(self, alert: Alert) -> None:
        """Observe a new alert's age."""
        if alert.revision == 1:
            self._alert_age.observe(_age_s(alert.stamp.captured_monotonic_ns))


class _Books:
    """Collector: reads capture, ledger, stages, rules and outbox at the moment of the scrape."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not read a run that has not begun."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give every family as it is now."""
        yield from self._frames()
        yield from self._cameras()
        yield from self._alerts()
        yield from self._sinks()
        yield from self._lost()
        depth = _gauge("queue_depth", "Items that wait for a stage or are in it.", "stage")
        for health in self._parts.supervisor.health():
            depth.add_metric([health.stage], health.queued)
        yield depth

    def _frames(self) -> Iterator[Metric]:
        grabbed = _counter("frames_grabbed", "Frames read from a source.", "camera")
        unsampled = _counter("frames_unsampled", "Frames not looked at: analysis_fps.", "camera")
        skipped = _counter("frames_skipped", "Frames looked at that had not changed.", "camera")
        dropped = _counter("frames_dropped", "Frames given up on purpose.", "camera", "reason")
        failed = _counter("frames_failed", "Frames lost to a fault.", "camera", "reason")
        encoded = _counter("frames_encoded", "Frames that the model has seen.", "camera")
        captions = _counter("captions", "Captions made.", "camera")
        for camera, account in self._parts.capture.accounts().items():
            books = self._parts.ledger.books(camera)
            grabbed.add_metric([camera], account.grabbed)
            unsampled.add_metric([camera], account.unsampled)
            skipped.add_metric([camera], account.skipped)
            encoded.add_metric([camera], books.encoded)
            captions.add_metric([camera], books.captioned)
            for reason, count in (Counter(account.dropped) + Counter(books.dropped)).items():
                dropped.add_metric([camera, reason], count)
            for reason, count in (Counter(account.failed) + Counter(books.failed)).items():
                failed.add_metric([camera, reason], count)
        yield from (grabbed, unsampled, skipped, dropped, failed, encoded, captions)

    def _cameras(self) -> Iterator[Metric]:
        up = _gauge("camera_up", "1 while new frames come.", "camera")
        blind = _gauge("camera_blind", "1 while nothing can be seen.", "camera", "reason")
        reconnects = _counter("camera_reconnects", "Times a source was opened again.", "camera")
        faults = _counter("timestamp_faults", "Media times that stood still or jumped.", "camera")
        for camera, status in self._parts.capture.status().items():
            up.add_metric([camera], float(status.up))
            faults.add_metric([camera], status.timestamp_faults)
            reconnects.add_metric([camera], status.reconnects)
            if status.blind is not None:
                blind.add_metric([camera, status.blind.value], 1.0)
        yield from (up, blind, reconnects, faults)

    def _alerts(self) -> Iterator[Metric]:
        started = _counter("alerts", "Alerts started.", "rule")
        for rule, count in dict(self._parts.rules.started).items():
            started.add_metric([rule], count)
        suppressed = _counter("alerts_suppressed", "Matches without an alert.", "rule", "reason")
        for (rule, reason), count in self._parts.rules.suppressed().items():
            suppressed.add_metric([rule, reason], count)
        depth = _gauge("outbox_depth", "Events that wait to be published.")
        depth.add_metric([], self._parts.store.depth())
        failures = _counter("publish_failures", "Attempts to publish that failed.")
        failures.add_metric([], self._parts.publishers.failures()[REDIS])
        yield from (started, suppressed, depth, failures)

    def _sinks(self) -> Iterator[Metric]:
        waiting = _gauge("sink_waiting", "Events that wait for Redis, a webhook, MQTT.", "sink")
        failures = _counter("sink_failures", "Attempts to hand over that failed.", "sink")
        for sink, count in self._parts.publishers.failures().items():
            waiting.add_metric([sink], self._parts.store.depth(sink))
            failures.add_metric([sink], count)
        yield from (waiting, failures)

    def _lost(self) -> Iterator[Metric]:
        missing = _counter("output_lost", "Not written to files.", "camera", "what", "reason")
        for labels, count in self._parts.outputs.missing().items():
            missing.add_metric(list(labels), count)
        unseen = _counter("screen_dropped", "Not shown: nobody read fast enough.", "what")
        for what, count in self._parts.screen.dropped().items():
            unseen.add_metric([what], count)
        yield from (missing, unseen)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"watchword_{name}", text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"watchword_{name}", text, labels=labels)


def _age_s(captured_monotonic_ns: int) -> float:
    return (time.monotonic_ns() - captured_monotonic_ns) / 1e9
