"""A server with the fake engine, as a process of its own, so that a test can also kill it: `serve_fake.py {json}`."""

import json
import sys

import uvicorn

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine


def main() -> None:
    """Serve until told to stop. The argument has `engine` (of FakeEngine) and `settings`, each an object."""
    wanted = json.loads(sys.argv[1])
    settings = Settings(**{"vad": "webrtc", **wanted["settings"]})
    engine = FakeEngine(clock=RealClock(), **wanted["engine"])
    uvicorn.run(create_app(engine, settings), host=settings.host, port=settings.port, log_level="warning")


if __name__ == "__main__":
    main()
