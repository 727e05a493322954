"""Every setting of the server, once: its flag, environment name, TOML key, default and reason.

A value is looked up in this order: flag of `serve`, environment `SPEECHGPT_GEN_<NAME>`, TOML file (`--config` or
`SPEECHGPT_GEN_CONFIG`), default. Lists are given to the environment as comma-separated text.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from ..models.errors import ConfigError

ENV_PREFIX = "SPEECHGPT_GEN_"
CONFIG_ENV = ENV_PREFIX + "CONFIG"


def _split(value: object) -> object:
    """Comma-separated text, also inside a list, as a list; anything else as it is."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list):
        return [part for each in value for part in (_split(each) if isinstance(each, str) else [each])]  # type: ignore[attr-defined]
    return value


Names = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[list[SecretStr], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Settings of one server process. Make one with `load_settings`, which gives one-line errors."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True, protected_namespaces=()
    )

    # Where to listen
    host: str = Field("127.0.0.1", description="Address to listen on; other machines reach only 0.0.0.0 or a LAN one.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port of HTTP and WebSocket; 0 takes any free one.")
    tls_cert: Path | None = Field(None, description="PEM certificate: browsers give a microphone only to https.")
    tls_key: Path | None = Field(None, description="PEM private key of the certificate.")
    tls_self_signed: bool = Field(
        False, description="Serve https with a certificate of our own, kept for later starts: browsers warn once."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")

    # Who may come in
    token: Secrets = Field(
        default_factory=list,
        description="Bearer tokens, one of which every API call must carry; without, only this machine may call.",
    )
    origins: Names = Field(
        default_factory=list,
        description="Other web origins (https://host[:port]) whose pages may call; a name this server is known by too.",
    )

    # Model
    model: str = Field("nano", description="Bundle to speak with: nano, tiny or 8b (random weights), or a folder.")
    device: str = Field("auto", description="Torch device: auto takes cuda when there is one, else cpu.")
    slots: int = Field(4, ge=1, description="Conversations at a time; each holds a key-value cache and flow state.")
    precision: Literal["float32", "bfloat16", "float16", "int8", "fp8"] | None = Field(
        None,
        description="Of the two big models; none takes int8 on CPU (thrice as quick), bfloat16 on a GPU, where fp8 and "
        "int8 round the language model's weights.",
    )
    context: int | None = Field(
        None, ge=256, description="On a GPU: tokens one conversation can hold; none takes the model's own number."
    )
    kv_cache: Literal["fp8"] | None = Field(
        None, description="On a GPU: fp8 keeps what the language model remembers in half the memory, less exactly."
    )
    kernels: Literal["auto", "triton", "flash", "torch"] = Field(
        "auto", description="What computes on a GPU: Triton kernels, flash-attn or torch; auto: Triton if it can run."
    )
    voice: str | None = Field(None, description="Voice of a new session; none takes the bundle's first.")
    answer_mode: Literal["text", "direct"] = Field(
        "text", description="text plans the answer in words first (clearer); direct goes from units to units (sooner)."
    )
    instructions: str = Field(
        "", description="System prompt of a new session; empty keeps to what nano was trained on."
    )
    history_turns: int = Field(3, ge=0, description="Earlier turns the model is shown, at most; nano takes 3.")
    max_answer_s: float = Field(
        30.0, gt=0, le=100, description="Longest answer in seconds: a model that rambles is stopped."
    )

    # An outside brain
    brain: str | None = Field(
        None, description="Let a chat model think: base URL of an OpenAI-compatible server (http://host/v1)."
    )
    brain_model: str | None = Field(None, description="Name of the model that the brain runs.")
    brain_key: SecretStr | None = Field(None, description="API key for the brain, where it wants one.")
    brain_prompt: str = Field(
        "You are a voice assistant: your words are spoken aloud. Answer in one to three short sentences of plain "
        "English, without lists, markup or emoji.",
        description="Told to the brain before the session's instructions.",
    )
    brain_timeout_s: float = Field(
        10.0, gt=0, description="Longest silence of the brain: to its first word, retries included, and between words."
    )
    brain_retries: int = Field(
        2, ge=0, le=10, description="Attempts after the first when the brain is away or busy, each after a longer wait."
    )
    brain_history_turns: int = Field(30, ge=0, description="Earlier turns the brain is shown.")

    # Turns
    vad: Literal["webrtc", "silero"] = Field("silero", description="Voice activity detector: webrtc is lighter.")
    vad_threshold: float = Field(0.5, ge=0, le=1, description="Speech probability above which a frame is speech.")
    min_speech_ms: int = Field(96, ge=20, description="Speech this long starts a turn; shorter is a click or a cough.")
    resume_ms: int = Field(64, ge=0, le=2000, description="Speech this long after a soft end: the turn goes on.")
    prefix_padding_ms: int = Field(300, ge=0, description="Sound kept before the detected start: first consonants.")
    soft_end_ms: int = Field(160, ge=20, description="Silence after which an answer is prepared, in case that was all.")
    silence_ms: int = Field(400, ge=20, description="Silence that ends a turn: less answers sooner, cuts in more.")
    preemptive: bool = Field(True, description="Prepare the answer at the soft end; off saves work, adds delay.")
    max_turn_s: float = Field(30.0, gt=0, le=600, description="Longest user turn in seconds; then it is answered.")

    # Limits
    idle_timeout_s: float = Field(300.0, gt=0, description="A session in which nobody speaks is ended after this.")
    session_max_s: float = Field(3600.0, gt=0, description="Longest session; frees slots left open by accident.")
    max_sessions_per_client: int = Field(
        0, ge=0, description="Conversations that one address may hold at a time; 0: as many as there are slots."
    )
    requests_per_minute: int = Field(
        600, ge=1, description="API requests and upgrades that one address may make in a minute."
    )
    events_per_second: int = Field(
        500, ge=10, description="Client events worked off in a second; faster ones of a session have to wait."
    )
    max_event_bytes: int = Field(15 * 2**20, ge=1024, description="Largest client event in bytes (protocol: 15 MiB).")
    max_outgoing_bytes: int = Field(
        2**20, ge=4096, description="Bytes queued for a client that reads too slowly before it is dropped."
    )
    max_items: int = Field(500, ge=2, description="Items a conversation keeps; the oldest are forgotten.")
    max_voice_bytes: int = Field(10 * 2**20, ge=1024, description="Largest recording accepted for a new voice.")
    max_upload_bytes: int = Field(25 * 2**20, ge=1024, description="Largest upload to transcribe or convert, in bytes.")
    max_recording_s: float = Field(
        600.0, gt=0, le=3600, description="Longest recording to transcribe or convert, in seconds."
    )
    max_voices: int = Field(64, ge=1, description="Recorded voices kept; the least recently used goes.")
    keep_voices: bool = Field(True, description="Keep recorded voices on disk, so that they outlive the server.")
    voices_folder: Path | None = Field(
        None, description="Folder of the recorded voices; none takes speechgpt-gen/voices in the user's state folder."
    )
    lead_ms: int = Field(
        200, ge=20, description="WebSocket: sound sent ahead of its playing; less stops sooner, more survives jitter."
    )

    # WebRTC
    stun: Names = Field(default_factory=list, description="STUN servers (stun:host:port); none is best on a LAN.")
    turn: Names = Field(default_factory=list, description="TURN servers (turn:host:port) to relay through.")
    turn_username: str | None = Field(None, description="User name for the TURN servers.")
    turn_password: SecretStr | None = Field(None, description="Password for the TURN servers.")
    ice_addresses: Names = Field(
        default_factory=list,
        description="Addresses to take calls on; none takes all of this machine's, with loopback if host is loopback.",
    )
    connect_timeout_s: float = Field(30.0, gt=0, description="A call that has not connected by then frees its slot.")
    peer_timeout_s: float = Field(
        6.0, gt=0, description="A call is over when its peer has not even answered a check for this long."
    )
    max_offer_bytes: int = Field(2**18, ge=4096, description="Largest SDP offer with its session, in bytes.")

    # Wyoming
    wyoming: str | None = Field(None, description="Serve voice assistants by Wyoming here: tcp://127.0.0.1:10700.")
    wyoming_allow: Names = Field(
        default_factory=list,
        description="Who may connect by Wyoming, which knows no passwords: addresses or networks (192.168.1.0/24).",
    )
    wyoming_announce: bool = Field(False, description="Announce Wyoming on the local network, for Home Assistant.")

    # MQTT
    mqtt: SecretStr | None = Field(
        None, description="Serve Rhasspy's Hermes satellites over this broker: mqtt[s]://[user:password@]host[:port]."
    )
    mqtt_username: str | None = Field(None, description="User name for the MQTT broker.")
    mqtt_password: SecretStr | None = Field(None, description="Password for the MQTT broker.")
    mqtt_ca: Path | None = Field(None, description="PEM certificates that the broker's must be signed by (mqtts).")
    mqtt_cert: Path | None = Field(None, description="PEM certificate of ours, for brokers that ask for one (mqtts).")
    mqtt_key: Path | None = Field(None, description="PEM private key of that certificate, unless it is in its file.")
    mqtt_client_id: str | None = Field(
        None, description="Our name on the broker, one client each; none makes one of this machine's name."
    )
    mqtt_sites: Names = Field(default_factory=list, description="Hermes sites to serve; none serves every site.")
    mqtt_roles: Names = Field(
        default_factory=lambda: ["asr", "tts", "dialogue"],
        description="Hermes services to be: leave out what another program on the broker does.",
    )
    mqtt_follow_up_s: float = Field(
        8.0, gt=0, le=600, description="A Hermes session in which nobody speaks for this long ends."
    )
    mqtt_barge_in: bool = Field(
        False, description="Listen to a site while it plays: only with satellites that cancel their echo."
    )

    @property
    def shown_turns(self) -> int:
        """Earlier turns that whoever answers is shown."""
        return self.history_turns if self.brain is None else self.brain_history_turns

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment: no .env file or secrets folder is looked for."""
        return init_settings, env_settings


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from flags, environment and the TOML file `config` (default: named by SPEECHGPT_GEN_CONFIG).

    Raises ConfigError, one line, for a file that cannot be read, an unknown key or an impossible value.
    """
    if config is None and os.environ.get(CONFIG_ENV):
        config = Path(os.environ[CONFIG_ENV])
    table = _read_toml(config) if config is not None else {}

    # Values given to the constructor win over the environment, so those of the file step back where it has a say.
    said = {name.upper() for name in os.environ}
    below = {name: value for name, value in table.items() if (ENV_PREFIX + name).upper() not in said}
    try:
        settings = Settings(**{**below, **{name: value for name, value in flags.items() if value is not None}})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        origin = f" ({config})" if where in table and where not in flags else ""
        text = "unknown setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        raise ConfigError(f"setting {where}{origin}: {text}") from None
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("tls_cert and tls_key go together: give both or neither")
    if settings.tls_self_signed and settings.tls_cert is not None:
        raise ConfigError("tls_self_signed makes a certificate of its own: give either it or tls_cert and tls_key")
    if not settings.token and not is_loopback(settings.host):
        raise ConfigError(
            f"without a token only this machine may call, and host {settings.host} is open to others: "
            "give --token, or keep --host 127.0.0.1"
        )
    if settings.soft_end_ms > settings.silence_ms:
        raise ConfigError(
            f"soft_end_ms ({settings.soft_end_ms}) is longer than silence_ms ({settings.silence_ms}): lower it"
        )
    return settings


def state_folder() -> Path:
    """Where the server keeps what outlives it: `speechgpt-gen` in the user's state folder."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "speechgpt-gen"


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not TOML: {error}") from None
