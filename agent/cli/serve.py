"""`speechgpt-gen serve`: the server. Its flags are the settings."""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from ...models.errors import ConfigError, EngineError
from ..settings import CONFIG_ENV, ENV_PREFIX, Settings, is_loopback, load_settings
from .errors import user_errors

if TYPE_CHECKING:
    from ...streaming.engine.local import LocalEngine

GRACE_S = 3
"""Seconds that open connections get to end when the server stops."""


def register(app: typer.Typer) -> None:
    """Add `serve` to the command line."""
    app.command(help="Start the server: the page at / and the OpenAI Realtime protocol at /v1/realtime.")(
        with_setting_flags(user_errors(_serve))
    )


def with_setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command with one flag for every setting, called with those that were given and `config`."""

    def run(**flags: Any) -> None:
        command(**{name: value for name, value in flags.items() if value not in (None, [])})

    parameters = [inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_CONFIG)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field))
        for name, field in Settings.model_fields.items()
    ]
    run.__name__ = "serve"
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


_CONFIG = Annotated[
    Path | None, typer.Option("--config", help="TOML file with any of these settings.", envvar=CONFIG_ENV)
]


def _flag(name: str, field: FieldInfo) -> Any:
    """The flag of a setting. Its value stays text: the settings check it, wherever it comes from."""
    flag = "--" + name.replace("_", "-")
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = f"default: {default}; " if default not in (None, [], "") else ""
    choices = [str(choice) for part in (field.annotation, *get_args(field.annotation)) for choice in _literals(part)]
    text = f"{field.description} ({shown}env: {ENV_PREFIX}{name.upper()})"
    metavar = "|".join(choices) if choices else _metavar(field.annotation)
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=text, show_default=False)]
    kind = list[str] | None if isinstance(default, list) else str | None
    return Annotated[kind, typer.Option(flag, help=text, metavar=metavar, show_default=False)]


def _literals(annotation: Any) -> tuple[Any, ...]:
    return tuple(value for value in get_args(annotation) if isinstance(value, str))


def _metavar(annotation: Any) -> str:
    kinds = {annotation, *get_args(annotation)}
    return next((shown for kind, shown in ((int, "N"), (float, "X"), (Path, "FILE")) if kind in kinds), "TEXT")


def _serve(config: Path | None = None, **flags: Any) -> None:
    settings = load_settings(config, **flags)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = _listen(settings)
    try:
        asyncio.run(_run(settings, listener))
    finally:
        listener.close()


def _listen(settings: Settings) -> socket.socket:
    """Take the port before anything is loaded, so that a taken one is told at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{where} is taken by another program: stop it or choose another --port") from None
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from None
    listener.listen()
    listener.setblocking(False)
    return listener


async def _run(settings: Settings, listener: socket.socket) -> None:
    import uvicorn

    from ...kernels import selection
    from ..app import Server, create_app
    from ..tls import fingerprint, self_signed

    selection.use(settings.kernels)
    engine = _engine(settings)
    app = create_app(engine, settings)
    certificate, key = self_signed() if settings.tls_self_signed else (settings.tls_cert, settings.tls_key)
    for file in filter(None, (certificate, key)):
        if not file.is_file():
            raise ConfigError(f"there is no file {file}: give a PEM certificate and its key")
    tls = {"ssl_certfile": certificate, "ssl_keyfile": key} if certificate else {}
    uvicorn_config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        # Beyond the protocol's cap an event gets an error; only one far beyond it costs the connection.
        ws_max_size=2 * settings.max_event_bytes,
        ws_per_message_deflate=False,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        timeout_graceful_shutdown=GRACE_S,
        **tls,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(uvicorn_config)
    shared: Server = app.state.server
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host

    async def announce() -> None:
        await shared.started.wait()
        if shared.failed:
            server.should_exit = True
        else:
            typer.echo(f"SpeechGPT-Gen ({engine.info.name}) is ready: {'https' if tls else 'http'}://{shown}:{port}")
            if not settings.token:
                typer.echo("Only this machine can reach it. To let others in: --token SECRET --host 0.0.0.0")
            elif not tls and not is_loopback(settings.host):
                typer.echo("Tokens travel in the clear, and browsers give no microphone: see --tls-self-signed")
            if settings.tls_self_signed and certificate is not None:
                typer.echo(f"The certificate is our own: browsers warn once. Its SHA-256 is {fingerprint(certificate)}")

    announcing = asyncio.create_task(announce())
    await server.serve(sockets=[listener])
    announcing.cancel()
    if shared.failed:
        raise EngineError(shared.failure)


def _engine(settings: Settings) -> LocalEngine:
    """Shared batches on a GPU; on a CPU one conversation after another."""
    from ...streaming.engine.batched import BatchedEngine
    from ...streaming.engine.local import LocalEngine

    device = _device(settings.device)
    if not device.startswith("cuda"):
        return LocalEngine(settings.model, settings.slots, device=device, precision=settings.precision)
    return BatchedEngine(
        settings.model,
        settings.slots,
        device=device,
        precision=settings.precision,
        context=settings.context,
        kv_cache=settings.kv_cache,
    )


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
