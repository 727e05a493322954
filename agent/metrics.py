"""Prometheus metrics of the process. Conversations and transports update them; `/metrics` shows them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_SECONDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)

SESSIONS = Gauge("speechgpt_gen_sessions", "Conversations open now.", ["transport"], registry=REGISTRY)
SLOTS = Gauge("speechgpt_gen_slots", "Conversations the engine can hold at a time.", registry=REGISTRY)
SESSIONS_ENDED = Counter(
    "speechgpt_gen_sessions_ended", "Conversations that ended, by reason.", ["transport", "reason"], registry=REGISTRY
)
SESSION_SECONDS = Histogram(
    "speechgpt_gen_session_seconds",
    "How long conversations lasted.",
    buckets=(1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600),
    registry=REGISTRY,
)
REFUSED = Counter(
    "speechgpt_gen_refused", "Requests, calls and upgrades turned away, by reason.", ["reason"], registry=REGISTRY
)
HTTP_REQUESTS = Counter(
    "speechgpt_gen_http_requests", "Requests to the endpoints under /v1.", ["endpoint", "status"], registry=REGISTRY
)
TURNS = Counter("speechgpt_gen_user_turns", "User turns committed.", registry=REGISTRY)
RESPONSES = Counter(
    "speechgpt_gen_responses", "Answers, by status and reason.", ["status", "reason"], registry=REGISTRY
)
PREEMPTIVE = Counter(
    "speechgpt_gen_preemptive", "Answers prepared at a soft end: kept or rolled back.", ["outcome"], registry=REGISTRY
)
LATENCY = Histogram(
    "speechgpt_gen_latency_seconds",
    "From the user's last voiced sample (typed turns: from response.create) to a stage of the answer.",
    ["stage"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
PARTS = Histogram(
    "speechgpt_gen_part_seconds",
    "What an answer's first sound took of a shared engine: waiting for others (queue), prefill, decode, flow, codec.",
    ["part"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    registry=REGISTRY,
)
UNDERRUNS = Counter("speechgpt_gen_underruns", "Gaps in answers because the engine was late.", registry=REGISTRY)
ERRORS = Counter("speechgpt_gen_errors", "Error events sent, by code.", ["code"], registry=REGISTRY)
AUDIO_SECONDS = Counter("speechgpt_gen_audio_seconds", "Audio received and played.", ["direction"], registry=REGISTRY)
