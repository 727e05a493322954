"""The server as one ASGI application: the page, the doors of the protocol, voices, health and metrics."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from ..models.audio import load_audio
from ..models.errors import AudioError, SpeechGPTGenError
from ..streaming.clock import Clock, RealClock
from ..streaming.engine.protocol import Engine
from . import metrics
from .client_secrets import ClientSecrets
from .doors import Doors
from .keys import Keys
from .limits import Clients
from .security import Guard, SecurityHeaders, refusal
from .settings import Settings
from .transports import websocket as websocket_door
from .transports.webrtc import Calls
from .voices import VoiceBook

log = logging.getLogger(__name__)

WEB_CLIENT = Path(__file__).parent.parent / "web_client"
MAX_VOICE_SECONDS = 60.0


class Server:
    """What the routes share.

    reason: why it cannot serve now; None when it can. started: warming up has ended, well or badly; failure: how badly.
    """

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        self.engine = VoiceBook(engine, settings.max_voices)
        self.settings = settings
        self.clock = clock
        self.keys = Keys(settings.token, clock)
        self.clients = Clients(settings, clock)
        self.calls = Calls(self.engine, settings, clock, self.clients)
        self.doors = Doors(self.engine, settings, clock)
        self.reason: str | None = "the engine is warming up"
        self.started = asyncio.Event()
        self.failure = ""

    @property
    def failed(self) -> bool:
        """Whether the engine could not be started."""
        return bool(self.failure)

    async def warm_up(self) -> None:
        """Start the engine; `reason` says how that went."""
        try:
            await self.engine.start()
            await self.doors.open()
        except SpeechGPTGenError as error:
            self.failure = str(error)
        except Exception as error:
            log.exception("the engine did not start")
            self.failure = f"{type(error).__name__}: {error}"
        else:
            self.reason = None
            metrics.SLOTS.set(self.engine.info.slots)
        if self.failed:
            self.reason = f"the engine did not start: {self.failure}"
        self.started.set()

    async def page(self, request: Request) -> Response:
        return FileResponse(WEB_CLIENT / "index.html")

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        if self.reason is not None:
            status = "failed" if self.failed else "starting"
            return JSONResponse({"status": status, "reason": self.reason}, 503, headers={"Retry-After": "1"})
        info = self.engine.info
        return JSONResponse(
            {"status": "ready", "model": info.name, "slots": info.slots, "slots_in_use": self.engine.in_use}
        )

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    async def voices(self, request: Request) -> Response:
        return JSONResponse({"data": [{"id": key, "name": name} for key, name in self.engine.catalogue()]})

    async def make_voice(self, request: Request) -> Response:
        """POST a recording of somebody speaking (WAV, FLAC, OGG): a voice to choose by the id that comes back."""
        name = " ".join(request.query_params.get("name", "").split()) or "recorded voice"
        if len(name) > 64:
            return refusal(400, "invalid_value", f"the name has {len(name)} characters: take at most 64")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self.settings.max_voice_bytes:
                    limit = self.settings.max_voice_bytes
                    return refusal(413, "recording_too_large", f"a recording may have {limit} bytes: send less")
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            pcm = await asyncio.to_thread(load_audio, io.BytesIO(bytes(body)), max_seconds=MAX_VOICE_SECONDS)
            key = await self.engine.add_voice(pcm, name)
        except AudioError as error:
            return refusal(400, "invalid_audio", str(error))
        return JSONResponse({"id": key, "name": name}, status_code=201)

    async def realtime(self, websocket: WebSocket) -> None:
        await websocket_door.converse(websocket, self.engine, self.settings, self.clock, self.clients)


def create_app(engine: Engine, settings: Settings, clock: Clock | None = None) -> Starlette:
    """The application; its lifespan starts and stops the engine. `app.state.server` is what its routes share.

    Raises ConfigError for settings that cannot work.
    """
    server = Server(engine, settings, clock or RealClock())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Warming up beside the server lets /healthz and /readyz answer meanwhile.
        warming = asyncio.create_task(server.warm_up())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            server.reason = "the server stops"
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            await server.calls.close()
            await server.doors.close()
            await server.engine.stop()

    async def no_page(request: Request) -> Response:
        return PlainTextResponse("SpeechGPT-Gen is running; this installation has no page.", status_code=404)

    has_page = (WEB_CLIENT / "index.html").is_file()
    app = Starlette(
        routes=[
            Route("/", server.page if has_page else no_page),
            Route("/healthz", server.healthz),
            Route("/readyz", server.readyz),
            Route("/metrics", server.metrics),
            Route("/v1/voices", server.voices, methods=["GET"]),
            Route("/v1/voices", server.make_voice, methods=["POST"]),
            *ClientSecrets(server.keys, server.engine, settings).routes(),
            *server.calls.routes(),
            WebSocketRoute(websocket_door.PATH, server.realtime),
            *([Mount("/web", StaticFiles(directory=WEB_CLIENT))] if has_page else []),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(
                CORSMiddleware,
                allow_origins=settings.origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "X-OpenAI-Agents-SDK"],
                expose_headers=["Location", "Retry-After"],
            ),
            Middleware(
                Guard,
                settings=settings,
                keys=server.keys,
                clients=server.clients,
                not_ready=lambda: server.reason,
            ),
        ],
        lifespan=lifespan,
    )
    app.state.server = server
    return app
