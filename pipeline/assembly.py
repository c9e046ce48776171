"""The composition root: a configuration becomes stages, channels and one run.

It names the model factory that the captioner child calls; no other room knows models.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.alerts import EmbeddedRedis, Publisher, encode_alert, encode_camera_event
from pipeline.batcher import Batch, Batcher, LaneRules
from pipeline.captioner import CaptionedFrame, CaptionerProcess, CaptionerStage
from pipeline.captioner_child import CaptionerOptions, Ready
from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel, Overflow
from pipeline.config import Config, ModelConfig
from pipeline.ledger import Ledger
from pipeline.messages import Alert, CameraEvent, Caption, FrameRef
from pipeline.outputs import (
    CameraSource,
    CameraSummary,
    Encoders,
    OutputSet,
    RunSummary,
    write_summary,
)
from pipeline.outputs.lines import caption_line, to_json_line
from pipeline.outputs.stage import OutputStage, Sink
from pipeline.outputs.terminal import CameraInfo, TerminalView
from pipeline.restarts import RestartBudget
from pipeline.rules import RuleEngine, RuleSet
from pipeline.rules.stage import Judged, RuleStage, RuleStagePorts
from pipeline.sources import Source, SourceError, SourceKind
from pipeline.store import Store
from pipeline.supervisor import Supervisor
from pipeline.worker import Inlet, Worker

__all__ = ["CAPTIONER_FACTORY", "Run", "camera_infos", "camera_specs"]

CAPTIONER_FACTORY = "models:load_captioner"
_BATCHES_AHEAD = 1
_CAPTIONS_AHEAD = 64
_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Printer:
    """Sink for ``run --json``: one JSON object a line on stdout."""

    def caption(self, caption: Caption) -> None:
        """Print a caption line."""
        self.line(caption_line(caption))

    def alert(self, alert: Alert) -> None:
        """Print an alert's CloudEvent."""
        self.line(encode_alert(alert))

    def line(self, record: dict[str, Any]) -> None:
        """Print one object at once, so that a reader of the pipe sees it live."""
        sys.stdout.write(to_json_line(record))
        sys.stdout.flush()


def camera_specs(
    config: Config, sources: Sequence[tuple[str, Source]], start_time: str | None = None
) -> list[CameraSpec]:
    """Join sources with what the configuration says of their cameras.

    ``start_time`` (RFC 3339) is when the recordings began, for those that do not say.
    """
    specs = []
    for name, source in sources:
        own = config.cameras.get(name)
        capture = config.capture if own is None else config.capture_of(name)
        start = start_time if own is None or own.start_time is None else own.start_time
        moment = None if start is None else _aware(name, start)
        masks = () if own is None else own.masks
        specs.append(CameraSpec(name, source, capture, moment, masks))
    return specs


