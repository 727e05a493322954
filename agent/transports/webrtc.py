"""The WebRTC door: POST /v1/realtime/calls with an SDP offer, answered with 201 and all our candidates."""

import asyncio
import gc
import secrets
from collections.abc import Iterator
from contextlib import ExitStack

from aiortc.rtcicetransport import parse_stun_turn_uri
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ...models.errors import ConfigError
from ...streaming.clock import Clock, RealClock
from ...streaming.engine.protocol import Engine
from ..limits import Clients
from ..refusals import Refused, answered
from ..security import Caller, caller_of
from ..settings import Settings
from .call import Call
from .offer import Offer, read_offer

PATH = "/v1/realtime/calls"
_SWEEP_AFTER = 1.0
"""Seconds after the end of a call until what is left of it is collected. The objects of a peer connection refer to each
other; left to Python, which collects seldom, they leave holes in the heap that never close. `Server.warm_up` freezes
what was loaded, so a sweep looks at what calls made and takes milliseconds."""


class Calls:
    """All WebRTC calls of a server.

    Raises:
        ConfigError: a STUN or TURN address of the settings is malformed.
    """

    def __init__(
        self, engine: Engine, settings: Settings, clock: Clock | None = None, clients: Clients | None = None
    ) -> None:
        for url in (*settings.stun, *settings.turn):
            try:
                parse_stun_turn_uri(url)
            except ValueError as error:
                raise ConfigError(f"{url!r} is no STUN or TURN address ({error}); write stun:host:port") from None
        self._engine = engine
        self._settings = settings
        self._clock = clock or RealClock()
        self._clients = clients or Clients(settings, self._clock)
        self._calls: dict[str, Call] = {}
        self._offers: dict[str, str] = {}
        self._counted: dict[str, ExitStack] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._calls.values()))

    def get(self, id: str) -> Call:
        """The call of this id. Raises Refused 404."""
        if id not in self._calls:
            raise Refused(404, "no_such_call", "there is no such call; it may have ended")
        return self._calls[id]

    def routes(self) -> list[BaseRoute]:
        """Routes to mount at the root of the application."""
        return [
            Route(PATH, answered("calls")(self._create), methods=["POST"]),
            Route(PATH + "/{id}", answered("calls")(self._refuse_offer), methods=["POST", "PUT", "PATCH"]),
            Route(PATH + "/{id}", answered("calls")(self._hang_up), methods=["DELETE"]),
            Route(PATH + "/{id}/hangup", answered("calls")(self._hang_up), methods=["POST"]),
        ]

    async def open(self, offer: Offer, caller: Caller | None = None) -> tuple[Call, str]:
        """Open a call for an offer; returns it and the SDP answer.

        Raises:
            Refused: the offer was answered before, or cannot be.
            EngineFullError: no slot is free.
            TooManySessionsError: none for this caller.
        """
        caller = caller or Caller()
        if offer.key in self._offers:
            raise Refused(409, "already_answered", "this offer has its answer; make a new offer for a new call")
        with ExitStack() as counted:
            counted.enter_context(self._clients.session(caller.client))
            call = Call("rtc_" + secrets.token_urlsafe(16), self._engine, self._settings, self._clock, self._forget)
            self._calls[call.id] = call
            self._offers[offer.key] = call.id
            self._counted[call.id] = counted.pop_all()
        try:
            return call, await call.answer(offer, caller.session)
        except BaseException:
            self._forget(call)
            raise

    async def close(self) -> None:
        """Hang up every call: the server stops."""
        await asyncio.gather(*(call.hang_up("server_stopped") for call in self))

    def _forget(self, call: Call) -> None:
        if self._calls.pop(call.id, None) is not None:
            self._counted.pop(call.id).close()
        self._offers = {key: id for key, id in self._offers.items() if id != call.id}
        if self._sweep is None or self._sweep.cancelled() or self._sweep.when() < asyncio.get_running_loop().time():
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_AFTER, gc.collect)

    async def _create(self, request: Request) -> Response:
        offer = await read_offer(request, max_bytes=self._settings.max_offer_bytes)
        call, answer = await self.open(offer, caller_of(request.scope))
        return Response(
            answer, status_code=201, media_type="application/sdp", headers={"Location": f"{PATH}/{call.id}"}
        )

    async def _refuse_offer(self, request: Request) -> Response:
        self.get(request.path_params["id"])
        raise Refused(409, "already_answered", "a call has one offer; hang up and make a new call")

    async def _hang_up(self, request: Request) -> Response:
        await self.get(request.path_params["id"]).hang_up("hung_up")
        return Response(status_code=200 if request.method == "POST" else 204)
