"""The chain of stages: capture, batcher, captioner, rules and outputs, joined by channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.accounting import Accounting
from pipeline.alerts.clip_file import require_encoder
from pipeline.alerts.clips import ClipRecorder
from pipeline.alerts.faces import face_finder
from pipeline.alerts.media_folder import MediaFolder
from pipeline.alerts.snapshot_taker import SnapshotTaker
from pipeline.batcher import Batch, Batcher, LaneRules
from pipeline.captioner import CaptionedFrame, CaptionerProcess, CaptionerStage
from pipeline.captioner_messages import Ready
from pipeline.capture import CameraSpec, Capture
from pipeline.channel import Channel, Overflow
from pipeline.config import Config, SnapshotConfig
from pipeline.ledger import Ledger
from pipeline.messages import Alert, CameraEvent, FrameRef, SourceEnd
from pipeline.metrics import Metrics
from pipeline.outputs.stage import OutputStage, PictureKeeper, Sink
from pipeline.reload import Differences
from pipeline.restarts import RestartBudget
from pipeline.rules import RuleEngine, RuleSet
from pipeline.rules.stage import STATE_PREFIX, Judged, RuleStage, RuleStagePorts
from pipeline.run_setup import Setup, camera_groups
from pipeline.services import Services
from pipeline.supervisor import Supervisor
from pipeline.worker import Inlet, Worker

__all__ = ["Chain", "ChainParts", "build_chain"]

_BATCHES_AHEAD = 1
_CAPTIONS_AHEAD = 64
_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class ChainParts:
    """What a chain is made of; ``input_size`` is the side of the encoder's square in pixels."""

    config: Config
    specs: tuple[CameraSpec, ...]
    rules: RuleSet
    services: Services
    captioner: CaptionerProcess
    ready: Ready
    sinks: Sequence[Sink]
    metrics: Metrics
    on_camera_event: Callable[[CameraEvent], None]
    keep_picture: PictureKeeper
    on_source_end: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chain:
    """The stages of a run, ready to start."""

    capture: Capture
    supervisor: Supervisor
    accounting: Accounting
    rule_stage: RuleStage
    lanes: dict[str, LaneRules]

    def apply(self, setup: Setup, found: Differences) -> None:
        """Bring the running stages to another set-up; what does not differ is not touched.

        Raises:
            OSError: There is no room for a camera's shared memory; nothing has changed.

        """
        new = {spec.name: _lane_rules(spec) for spec in found.added}
        self.lanes.update(new)  # before their first frame may come
        try:
            self.capture.alter(found.added, found.changed, found.removed)
        except (OSError, ValueError):
            for name in new:
                del self.lanes[name]
            raise
        self.lanes.update({spec.name: _lane_rules(spec) for spec in found.changed})
        for name in found.removed:
            self.lanes.pop(name, None)
        if found.rules:
            self.rule_stage.replace_rules(setup.rules, camera_groups(setup.config))


def build_chain(parts: ChainParts, stack: ExitStack) -> Chain:
    """Make the stages and join them; nothing runs yet. ``stack`` frees the shared memory."""
    ledger = Ledger()

    def drop(ref: FrameRef | SourceEnd, reason: str) -> None:
        accounting.drop(ref, reason)

    def failed(worker: Worker[Any, Any]) -> None:
        supervisor.stage_failed(worker)

    waiting = parts.config.capture.queue_frames
    frames: Channel[FrameRef | SourceEnd] = Channel("frames", waiting, Overflow.DROP_OLDEST, drop)
    capture = Capture(parts.specs, parts.ready.input_size, frames, parts.on_camera_event)
    stack.callback(capture.close)
    accounting = Accounting(capture, ledger)
    services = parts.services
    ports = _ports(parts, capture, _clips(parts.config, stack))
    rule_stage = RuleStage(_engine(parts), services.book, services.store, ports)
    batches: Channel[Batch] = Channel("batches", _BATCHES_AHEAD)
    captions: Channel[CaptionedFrame | SourceEnd] = Channel("captions", _CAPTIONS_AHEAD)
    judged: Channel[Judged] = Channel("judged", _CAPTIONS_AHEAD)
    told = (failed, parts.metrics.stage_worked)
    lanes = {spec.name: _lane_rules(spec) for spec in parts.specs}
    batcher = Batcher(lanes, capture.release, ledger)
    batcher.on_batch = parts.metrics.batch_made
    batcher.on_frame = (parts.metrics.frame_taken,)
    if ports.clips is not None:
        batcher.on_frame += (_recorded(ports.clips, ports.preview),)
    # Of live cameras a batch is made when it can be captioned, not before: so it holds all that is
    # there by then. Recordings always have something waiting, and the next batch is to be ready.
    live = any(spec.source.live for spec in parts.specs)
    workers: list[Worker[Any, Any]] = [
        Worker(batcher, _frames_inlet(parts, frames), batches, *told, when_wanted=live),
        Worker(_captioner(parts, capture, ledger), Inlet(batches), captions, *told),
        Worker(rule_stage, Inlet(captions, idle_s=_IDLE_S), judged, *told),
        Worker(_outputs(parts), Inlet(judged, _CAPTIONS_AHEAD), None, *told),
    ]
    supervisor = Supervisor(capture, workers, accounting.abandon)
    return Chain(capture, supervisor, accounting, rule_stage, lanes)


