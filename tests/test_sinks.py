"""Webhooks and MQTT behind the same outbox as Redis."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from planted import ODD_PASSWORD, PASSWORD
from pydantic import ValidationError
from valkey_server import free_port
from waiting import until

from pipeline.alerts import Publisher, encode_alert, encode_camera_event
from pipeline.alerts.mqtt import MqttSink
from pipeline.alerts.publisher import Publishers
from pipeline.alerts.webhook import WebhookSink, signature
from pipeline.config import Config, MqttConfig, WebhookConfig, load_config
from pipeline.errors import WrongUse
from pipeline.messages import Alert, AlertState, CameraEvent, CameraState, FrameStamp
from pipeline.store import Store
from pipeline.yaml_models import ConfigError

_AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


def _alert(name: str, state: AlertState = AlertState.STARTED, revision: int = 1) -> dict[str, Any]:
    return encode_alert(
        Alert(
            name, revision, state, "dogs", "high", (), FrameStamp("door", 1, _AT, 0, 2.0), _AT, _AT,
            _AT, 1, "a dog", 0.5, (),
        )
    )  # fmt: skip


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted; answers with what the test wants next, else 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?token=t0ken"

    def ids(self) -> list[str]:
        return [json.loads(body)["data"]["alert_id"] for _, body in self.got]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        code = self.server.answers.pop(0) if self.server.answers else 204
        self.server.paths.append(self.path)
        if code == 204:
            self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(code)
        if code == 302:
            self.send_header("location", self.server.url)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hooked(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "hooked.db", sinks=("redis", "webhook:desk"))
    yield opened
    opened.close()


def _desk(store: Store, url: str, **settings: Any) -> Publisher:
    config = WebhookConfig.model_validate({"url": url, "timeout_s": 1.0, **settings})
    publisher = Publisher(store, WebhookSink("desk", config))
    publisher.start()
    return publisher


def test_event_is_posted_signed_and_with_its_picture(receiver: Receiver, hooked: Store) -> None:
    hooked.record([(_alert("a1"), b"jpeg")])
    secret = "whsec_" + base64.b64encode(b"key").decode()
    assert _desk(hooked, receiver.url, secret=secret, snapshot=True).stop() == 0
    ((headers, body),) = receiver.got
    event = json.loads(body)
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert headers["webhook-id"] == event["id"] == "a1:started:1"
    assert base64.b64decode(event["data"]["snapshot_jpeg"]) == b"jpeg"
    stamp = headers["webhook-timestamp"]
    assert abs(int(stamp) - time.time()) < 60
    assert headers["webhook-signature"] == signature(secret, event["id"], stamp, body)
    assert hooked.depth() == 1  # Redis has not taken it yet


def test_signature_is_that_of_the_specification() -> None:
    # The example of https://github.com/standard-webhooks/standard-webhooks, signed by its library.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = signature(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_order_is_kept_over_an_outage(receiver: Receiver, hooked: Store) -> None:
    receiver.answers = [503, 500, 429, 302, 404]
    hooked.record([(_alert(f"a{number}"), None) for number in range(5)])
    publisher = _desk(hooked, receiver.url)
    until(lambda: len(receiver.got) == 5, 20.0)
    assert publisher.stop() == 0
    assert receiver.ids() == [f"a{number}" for number in range(5)]
    assert publisher.failures == 5


def test_event_that_is_refused_for_good_holds_up_nobody(
    receiver: Receiver, hooked: Store, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [422]
    hooked.record([(_alert("a1"), None), (_alert("a2"), None)])
    publisher = _desk(hooked, receiver.url)
    assert publisher.stop() == 0
    assert receiver.ids() == ["a2"]
    assert publisher.refused == 1
    assert "a1:started:1" in caplog.text
    assert "t0ken" not in caplog.text


def test_only_the_types_asked_for_are_posted(receiver: Receiver, hooked: Store) -> None:
    hooked.record([(_alert("a1"), None), (_alert("a1", AlertState.ENDED, 2), None)])
    assert _desk(hooked, receiver.url, types=["*.ended"]).stop() == 0
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["watchword.alert.ended"]


def test_receiver_that_is_away_delays_no_other_sink(hooked: Store, receiver: Receiver) -> None:
    away = f"http://127.0.0.1:{free_port()}/"
    hooked.record([(_alert("a1"), None)])
    absent = Publisher(hooked, WebhookSink("redis", WebhookConfig.model_validate({"url": away})))
    absent._sink.name = "redis"  # stands for the other sink
    both = Publishers([absent, Publisher(hooked, WebhookSink("desk", _config(receiver.url)))])
    both.start()
    both.wake()
    until(lambda: receiver.ids() == ["a1"])
    begun = time.monotonic()
    assert both.stop(0.5) == {"redis": 1}
    assert time.monotonic() - begun < 5


def test_login_of_a_url_is_sent_as_such_and_never_shown(
    receiver: Receiver, hooked: Store, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [503]
    password = quote(ODD_PASSWORD, safe="@:")  # what need not be quoted is not
    port = receiver.server_address[1]
    hooked.record([(_alert("a1"), None)])
    publisher = _desk(hooked, f"http://desk:{password}@127.0.0.1:{port}/a b/é?k=v w&q=%20")
    until(lambda: len(receiver.got) == 1)
    assert publisher.stop() == 0
    ((headers, _),) = receiver.got
    scheme, _, login = headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(login).decode()) == ("Basic", f"desk:{ODD_PASSWORD}")
    assert receiver.paths[-1] == "/a%20b/%C3%A9?k=v%20w&q=%20"
    assert "503" in caplog.text
    assert not any(piece in caplog.text for piece in ("horse7Xq", "batt3ryXq", "st4pleXq"))


def test_receiver_that_speaks_no_http_is_said_in_a_line(
    hooked: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(b"220 mail is here\r\n")
                    connection.close()

        threading.Thread(target=babble, daemon=True).start()
        hooked.record([(_alert("a1"), None)])
        publisher = _desk(hooked, f"http://127.0.0.1:{listener.getsockname()[1]}/t0ken")
        until(lambda: publisher.failures > 2)
        assert publisher.stop(0.1) == 1
    (record,) = caplog.records
    assert record.exc_info is None
    assert "webhook:desk does not answer" in record.getMessage()
    assert "t0ken" not in caplog.text


def _config(url: str) -> WebhookConfig:
    return WebhookConfig.model_validate({"url": url})


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/x", "file:///etc/passwd", "http://", "desk", "http://host:t0ken/x"),
        *(f"http://desk:{PASSWORD}/1@host/x", "http://ho st/x", "https://host:70000/x"),
    ],
)
def test_only_http_is_a_webhook_and_a_wrong_url_is_not_shown(url: str) -> None:
    with pytest.raises(ValidationError, match="webhook's url") as caught:
        _config(url)
    assert "input_value" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_abcde", "whsec_hunter2!", "whsec_hünter2"])
def test_a_secret_that_cannot_sign_is_refused_when_loaded_and_not_shown(
    secret: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"webhooks:\n  desk:\n    url: http://host/x\n    secret: {secret}\n")
    with pytest.raises(ConfigError, match=r"4.*webhook's secret") as caught:
        load_config(file)
    assert secret == "whsec_" or secret.removeprefix("whsec_") not in str(caught.value)


@pytest.mark.parametrize("secret", ["whsec_aHVudGVyMg==", "hunter2", "whsechunter2"])
def test_a_secret_that_can_sign_is_taken(secret: str) -> None:
    config = WebhookConfig.model_validate({"url": "http://host/x", "secret": secret})
    assert config.secret is not None
    assert signature(config.secret.get_secret_value(), "1", "2", b"").startswith("v1,")


def test_secrets_are_in_no_text_of_the_configuration() -> None:
    config = Config.model_validate(
        {
            "webhooks": {"desk": {"url": "https://host/t0ken", "secret": "hunter2"}},
            "mqtt": {"host": "broker", "username": "u", "password": "hunter3"},
        }
    )
    for text in (repr(config), str(config), config.model_dump_json()):
        assert not any(secret in text for secret in ("t0ken", "hunter2", "hunter3"))


def test_file_without_certificates_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        config = MqttConfig(host="broker", tls=True, ca_file=str(path))
        with pytest.raises(WrongUse, match=path.name):
            MqttSink(config)
        (tmp_path / "empty.pem").write_text("")


@contextlib.contextmanager
def _broker(directory: Path, port: int) -> Iterator[None]:
    binary = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin") or (
        shutil.which("mosquitto")
    )
    if binary is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    settings = directory / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([binary, "-c", str(settings)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port))
        yield
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


class Listener:
    """An MQTT client that keeps what it hears, retained messages marked."""

    def __init__(self, port: int) -> None:
        self.heard: dict[str, list[bytes]] = {}
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._keep
        self._client.on_connect = lambda *_: self._client.subscribe("#", qos=1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _keep(self, _: object, __: object, message: MQTTMessage) -> None:
        self.heard.setdefault(message.topic, []).append(message.payload)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _mqtt(store: Store, port: int, *known: tuple[str, str], live: Sequence[str] = ()) -> Publisher:
    config = MqttConfig(host="127.0.0.1", port=port, timeout_s=1.0)
    publisher = Publisher(store, MqttSink(config, known, live))
    publisher.start()
    return publisher


@pytest.mark.fault
def test_home_assistant_finds_cameras_and_sees_alerts(tmp_path: Path) -> None:
    port = free_port()
    store = Store(tmp_path / "store.db", sinks=("mqtt",))
    with _broker(tmp_path, port):
        listener = Listener(port)
        publisher = _mqtt(store, port, ("gate", "cats"))
        store.record([(_alert("a1"), b"jpeg")])
        until(lambda: listener.heard.get("watchword/door/dogs/state") == [b"ON"])
        store.record([(_alert("a1", AlertState.ENDED, 2), None)])
        offline = CameraEvent("door", CameraState.OFFLINE, "no frames", _AT, None, 1)
        store.record([(encode_camera_event(offline), None)])
        publisher.wake()
        until(lambda: store.depth("mqtt") == 0)
        assert publisher.stop() == 0
        until(lambda: listener.heard["watchword/status"][-1] == b"offline")
        listener.close()
    heard = listener.heard
    assert heard["watchword/door/dogs/state"] == [b"ON", b"OFF"]
    assert heard["watchword/door/dogs/snapshot"] == [b"jpeg"]
    assert heard["watchword/door/connectivity"] == [b"OFF"]
    assert len(heard["watchword/events"]) == 3
    assert json.loads(heard["watchword/door/dogs/attributes"][0])["caption"] == "a dog"
    for topic in ("binary_sensor/watchword_door/dogs", "binary_sensor/watchword_gate/cats"):
        config = json.loads(heard[f"homeassistant/{topic}/config"][0])
        assert config["availability_topic"] == "watchword/status"
        assert config["state_topic"].startswith("watchword/")
        assert config["device"]["identifiers"] == [topic.split("/")[1]]
    store.close()


@pytest.mark.fault
def test_home_assistant_knows_of_cameras_before_anything_happens(tmp_path: Path) -> None:
    port = free_port()
    store = Store(tmp_path / "store.db", sinks=("mqtt",))
    with _broker(tmp_path, port):
        left = Client(CallbackAPIVersion.VERSION2)
        left.connect("127.0.0.1", port)
        left.loop_start()  # what a run before, whose camera was away, has left
        left.publish("watchword/gate/connectivity", "OFF", qos=1, retain=True).wait_for_publish(5.0)
        left.disconnect()
        left.loop_stop()
        publisher = _mqtt(store, port, ("gate", "cats"), live=["gate"])
        listener = Listener(port)
        base = "homeassistant/binary_sensor/watchword_gate"
        until(lambda: {f"{base}/cats/config", f"{base}/connectivity/config"} <= set(listener.heard))
        until(lambda: listener.heard["watchword/gate/connectivity"][-1] == b"ON")
        offline = CameraEvent("gate", CameraState.OFFLINE, "no frames", _AT, None, 1)
        store.record([(encode_camera_event(offline), None)])
        publisher.wake()
        until(lambda: listener.heard["watchword/gate/connectivity"][-1] == b"OFF")
        assert publisher.stop() == 0
        listener.close()
    assert "watchword/gate/cats/state" not in listener.heard  # nobody knows yet
    store.close()


@pytest.mark.fault
def test_broker_that_was_away_gets_everything(tmp_path: Path) -> None:
    port = free_port()
    store = Store(tmp_path / "store.db", sinks=("mqtt",))
    store.record([(_alert(f"a{number}"), None) for number in range(3)])
    publisher = _mqtt(store, port)
    until(lambda: publisher.failures > 0)
    with _broker(tmp_path, port):
        listener = Listener(port)
        until(lambda: store.depth("mqtt") == 0, 20.0)
        until(lambda: len(listener.heard.get("watchword/events", [])) >= 1)
        listener.close()
        assert publisher.stop() == 0
    store.close()