def _aware(camera: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise SourceError(
            f"{camera}: start time {text!r} is not a time such as 2026-11-23T06:00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.astimezone()


class Run:
    """One run from start to summary. Use as a context manager: whatever happens, all is freed."""

    def __init__(
        self,
        config: Config,
        specs: Sequence[CameraSpec],
        rules: RuleSet,
        view: TerminalView | None = None,
    ) -> None:
        self.config = config
        self.specs = tuple(specs)
        self.ledger = Ledger()
        self.view = view
        self._rules = rules
        self._closers: list[Callable[[], object]] = []
        self._started_s = time.monotonic()
        self._interrupted = False
        self.redis_url = ""
        self.captioner: CaptionerProcess | None = None

    def __enter__(self) -> Run:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop and free everything, in the reverse order of its making. Idempotent."""
        while self._closers:
            self._closers.pop()()

    def go(self) -> RunSummary:
        """Run to the end of the sources, a stop, or a failure; drain; write files; sum up.

        Raises:
            StageFailed: A stage failed; what was captioned before is written all the same.

        """
        self._started_s = time.monotonic()
        self.supervisor.start()
        try:
            self._interrupted = not self.supervisor.wait(on_poll=self._show_progress)
        finally:
            try:
                self.supervisor.drain()
            finally:
                files = self._outputs.close(self._complete())
                left = self.publisher.stop()
        if left:
            self._say(f"{left} events could not be published; they wait in {self.store.path}")
        summary = self._summary(tuple(files))
        write_summary(self.config.output.directory, summary)
        return summary

    def request_stop(self) -> None:
        """End the run after a drain; for signal handlers."""
        self.supervisor.request_stop()

    def _build(self) -> None:
        config = self.config
        self._outputs = self._open_outputs()
        self.store = Store(config.store.path)
        self._closers.append(self.store.close)
        self.redis_url = config.redis.url or self._embedded_redis()
        self.publisher = Publisher(self.store, config.redis, self.redis_url)
        self.publisher.start()
        self._closers.append(lambda: self.publisher.stop(0.0))
        self.ready = self._start_captioner(config.model)
        self._build_stages(self.ready)

    def _open_outputs(self) -> OutputSet:
        cameras = [
            CameraSource(
                spec.name,
                Path(spec.source.location) if spec.source.kind is SourceKind.FILE else None,
            )
            for spec in self.specs
        ]
        encoders = Encoders(alert=encode_alert, camera_event=encode_camera_event)
        output = self.config.output
        return OutputSet(output.directory, cameras, output.formats, encoders)

    def _embedded_redis(self) -> str:
        server = EmbeddedRedis()
        server.__enter__()
        self._closers.append(lambda: server.__exit__(None, None, None))
        return server.url

    def _start_captioner(self, model: ModelConfig) -> Ready:
        options = CaptionerOptions(
            factory=CAPTIONER_FACTORY,
            model=model.name,
            device=model.device,
            runtime=model.runtime,
            beam_size=model.beam_size,
            max_words=model.max_words,
            window_frames=model.window_frames,
            concepts=self._rules.concepts,
            probes=self._rules.probes,
        )
        self.captioner = CaptionerProcess(options, model.answer_timeout_s)
        self._closers.append(self.captioner.kill)
        ready = self.captioner.start()
        if ready.unknown_concepts:
            self._say(
                f"{ready.identity} has no concept {', '.join(ready.unknown_concepts)}; "
                f"rules that ask for it in {self._rules.path} go by words alone"
            )
        return ready

    def _build_stages(self, ready: Ready) -> None:
        config = self.config
        frames: Channel[FrameRef] = Channel(
            "frames", config.capture.queue_frames, Overflow.DROP_OLDEST, self._on_drop
        )
        self.capture = Capture(self.specs, ready.input_size, frames, self._on_camera_event)
        self._closers.append(self.capture.close)
        batches: Channel[Batch] = Channel("batches", _BATCHES_AHEAD)
        captions: Channel[CaptionedFrame] = Channel("captions", _CAPTIONS_AHEAD)
        judged: Channel[Judged] = Channel("judged", _CAPTIONS_AHEAD)
        assert self.captioner is not None
        batcher = Batcher(
            {spec.name: self._lane_rules(spec) for spec in self.specs},
            self.capture.release,
            self.ledger,
        )
        captioner = CaptionerStage(
            self.captioner,
            self.capture,
            self.ledger,
            RestartBudget(config.capture.restart_budget, config.capture.restart_window_s),
        )
        self.rule_stage = RuleStage(self._engine(), self.store, self._ports())
        outputs = OutputStage(self._sinks())
        failed = self._on_stage_failed
        batch = config.model.max_batch_frames
        linger_s = config.model.max_batch_delay_ms / 1000.0
        workers: list[Worker[Any, Any]] = [
            Worker(batcher, Inlet(frames, batch, linger_s, self._per_lane()), batches, failed),
            Worker(captioner, Inlet(batches), captions, failed),
            Worker(self.rule_stage, Inlet(captions, idle_s=_IDLE_S), judged, failed),
            Worker(outputs, Inlet(judged, _CAPTIONS_AHEAD), None, failed),
        ]
        self.supervisor = Supervisor(self.capture, workers, self._on_abandoned)

    def _per_lane(self) -> int | None:
        """One frame a camera in a batch while any is live; recordings may fill it."""
        return 1 if any(spec.source.live for spec in self.specs) else None

    def _lane_rules(self, spec: CameraSpec) -> LaneRules:
        max_age_s = spec.capture.max_frame_age_s if spec.source.live else None
        return LaneRules(spec.capture.captions_per_second, max_age_s)

    def _engine(self) -> RuleEngine:
        groups: dict[str, list[str]] = {}
        for name, camera in self.config.cameras.items():
            for group in camera.groups:
                groups.setdefault(group, []).append(name)
        # Only live cameras go on where a run before stopped: a recording begins anew.
        live = any(spec.source.live for spec in self.specs)
        return RuleEngine(
            self._rules, state=self.store.state("rules") if live else None, groups=groups
        )

    def _ports(self) -> RuleStagePorts:
        prefix = self.config.redis.prefix
        return RuleStagePorts(
            preview=self._preview,
            release=self.capture.release,
            wake=self.publisher.wake,
            snapshot_key=lambda alert: f"{prefix}:snapshot:{alert.id}",
        )

    def _preview(self, ref: FrameRef) -> NDArray[np.uint8]:
        slots = self.capture.slots_of(ref)
        return slots.preview(ref.slot, ref.preview_width, ref.preview_height)

    def _sinks(self) -> list[Sink]:
        shown: Sink = self.view if self.view is not None else Printer()
        return [self._outputs, shown, _CaptionChannel(self.publisher)]

    def _on_drop(self, ref: FrameRef, reason: str) -> None:
        self.ledger.dropped(ref.stamp.camera, reason)
        self.capture.release(ref)

    def _on_abandoned(self, item: object) -> None:
        """Book what a run cut short leaves in a channel."""
        if isinstance(item, FrameRef):
            self._on_drop(item, "aborted")
        elif isinstance(item, Batch):
            for ref, due in zip(item.refs, item.due, strict=True):
                self._on_drop(ref, "aborted")
                if due:
                    self.ledger.window_dropped(ref.stamp.camera, "aborted")
        elif isinstance(item, CaptionedFrame):
            self.capture.release(item.ref)

    def _on_stage_failed(self, worker: Worker[Any, Any]) -> None:
        self.supervisor.stage_failed(worker)

    def _on_camera_event(self, event: CameraEvent) -> None:
        self.store.record([(encode_camera_event(event), None)])
        self.publisher.wake()
        if self.view is not None:
            self.view.camera_event(event)
        else:
            Printer().line(encode_camera_event(event))

    def _show_progress(self) -> None:
        if self.view is None:
            return
        for name, status in self.capture.status().items():
            if status.info is not None and status.position_s is not None:
                self.view.progress(name, status.position_s, status.info.duration_s)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def _complete(self) -> dict[str, bool]:
        """By camera: a recording read to its end, or a live camera that was stopped."""
        errors = self.capture.errors()
        status = self.capture.status()
        return {
            spec.name: spec.source.live
            or (not self._interrupted and spec.name not in errors and spec.name in status)
            for spec in self.specs
        }

    def _summary(self, files: tuple[Path, ...]) -> RunSummary:
        return RunSummary(
            cameras=tuple(self._camera_summary(spec.name) for spec in self.specs),
            alerts=dict(self.rule_stage.started),
            wall_s=time.monotonic() - self._started_s,
            files=files,
            interrupted=self._interrupted,
        )

    def _camera_summary(self, camera: str) -> CameraSummary:
        account = self.capture.accounts()[camera]
        books = self.ledger.books(camera)
        status = self.capture.status()[camera]
        return CameraSummary(
            camera=camera,
            grabbed=account.grabbed,
            unsampled=account.unsampled,
            skipped=account.skipped,
            encoded=books.encoded,
            dropped=dict(Counter(account.dropped) + Counter(books.dropped)),
            failed=dict(Counter(account.failed) + Counter(books.failed)),
            windows=books.windows,
            captioned=books.captioned,
            windows_dropped=books.windows_dropped,
            windows_failed=books.windows_failed,
            media_s=status.position_s,
            error=self.capture.errors().get(camera),
        )


class _CaptionChannel:
    """Sink: captions to the cameras' Pub/Sub channels; alerts go through the outbox instead."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def caption(self, caption: Caption) -> None:
        self._publisher.publish_caption(
            caption.stamp.camera, json.dumps(caption_line(caption), ensure_ascii=False)
        )

    def alert(self, alert: Alert) -> None:
        """Nothing: the outbox has it."""


def camera_infos(specs: Sequence[CameraSpec]) -> list[CameraInfo]:
    """What the terminal shows of each camera."""
    return [CameraInfo(spec.name, spec.source.display) for spec in specs]
