"""Who may call: origins, rates, keys, readiness; and the headers that every page and answer gets.

A browser sends the Origin of the page that calls. A page of ours is one whose origin is this very server, and the
server's name is one that cannot be forged: an address, localhost, or a name listed in `origins`. (Any other name may be
a stranger's that points at this address, so that his page could talk to a server on localhost.)
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import metrics
from .keys import SECRET_PREFIX, Key, Keys
from .limits import Clients, client_of
from .refusals import refusal
from .settings import Settings

KEY_PROTOCOL = "openai-insecure-api-key."
"""How browsers, which cannot set headers on a WebSocket, hand over the token: as a subprotocol."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
        "connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


_REALTIME = "/v1/realtime"
_ISSUE = "/v1/realtime/client_secrets"


@dataclass(frozen=True)
class Caller:
    """Who was let in, as the routes find it by `caller_of`.

    client: whom limits are counted for. session: changes to the session that came with a client secret.
    """

    client: str = ""
    session: dict[str, Any] = field(default_factory=dict)


def caller_of(scope: Scope) -> Caller:
    """Who makes a request that has passed the guard; nobody in particular where there is none (tests)."""
    caller: Caller = scope.get("state", {}).get("caller", Caller())
    return caller


class SecurityHeaders:
    """Adds security headers to every HTTP response that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class Guard:
    """Turns away what may not call, before anything is read of it: HTTP requests and WebSocket upgrades alike.

    not_ready: why the engine cannot serve yet; None when it can.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, keys: Keys, clients: Clients, not_ready: Callable[[], str | None]
    ) -> None:
        self._app = app
        self._keys, self._clients = keys, clients
        self._origins = {_origin(origin) for origin in settings.origins}
        self._not_ready = not_ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        response = self._judge(scope)
        if response is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})

    def _judge(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        path: str = scope["path"]
        origin = headers.get("origin")
        # The page itself is for everybody: opened by a name that may not call, it says so instead of staying blank.
        calls = path.startswith(("/v1/", "/metrics"))
        if calls and origin is not None and not self._may_call(origin, headers.get("host", "")):
            metrics.REFUSED.labels("origin").inc()
            return refusal(
                403, "origin_not_allowed", f"pages of {origin[:200]} may not call this server: list it in `origins`"
            )
        client = client_of((scope.get("client") or ("", 0))[0])
        key: Key | None = None
        if calls:
            if wait := self._clients.request(client):
                metrics.REFUSED.labels("rate").inc()
                return refusal(
                    429,
                    "rate_limit_exceeded",
                    f"too many requests: ask again in {math.ceil(wait)} s",
                    {"Retry-After": str(math.ceil(wait))},
                )
            offered = _offered(scope, headers)
            key = next(filter(None, map(self._keys.find, offered)), None)
            if key is not None and key.realtime_only and not _is_realtime(path):
                key = None
            # Where no key is needed any is good, but a client secret stands for a session that must not get lost.
            if key is None and (self._keys.needed or any(each.startswith(SECRET_PREFIX) for each in offered)):
                metrics.REFUSED.labels("token").inc()
                return refusal(
                    401,
                    "invalid_api_key",
                    "give a valid token, or a client secret for /v1/realtime, as `Authorization: Bearer ...`",
                    {"WWW-Authenticate": "Bearer"},
                )
        scope.setdefault("state", {})["caller"] = Caller(client, key.session if key is not None else {})
        reason = self._not_ready() if path.startswith("/v1/") else None
        if reason is not None:
            metrics.REFUSED.labels("not_ready").inc()
            return refusal(503, "not_ready", reason, {"Retry-After": "2"})
        return None

    def _may_call(self, origin: str, host: str) -> bool:
        try:
            caller = _origin(origin)
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if caller in self._origins:
            return True
        return caller.partition("://")[2] == host.lower() and _unforgeable(name)


def _offered(scope: Scope, headers: Headers) -> list[str]:
    """The keys that a request carries."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    offered = [given.strip()] if scheme.lower() == "bearer" else []
    offered += [
        name.removeprefix(KEY_PROTOCOL) for name in scope.get("subprotocols", []) if name.startswith(KEY_PROTOCOL)
    ]
    # Header bytes were decoded as latin-1; this gives them back as they were sent.
    return [each.encode("latin-1", "replace").decode("utf-8", "replace") for each in offered]


def _is_realtime(path: str) -> bool:
    return (path == _REALTIME or path.startswith(_REALTIME + "/")) and path != _ISSUE


def _origin(url: str) -> str:
    """scheme://host[:port] in lower case, without a default port."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}".lower()


def _unforgeable(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
