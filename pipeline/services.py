"""What a run needs beside its stages: store, Redis, publisher, captioner child."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from redis import RedisError

from pipeline.alerts import EmbeddedRedis, Publisher, RedisSink, ReviewFollower
from pipeline.alerts.mqtt import MqttSink
from pipeline.alerts.publisher import Publishers, Sink
from pipeline.alerts.redis_client import RedisUnfit, connect
from pipeline.alerts.webhook import WebhookSink
from pipeline.camera_feed import CameraSpec
from pipeline.captioner import CaptionerProcess
from pipeline.captioner_messages import CaptionerOptions, Ready
from pipeline.config import Config, ModelConfig, RedisConfig
from pipeline.errors import WrongUse
from pipeline.redaction import redact, redact_url
from pipeline.rules import ReviewBook, RuleSet
from pipeline.run_setup import camera_groups
from pipeline.store import REDIS, Housekeeper, Retention, Store, exclusive

__all__ = ["Services", "check_redis_url", "open_services", "start_captioner"]


@dataclass(frozen=True, slots=True)
class Services:
    """What is open while a run goes."""

    store: Store
    redis_url: str
    redis: RedisSink
    publishers: Publishers
    book: ReviewBook
    reviews: ReviewFollower
    server: EmbeddedRedis | None
    """Our own Redis, where none was given."""


def start_captioner(
    model: ModelConfig, rules: RuleSet, factory: str, stack: ExitStack, *, live: bool = True
) -> tuple[CaptionerProcess, Ready]:
    """Start the captioner child and wait for its model; ``stack`` ends it.

    Without ``live`` cameras its batches may be as large as the memory allows.

    Raises:
        CaptionerError: The model cannot be loaded.

    """
    options = CaptionerOptions(
        factory=factory,
        model=model.name,
        device=model.device,
        runtime=model.runtime,
        beam_size=model.beam_size,
        max_words=model.max_words,
        window_frames=model.window_frames,
        concepts=rules.concepts,
        probes=rules.probes,
        max_batch_frames=model.max_batch_frames,
        measure_batch=True,
        waits=live,
    )
    captioner = CaptionerProcess(options, model.answer_timeout_s)
    stack.callback(captioner.kill)
    ready = captioner.start(first=True)
    if ready.unknown_concepts:
        sys.stderr.write(
            f"{ready.identity} has no concept {', '.join(ready.unknown_concepts)}; "
            f"rules that ask for it in {rules.path} go by words alone\n"
        )
    return captioner, ready


def check_redis_url(config: RedisConfig) -> None:
    """Look at a Redis URL without connecting.

    Raises:
        WrongUse: It is malformed.

    """
    if config.url is not None:
        connect(config.url, config.timeout_s).close()


def open_services(
    config: Config, rules: RuleSet, specs: Sequence[CameraSpec], stack: ExitStack
) -> Services:
    """Open the store, find or start a Redis, start what talks to it; ``stack`` closes all.

    Raises:
        StoreError: The store cannot be opened.
        EmbeddedRedisError: No Redis was given and our own does not start.
        WrongUse: The Redis URL is malformed, or its server can never carry alerts.

    """
    store = _open_store(config, stack)
    server = None if config.redis.url else stack.enter_context(EmbeddedRedis())
    redis_url = server.url if server is not None else str(config.redis.url)
    sink = RedisSink(config.redis, redis_url)
    _check(sink, redis_url)
    sinks = (sink, *_other_sinks(config, rules, specs))
    publishers = Publishers([Publisher(store, each) for each in sinks])
    publishers.start()
    stack.callback(publishers.stop, 0.0)
    book = ReviewBook(rules, store.state("reviews"))
    reviews = ReviewFollower(config.redis, redis_url, book.position)
    reviews.start()
    stack.callback(reviews.stop)
    return Services(store, redis_url, sink, publishers, book, reviews, server)


def _check(sink: RedisSink, redis_url: str) -> None:
    """Say at once what is wrong with the server; one that is away now may come back."""
    try:
        sink.check()
    except RedisUnfit as error:
        raise WrongUse(f"Redis at {redact_url(redis_url)} {error}") from None
    except RedisError as error:
        sys.stderr.write(
            f"Redis at {redact_url(redis_url)} does not answer yet ({redact(str(error))}); "
            "alerts wait in the outbox until it does\n"
        )


def _other_sinks(config: Config, rules: RuleSet, specs: Sequence[CameraSpec]) -> list[Sink]:
    sinks: list[Sink] = [WebhookSink(name, hook) for name, hook in config.webhooks.items()]
    if config.mqtt is not None:
        groups = camera_groups(config)
        known = [
            (spec.name, rule.spec.name)
            for spec in specs
            for rule in rules.of_camera(spec.name, groups)
        ]
        live = [spec.name for spec in specs if spec.source.live]
        sinks.append(MqttSink(config.mqtt, known, live))
    return sinks


def _open_store(config: Config, stack: ExitStack) -> Store:
    settings = config.store
    hooks = [f"webhook:{name}" for name in config.webhooks]
    sinks = (REDIS, *hooks, *([MqttSink.name] if config.mqtt is not None else []))
    stack.enter_context(exclusive(Path(settings.path)))
    # A run that goes on with another's work does not send again what that one has sent.
    store = Store(
        settings.path,
        sinks=sinks,
        reserve_mib=settings.reserve_mib,
        republish=not config.output.resume,
    )
    stack.callback(store.close)
    for sink, count in store.drop_other_sinks().items():
        sys.stderr.write(f"{sink} is configured no more; {count} events that waited for it go\n")
    limits = Retention(
        settings.event_max_age_days, settings.caption_max_age_days, settings.caption_max_mib
    )
    housekeeper = Housekeeper(store, limits)
    housekeeper.start()
    stack.callback(housekeeper.stop)
    return store
