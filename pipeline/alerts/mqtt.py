"""A sink to an MQTT broker, with Home Assistant's discovery: https://www.home-assistant.io/integrations/mqtt.

Needs the extra ``watchword[mqtt]`` (paho-mqtt).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.alerts.publisher import SinkError
from pipeline.config import MqttConfig
from pipeline.errors import WrongUse
from pipeline.store import OutboxEntry

if TYPE_CHECKING:
    from paho.mqtt.client import Client

__all__ = ["MqttSink"]

_OPEN = {"started": "ON", "updated": "ON", "ended": "OFF"}
_CAMERA = {"online": "ON", "offline": "OFF"}
_CONNECTIVITY = "connectivity"
_MAX_QUEUED = 100


class MqttSink:
    """Publishes every event, and for Home Assistant the state of each rule on each camera.

    Args:
        config: The broker.
        known: (camera, rule) pairs that Home Assistant hears of at once; others at their first
            alert.
        live: Cameras whose connection it hears of at once; they count as connected until it is
            told otherwise, for one that works from the start raises no event.

    Raises:
        WrongUse: paho-mqtt is not installed, or ``ca_file`` holds no certificates.

    """

    name = "mqtt"
    longest_retry_s = 10.0

    def __init__(
        self,
        config: MqttConfig,
        known: Iterable[tuple[str, str]] = (),
        live: Iterable[str] = (),
    ) -> None:
        if importlib.util.find_spec("paho") is None:
            raise WrongUse("mqtt needs paho-mqtt: pip install 'watchword[mqtt]'")
        self.timeout_s = config.timeout_s
        self._config = config
        self._known = tuple(known)
        self._connected = dict.fromkeys(live, "ON")
        self._announced: set[tuple[str, str]] = set()
        self._error = "not connected yet"
        self._client = self._connect()

    def send(self, entry: OutboxEntry) -> None:
        """Publish one event with QoS 1 and wait for the broker's answer.

        Raises:
            SinkError: The broker is away, or does not answer.

        """
        if not self._client.is_connected():
            raise SinkError(f"MQTT broker {self._config.host}: {self._error}")
        self._announce_all()
        event = json.loads(entry.event)
        data = event["data"]
        self._publish(f"{self._config.prefix}/events", entry.event, retain=False)
        if "rule" in data:
            self._alert(event["type"], data, entry)
        else:
            self._camera(event["type"], data)

    def idle(self) -> None:
        """Let Home Assistant know of cameras and rules before anything happens on them."""
        if self._client.is_connected():
            with contextlib.suppress(SinkError):  # again in a second
                self._announce_all()

    def close(self) -> None:
        """Say that we are offline, and hang up."""
        if self._client.is_connected():
            with contextlib.suppress(RuntimeError, ValueError):  # else its last will says it
                gone = self._client.publish(self._status, "offline", qos=1, retain=True)
                gone.wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def _status(self) -> str:
        return f"{self._config.prefix}/status"

    def _connect(self) -> Client:
        from paho.mqtt.client import Client  # noqa: PLC0415 - an extra
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        client = Client(CallbackAPIVersion.VERSION2)
        if self._config.username is not None:
            password = self._config.password
            secret = None if password is None else password.get_secret_value()
            client.username_pw_set(self._config.username, secret)
        if self._config.tls:
            client.tls_set_context(_trusting(self._config.ca_file))
        client.will_set(self._status, "offline", qos=1, retain=True)
        client.max_queued_messages_set(_MAX_QUEUED)
        client.reconnect_delay_set(1, 10)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.connect_async(self._config.host, self._config.port, keepalive=15)
        client.loop_start()
        return client

    def _on_connect(self, client: Client, _: object, __: object, reason: Any, ___: object) -> None:
        if reason.is_failure:
            self._error = str(reason)
            return
        self._announced.clear()  # a broker that lost its retained messages hears them again
        client.publish(self._status, "online", qos=1, retain=True)

    def _on_disconnect(self, _: Client, __: object, ___: object, reason: Any, ____: object) -> None:
        self._error = str(reason)

    def _publish(self, topic: str, payload: str | bytes, retain: bool = True) -> None:
        try:
            sent = self._client.publish(topic, payload, qos=1, retain=retain)
            sent.wait_for_publish(self.timeout_s)
        except (RuntimeError, ValueError) as error:  # the queue is full, or the line is gone
            raise SinkError(f"MQTT broker {self._config.host}: {error}") from error
        if not sent.is_published():
            raise SinkError(f"MQTT broker {self._config.host} does not answer")

    def _alert(self, kind: str, data: dict[str, Any], entry: OutboxEntry) -> None:
        subject = (data["camera"], data["rule"])
        self._announce([subject])
        base = self._topic(*subject)
        if entry.snapshot is not None:
            self._publish(f"{base}/snapshot", entry.snapshot)
        self._publish(f"{base}/attributes", json.dumps(data, ensure_ascii=False))
        state = _OPEN.get(kind.rsplit(".", 1)[1])
        if state is not None:
            self._publish(f"{base}/state", state)

    def _camera(self, kind: str, data: dict[str, Any]) -> None:
        state = _CAMERA.get(kind.rsplit(".", 1)[1])
        if state is not None:
            self._connected[data["camera"]] = state
            self._announced.discard((data["camera"], _CONNECTIVITY))
            self._announce_connection(data["camera"])

    def _announce_all(self) -> None:
        self._announce(self._known)
        for camera in self._connected:
            self._announce_connection(camera)

    def _announce_connection(self, camera: str) -> None:
        if (camera, _CONNECTIVITY) in self._announced:
            return
        topic = self._topic(camera, _CONNECTIVITY)
        entity = {"name": "Connection", "device_class": _CONNECTIVITY, "state_topic": topic}
        self._discover("binary_sensor", camera, _CONNECTIVITY, entity)
        self._publish(topic, self._connected[camera])
        self._announced.add((camera, _CONNECTIVITY))

    def _announce(self, subjects: Iterable[tuple[str, str]]) -> None:
        for camera, rule in subjects:
            if (camera, rule) in self._announced:
                continue
            base = self._topic(camera, rule)
            entity = {
                "name": rule,
                "device_class": "safety",
                "state_topic": f"{base}/state",
                "json_attributes_topic": f"{base}/attributes",
            }
            picture = {"name": f"{rule} picture", "image_topic": f"{base}/snapshot"}
            self._discover("binary_sensor", camera, rule, entity)
            self._discover("image", camera, rule, {**picture, "content_type": "image/jpeg"})
            self._announced.add((camera, rule))

    def _discover(self, component: str, camera: str, what: str, entity: dict[str, Any]) -> None:
        if self._config.discovery_prefix is None:
            return
        node, name = (_identifier(text) for text in (f"{self._config.prefix}_{camera}", what))
        config = {
            **entity,
            "unique_id": f"{node}_{name}_{component}",
            "availability_topic": self._status,
            "device": {"identifiers": [node], "name": camera, "manufacturer": "Watchword"},
            "origin": {"name": "Watchword"},
        }
        topic = f"{self._config.discovery_prefix}/{component}/{node}/{name}/config"
        self._publish(topic, json.dumps(config))

    def _topic(self, camera: str, what: str) -> str:
        return f"{self._config.prefix}/{camera}/{what}"


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl's own among them
        reason = error.strerror or str(error)
        raise WrongUse(f"mqtt.ca_file {ca_file}: no certificates in it: {reason}") from None


def _identifier(text: str) -> str:
    """What Home Assistant takes in a topic of discovery."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)
