"""The server as one ASGI application: the page, the doors of the protocol, voices, health and metrics."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from ..models.errors import SpeechGPTGenError
from ..streaming.clock import Clock, RealClock
from ..streaming.engine.protocol import Engine
from . import metrics
from .brain.chat import ChatModel
from .brain.engine import BrainEngine
from .client_secrets import ClientSecrets
from .doors import Doors
from .http import routes as http_audio
from .keys import Keys
from .limits import Clients
from .refusals import refusal
from .security import Guard, SecurityHeaders
from .settings import Settings, state_folder
from .transports import websocket as websocket_door
from .transports.webrtc import Calls
from .voice_files import VoiceFiles
from .voices import VoiceBook

log = logging.getLogger(__name__)

WEB_CLIENT = Path(__file__).parent.parent / "web_client"


class Server:
    """What the routes share.

    reason: why it cannot serve now; None when it can. started: warming up has ended, well or badly; failure: how badly.
    """

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        thinking = BrainEngine(engine, ChatModel(settings), clock) if settings.brain is not None else engine
        files = VoiceFiles(settings.voices_folder or state_folder() / "voices") if settings.keep_voices else None
        self.engine = VoiceBook(thinking, settings.max_voices, files)
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
            gc.collect()
            gc.freeze()  # models and modules stay: collecting after a call need not look at them
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

    async def no_such(request: Request, error: Exception) -> Response:
        """Callers of the API get JSON of the protocol's shape also for a wrong address or method."""
        assert isinstance(error, HTTPException)
        if request.url.path.startswith("/v1/"):
            what = f"{request.method} {request.url.path[:200]}: {error.detail}"
            return refusal(error.status_code, "not_found", what, dict(error.headers or {}))
        return PlainTextResponse(str(error.detail), status_code=error.status_code, headers=error.headers)

    has_page = (WEB_CLIENT / "index.html").is_file()
    app = Starlette(
        routes=[
            Route("/", server.page if has_page else no_page),
            Route("/healthz", server.healthz),
            Route("/readyz", server.readyz),
            Route("/metrics", server.metrics),
            *ClientSecrets(server.keys, server.engine, settings).routes(),
            *http_audio.routes(server.engine, settings, server.clock),
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
        exception_handlers={HTTPException: no_such},
    )
    app.state.server = server
    return app
