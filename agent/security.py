"""Who may call: origins, bearer token, readiness; and the headers that every page and answer gets.

A browser sends the Origin of the page that calls. A page of ours is one whose origin is this very server, and the
server's name is one that cannot be forged: an address, localhost, or a name listed in `origins`. (Any other name may be
a stranger's that points at this address, so that his page could talk to a server on localhost.)
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import metrics
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


def refusal(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An HTTP error in the protocol's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(
        {"error": {"type": kind, "code": code, "message": message}}, status_code=status, headers=headers
    )


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

    def __init__(self, app: ASGIApp, settings: Settings, not_ready: Callable[[], str | None]) -> None:
        self._app = app
        self._token = settings.token.get_secret_value() if settings.token is not None else None
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
        if self._token is not None and calls and not self._knows_token(scope, headers):
            metrics.REFUSED.labels("token").inc()
            return refusal(
                401,
                "invalid_api_key",
                "give the server's token as `Authorization: Bearer ...`",
                {"WWW-Authenticate": "Bearer"},
            )
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

    def _knows_token(self, scope: Scope, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offers = [given.strip()] if scheme.lower() == "bearer" else []
        offers += [
            name.removeprefix(KEY_PROTOCOL) for name in scope.get("subprotocols", []) if name.startswith(KEY_PROTOCOL)
        ]
        wanted = (self._token or "").encode()
        # Header bytes were decoded as latin-1; this gives them back as they were sent.
        return any(hmac.compare_digest(offer.encode("latin-1", "replace"), wanted) for offer in offers)


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
