"""Where the broker is and who we are to it."""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ...models.errors import ConfigError
from ..settings import Settings

log = logging.getLogger(__name__)

_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """tls: None for a connection in the clear. identifier: the client's name, one at a time on a broker."""

    host: str
    port: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None
    identifier: str

    @property
    def shown(self) -> str:
        """The address without its secrets."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def broker_of(settings: Settings) -> Broker:
    """The broker that the settings name; user and password of their own win over those in the address.

    Raises ConfigError, which never shows the password.
    """
    assert settings.mqtt is not None
    try:
        parts = urlsplit(settings.mqtt.get_secret_value())
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in _PORTS or parts.path.strip("/"):
        raise ConfigError("mqtt is no broker's address: give mqtt://host[:port] or mqtts://[user:password@]host[:port]")
    secret = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None
    password = secret or (unquote(parts.password) if parts.password else None)
    username = settings.mqtt_username or (unquote(parts.username) if parts.username else None)
    if password and not username:
        raise ConfigError("mqtt_password needs mqtt_username: MQTT has no password without a user")
    tls = _tls(settings) if parts.scheme == "mqtts" else None
    if tls is None and settings.mqtt_ca is not None:
        raise ConfigError("mqtt_ca is for TLS: give the address as mqtts://")
    if tls is None and password and host not in ("localhost", "127.0.0.1", "::1"):
        log.warning("the password for the MQTT broker %s travels in the clear: use mqtts://", host)
    identifier = settings.mqtt_client_id or f"speechgpt-gen-{socket.gethostname().partition('.')[0]}"
    return Broker(host, port or _PORTS[parts.scheme], username, password, tls, identifier)


def _tls(settings: Settings) -> ssl.SSLContext:
    files = [file for file in (settings.mqtt_ca, settings.mqtt_cert, settings.mqtt_key) if file is not None]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"there is no file {missing[0]}: give a PEM file for mqtt_ca, mqtt_cert and mqtt_key")
    try:
        context = ssl.create_default_context(cafile=settings.mqtt_ca)
        if settings.mqtt_cert is not None:
            context.load_cert_chain(settings.mqtt_cert, settings.mqtt_key)
    except ssl.SSLError as error:
        raise ConfigError(f"the TLS files for MQTT cannot be used: {error.reason or error}") from None
    return context
