"""A client of any server that speaks the OpenAI Realtime protocol; published as `speechgpt_gen.client`.

It knows the public protocol and the lower floors' audio, and nothing of the server that stands beside it.
"""

from ...streaming.playout import Source
from .client import Client
from .connection import Event, RefusedError, ServerError, Sink, Transport
from .devices import Microphone, Speaker
from .ear import Ear

__all__ = [
    "Client",
    "Ear",
    "Event",
    "Microphone",
    "RefusedError",
    "ServerError",
    "Sink",
    "Source",
    "Speaker",
    "Transport",
]
