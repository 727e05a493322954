"""GET /v1/models: the one model that this server runs."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...streaming.engine.protocol import Engine
from ..refusals import Refused


class Models:
    """The endpoints. `created` is when the server began."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._created = int(time.time())

    async def list(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one(self, request: Request) -> Response:
        """GET /v1/models/{name}."""
        name = request.path_params["name"]
        model = self._model()
        if name != model["id"]:
            raise Refused(404, "model_not_found", f"there is no model {name[:80]!r}: this server runs {model['id']}")
        return JSONResponse(model)

    def _model(self) -> dict[str, Any]:
        owner = {"object": "model", "created": self._created, "owned_by": "speechgpt-gen"}
        return {"id": self._engine.info.name, **owner}