def _outputs(parts: ChainParts) -> OutputStage:
    return OutputStage(parts.sinks, parts.on_source_end, parts.keep_picture)


def _frames_inlet(
    parts: ChainParts, frames: Channel[FrameRef | SourceEnd]
) -> Inlet[FrameRef | SourceEnd]:
    """One frame a camera in a batch while any is live; recordings may fill it."""
    per_lane = 1 if any(spec.source.live for spec in parts.specs) else None
    model = parts.config.model
    return Inlet(frames, parts.ready.batch_frames, model.max_batch_delay_ms / 1000.0, per_lane)


def _lane_rules(spec: CameraSpec) -> LaneRules:
    max_age_s = spec.capture.max_frame_age_s if spec.source.live else None
    return LaneRules(spec.capture.captions_per_second, max_age_s)


def _captioner(parts: ChainParts, capture: Capture, ledger: Ledger) -> CaptionerStage:
    settings = parts.config.capture
    budget = RestartBudget(settings.restart_budget, settings.restart_window_s)
    stage = CaptionerStage(parts.captioner, capture, ledger, budget)
    stage.on_worked = parts.metrics.stage_worked
    return stage


def _engine(parts: ChainParts) -> RuleEngine:
    state = parts.services.store.states(STATE_PREFIX)
    return RuleEngine(parts.rules, state=state, groups=camera_groups(parts.config))


def _ports(parts: ChainParts, capture: Capture, clips: ClipRecorder | None) -> RuleStagePorts:
    prefix = parts.config.redis.prefix

    def preview(ref: FrameRef) -> NDArray[np.uint8]:
        slots = capture.slots_of(ref)
        return slots.preview(ref.slot, ref.preview_width, ref.preview_height)

    def snapshot_key(alert: Alert) -> str:
        return f"{prefix}:snapshot:{alert.id}"

    services = parts.services
    return RuleStagePorts(
        preview,
        capture.release,
        services.publishers.wake,
        snapshot_key,
        services.reviews.take,
        _snapshots(parts.config.snapshots),
        clips,
    )


def _snapshots(config: SnapshotConfig) -> SnapshotTaker:
    folder = None
    if config.directory is not None:
        folder = MediaFolder(Path(config.directory), ".jpg", int(config.max_mib * 2**20))
    return SnapshotTaker(folder, face_finder() if config.blur_faces else None)


def _clips(config: Config, stack: ExitStack) -> ClipRecorder | None:
    settings = config.clips
    if settings.directory is None:
        return None
    require_encoder()
    folder = MediaFolder(Path(settings.directory), ".mp4", int(settings.max_mib * 2**20))
    # A detector of its own: the snapshots' one works in another thread.
    faces = face_finder() if config.snapshots.blur_faces else None
    clips = ClipRecorder(settings, folder, faces)
    clips.start()
    stack.callback(clips.close)
    return clips


def _recorded(
    clips: ClipRecorder, preview: Callable[[FrameRef], NDArray[np.uint8]]
) -> Callable[[FrameRef], None]:
    def on_frame(ref: FrameRef) -> None:
        clips.frame(ref.stamp, preview(ref))

    return on_frame
