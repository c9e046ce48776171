"""The composition root: a configuration becomes services, a chain of stages, and one run.

It names the model factory that the captioner child calls; no other room knows models.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.alerts import CameraEventDesk, encode_alert, encode_camera_event
from pipeline.camera_specs import camera_infos, camera_specs
from pipeline.captioner_messages import Ready
from pipeline.capture import CameraSpec, FeedState
from pipeline.chain import Chain, ChainParts, build_chain
from pipeline.finisher import Finisher
from pipeline.messages import CameraEvent
from pipeline.metrics import RunParts
from pipeline.outputs import CameraSource, Encoders, OutputSet, RunSummary, write_summary
from pipeline.outputs.files import check_directory
from pipeline.outputs.report import REPORT_FILES
from pipeline.outputs.screen import Screen
from pipeline.outputs.stage import Sink
from pipeline.outputs.view import View
from pipeline.redaction import redact
from pipeline.reload import Differences, Reloader
from pipeline.resume import DoneMarks
from pipeline.run_setup import Setup, names_of_no_camera
from pipeline.services import Services, check_redis_url, open_services, start_captioner
from pipeline.sinks import CaptionChannel, Printer
from pipeline.sources import SourceKind
from pipeline.supervisor import StageFailed
from pipeline.telemetry import open_telemetry

__all__ = ["CAPTIONER_FACTORY", "Printer", "Run", "camera_infos", "camera_specs"]

CAPTIONER_FACTORY = "models:load_captioner"


class Run:
    """One run from start to summary. Use as a context manager: whatever happens, all is freed."""

    def __init__(self, setup: Setup, view: View | None = None) -> None:
        self.setup = setup
        self.config, self.specs, self.rules = setup.config, setup.specs, setup.rules
        self.view = Screen(view or Printer(), waits=_can_wait(setup))
        self._cameras = {spec.name: spec for spec in self.specs}  # with those removed by a reload
        self._reloader: Reloader | None = None
        self._stack = ExitStack()
        self._started_s = time.monotonic()
        self._interrupted = False
        self._ended: set[str] = set()  # recordings whose last caption has been journalled
        self._finisher = Finisher(self._finish)
        self.ready: Ready
        self.services: Services
        self.chain: Chain

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
        self._stack.close()

    @property
    def redis_url(self) -> str:
        """Where alerts are published; it may hold a password."""
        return self.services.redis_url

    def errors(self) -> dict[str, str]:
        """One sentence for each camera that does not work, or never did."""
        return self.chain.capture.errors()

    def request_stop(self) -> None:
        """End the run after a drain; for signal handlers."""
        self.chain.supervisor.request_stop()

    def reload_from(self, reread: Callable[[], Setup]) -> Reloader:
        """Follow changes of the set-up's files, and requests to the reloader given back."""
        self._reloader = Reloader(self.setup, reread, self._apply, self.view.message)
        return self._reloader

    def go(self) -> RunSummary:
        """Run to the end of the sources, a stop, or a failure; drain; write files; sum up.

        A stage that failed is told in the summary's ``error``; what was captioned before it is
        written and counted all the same.

        Raises:
            OutputError: A file cannot be written.

        """
        self._started_s = time.monotonic()
        self.view.start()
        try:
            return self._run_to_its_end()
        finally:
            self.view.close()

    def _run_to_its_end(self) -> RunSummary:
        error = self._watch_and_drain()
        self._show_progress()
        try:
            self._finisher.close(give_up=self._interrupted)
            if self._finisher.error is not None:
                error = error or StageFailed(f"outputs: {self._finisher.error}")
            files = self._marks.files or self._outputs.write(self._complete(), self._unread())
        finally:
            left = self.services.publishers.stop()
        for sink, count in left.items():
            where = self.services.store.path
            sys.stderr.write(
                f"{count} events could not be sent to {sink}; a run with the store {where} does\n"
            )
        self.view.drain()
        summary = self._summary(tuple(files), error or self._what_was_lost())
        write_summary(self.config.output.directory, summary)
        self._remember_report()
        self._marks.mark_whole(files)
        self._outputs.clear_up(self._whole(), self._unread())
        return summary

    def _what_was_lost(self) -> StageFailed | None:
        """What no stage could know: where there was nobody to read, no room to write."""
        lost = [self.view.error, self._outputs.missing_told()]
        told = "; ".join(str(each) for each in lost if each is not None)
        return StageFailed(f"outputs: {told}") if told else None

    def _remember_report(self) -> None:
        """Note where the report is, for ``search --play``."""
        if "report" in self.config.output.formats:
            page = str((Path(self.config.output.directory) / REPORT_FILES[0]).absolute())
            unread = self._unread()
            told = {f"report:{name}": page for name in self._cameras if name not in unread}
            self.services.store.record(state=told)

    def _watch_and_drain(self) -> StageFailed | None:
        """The first failure, also one while draining; a later one only follows from it."""
        first: StageFailed | None = None
        supervisor = self.chain.supervisor
        for step in (self._watch, supervisor.drain, supervisor.check):
            try:
                step()
            except StageFailed as failure:
                first = first or failure
            except KeyboardInterrupt:  # from Python, where nobody handles the signal: drain too
                self._interrupted = True
        return first

    def _watch(self) -> None:
        supervisor = self.chain.supervisor
        try:
            supervisor.start()
            self._interrupted = not supervisor.wait(on_poll=self._on_poll)
        except StageFailed:
            raise
        except Exception as error:  # whatever it is, what is inside is drained first
            raise StageFailed(f"the run itself: {error}") from error

    def _build(self) -> None:
        config = self.config
        check_redis_url(config.redis)
        check_directory(Path(config.output.directory))
        if told := _unwatched(self.setup):
            sys.stderr.write(f"{told}\n")
        telemetry = open_telemetry(config.metrics, self._stack)
        # The model first: it is what fails most, and nothing has been written by then.
        live = any(spec.source.live for spec in self.specs)
        captioner, self.ready = start_captioner(
            config.model, self.rules, CAPTIONER_FACTORY, self._stack, live=live
        )
        self.services = open_services(config, self.rules, self.specs, self._stack)
        # After the store is held: the files may be those of a run that is still going.
        self._begin_or_resume()
        self._outputs = self._open_outputs()
        self.services.store.record(state=_told_of(self.specs))
        self._stack.callback(self._finisher.close, give_up=True)
        self._finisher.start()
        self._camera_events = CameraEventDesk(self.services.store, self._on_camera_event)
        telemetry.ask_redis(self.services.redis.problem)
        self.chain = build_chain(
            ChainParts(
                config=config,
                specs=self._left(self.specs),
                rules=self.rules,
                services=self.services,
                captioner=captioner,
                ready=self.ready,
                sinks=[*self._sinks(), telemetry.metrics],
                metrics=telemetry.metrics,
                on_camera_event=self._camera_events.tell,
                keep_picture=self._outputs.picture,
                on_source_end=self._on_source_end,
            ),
            self._stack,
        )
        telemetry.watch(self._counted())
        self._stack.callback(telemetry.close)  # first of all: what it reads is still there

    def _counted(self) -> RunParts:
        chain, services = self.chain, self.services
        return RunParts(
            chain.capture,
            chain.accounting.ledger,
            chain.supervisor,
            chain.rule_stage,
            services.store,
            services.publishers,
            self._outputs,
            self.view,
        )

    def _begin_or_resume(self) -> None:
        self._marks = DoneMarks(self.setup, self.ready, self.services.store)
        done = self._marks.done
        if done:
            self.view.message(f"{len(done)} of {len(self.specs)} were finished by a run before")
        for name in done:
            self.view.ended(name)

    def _left(self, specs: Sequence[CameraSpec]) -> tuple[CameraSpec, ...]:
        """Those that no run before has finished."""
        return tuple(spec for spec in specs if spec.name not in self._marks.done)

    def _on_source_end(self, camera: str) -> None:
        self._ended.add(camera)
        self._finisher.add(camera)

    def _finish(self, camera: str) -> None:
        """Write a recording's files, and only then note that it is done."""
        alerts = self._outputs.finish(camera)
        if not self._outputs.lacks(camera):  # else a resumed run watches it again
            self._marks.mark(camera, self.chain.accounting.camera(camera), alerts)
            self._outputs.drop_journal(camera)
        self.view.ended(camera)

    def _apply(self, setup: Setup, found: Differences) -> None:
        found = replace(found, added=self._left(found.added), changed=self._left(found.changed))
        # What was watched in two ways is not marked as done: a resumed run does it in one.
        self._marks.forget(self._cameras if found.rules else {spec.name for spec in found.changed})
        for spec in found.added:
            self._outputs.add(self._camera_source(spec))
        self.view.waits = _can_wait(setup)
        self.chain.apply(setup, found)
        asked = {*self.rules.concepts, *self.rules.probes}
        if new := sorted({*setup.rules.concepts, *setup.rules.probes} - asked):
            wanted = ", ".join(map(repr, new))
            self.view.message(f"the model is asked for {wanted} only after a restart")
        if told := _unwatched(setup):
            self.view.message(told)
        self._cameras |= {spec.name: spec for spec in (*found.added, *found.changed)}

    def _open_outputs(self) -> OutputSet:
        output = self.config.output
        cameras = [self._camera_source(spec) for spec in self.specs]
        encoders = Encoders(alert=encode_alert, camera_event=encode_camera_event)
        whole = self._marks.files  # then its journals are gone, and the report stays
        formats = [each for each in output.formats if not (whole and each == "report")]
        return OutputSet(output.directory, cameras, formats, encoders, self._marks.done)

    def _camera_source(self, spec: CameraSpec) -> CameraSource:
        # The report's pictures come straight from the recording: where faces are not to be
        # recognised in alert pictures, it has none.
        return CameraSource(
            spec.name,
            _recording(spec),
            masks=spec.masks,
            pictures=not self.config.snapshots.blur_faces,
            zone=spec.capture.zone,
        )

    def _sinks(self) -> list[Sink]:
        return [self._outputs, self.view, CaptionChannel(self.services.redis)]

    def _on_camera_event(self, event: CameraEvent) -> None:
        self.services.publishers.wake()
        self._outputs.camera_event(event)
        self.view.camera_event(event)

    def _on_poll(self) -> None:
        if self.view.error is not None:
            raise StageFailed(f"outputs: {self.view.error}")
        self._camera_events.retry()
        if self.services.server is not None:
            self.services.server.revive()
        self._show_progress()
        if self._reloader is not None:
            self._reloader.poll()

    def _show_progress(self) -> None:
        for name, status in self.chain.capture.status().items():
            if status.info is not None and status.position_s is not None:
                duration_s, position_s = status.info.duration_s, status.position_s
                if status.state is FeedState.FINISHED and not self._interrupted:
                    position_s = duration_s or position_s  # frames after the last one looked at
                self.view.progress(name, position_s, duration_s)

    def _complete(self) -> dict[str, bool]:
        """By camera: a recording read to its end, or a live camera that was stopped."""
        # Of what ended when the run was stopped no video is made: nobody waits for it.
        ended = self._marks.done.keys() | (set() if self._interrupted else self._ended)
        return {
            spec.name: spec.source.live or spec.name in ended for spec in self._cameras.values()
        }

    def _whole(self) -> dict[str, bool]:
        """Of :meth:`_complete` those that a resumed run does not watch again."""
        live = {spec.name for spec in self._cameras.values() if spec.source.live}
        return {
            name: complete and (name in live or not self._outputs.lacks(name))
            for name, complete in self._complete().items()
        }

    def _unread(self) -> set[str]:
        """Recordings that gave no frame at all: an empty file of theirs would say nothing."""
        chain = self.chain
        errors, accounts = chain.capture.errors(), chain.capture.accounts()
        finite = {spec.name for spec in self._cameras.values() if not spec.source.live}
        return {name for name in finite & set(errors) if accounts[name].grabbed == 0}

    def _summary(self, files: tuple[Path, ...], error: StageFailed | None) -> RunSummary:
        done = self._marks.done
        alerts = Counter(self.chain.rule_stage.started)
        for mark in done.values():
            alerts.update(mark.alerts)
        return RunSummary(
            cameras=tuple(
                done[name].books if name in done else self.chain.accounting.camera(name)
                for name in self._cameras
            ),
            alerts=dict(alerts),
            wall_s=time.monotonic() - self._started_s,
            files=files,
            interrupted=self._interrupted,
            error=None if error is None else redact(str(error)),
        )


def _can_wait(setup: Setup) -> bool:
    """Whether all may wait for a slow reader of what is shown: recordings lose nothing by it."""
    return not any(spec.source.live for spec in setup.specs)


def _unwatched(setup: Setup) -> str | None:
    return names_of_no_camera(setup.config, [spec.name for spec in setup.specs], setup.rules)


def _told_of(specs: Sequence[CameraSpec]) -> dict[str, str | None]:
    """What ``search`` wants to know: each camera's time zone, and the file it comes from."""
    files = {spec.name: _recording(spec) for spec in specs}
    zones = {f"zone:{spec.name}": spec.capture.time_zone for spec in specs}
    return zones | {
        f"recording:{name}": str(file) for name, file in files.items() if file is not None
    }


def _recording(spec: CameraSpec) -> Path | None:
    return Path(spec.source.location) if spec.source.kind is SourceKind.FILE else None
