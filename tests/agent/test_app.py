"""The application over HTTP and WebSocket, in process."""

import asyncio
import io
import time

import numpy as np
import pytest
from safetensors.numpy import save_file
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.models.audio import write_wav
from speechgpt_gen.models.errors import ModelNotFoundError
from speechgpt_gen.streaming.engine.fake import FakeEngine

LOCAL = "http://127.0.0.1:8080"
SOCKET = "ws://127.0.0.1:8080/v1/realtime"


@pytest.fixture
def serve():
    """serve(engine=None, **settings): a client of an application whose engine has started, or need not (wait=False)."""
    clients = []

    def start(engine=None, *, wait=True, **settings):
        app = create_app(engine or FakeEngine(words=2), Settings(**settings))
        client = TestClient(app, base_url=LOCAL)
        client.__enter__()
        clients.append(client)
        while wait and client.get("/readyz").json()["status"] == "starting":
            time.sleep(0.005)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def wav(seconds: float) -> bytes:
    target = io.BytesIO()
    write_wav(target, 0.1 * np.sin(np.arange(int(seconds * 16_000)) / 10).astype(np.float32))
    return target.getvalue()


def test_health_readiness_and_metrics(serve):
    client = serve()
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "model": "fake", "slots": 4, "slots_in_use": 0}
    with client.websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        assert client.get("/readyz").json()["slots_in_use"] == 1
        text = client.get("/metrics").text
    assert 'speechgpt_gen_sessions{transport="websocket"} 1.0' in text
    assert "speechgpt_gen_slots 4.0" in text


def test_not_ready_until_warm_and_says_why_it_failed(serve):
    class Slow(FakeEngine):
        async def start(self):
            await asyncio.sleep(3600)

    client = serve(Slow(), wait=False)
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "starting")
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/voices").status_code == 503

    class Broken(FakeEngine):
        async def start(self):
            raise ModelNotFoundError("there is no model 'x'")

    client = serve(Broken())
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "failed")
    assert "there is no model 'x'" in ready.json()["reason"]
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
        pass
    assert refused.value.status_code == 503


def test_security_headers_on_everything(serve):
    client = serve()
    for path in ("/", "/healthz", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "microphone=(self)" in headers["permissions-policy"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (LOCAL, True),
        ("http://evil.example", False),
        ("null", False),
        ("http://127.0.0.1:9999", False),
        ("https://friend.example", True),
        ("https://friend.example:8443", False),
        ("http://[", False),
    ],
)
def test_origins_on_http_and_websocket(serve, origin, allowed):
    client = serve(origins=["https://Friend.example:443/"])
    assert client.get("/v1/voices", headers={"origin": origin}).status_code == (200 if allowed else 403)
    if allowed:
        with client.websocket_connect(SOCKET, headers={"origin": origin}) as socket:
            assert socket.receive_json()["type"] == "session.created"
    else:
        with pytest.raises(WebSocketDenialResponse) as refused:
            client.websocket_connect(SOCKET, headers={"origin": origin}).__enter__()
        assert refused.value.status_code == 403


def test_a_strangers_name_for_this_address_is_no_origin_of_ours(serve):
    client = serve()
    headers = {"origin": "http://rebound.example:8080", "host": "rebound.example:8080"}
    assert client.get("/v1/voices", headers=headers).status_code == 403
    headers = {"origin": "http://localhost:8080", "host": "localhost:8080"}
    assert client.get("/v1/voices", headers=headers).status_code == 200


def test_pages_of_allowed_origins_get_cors(serve):
    client = serve(origins=["https://friend.example"], token="t")
    ask = {"origin": "https://friend.example", "access-control-request-method": "POST"}
    answer = client.options("/v1/realtime/calls", headers={**ask, "access-control-request-headers": "authorization"})
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    answer = client.get("/v1/voices", headers={"origin": "https://friend.example", "authorization": "Bearer t"})
    assert "Location" in answer.headers["access-control-expose-headers"]


def test_token(serve):
    client = serve(token="Sésame")
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/voices").status_code == 401
    assert client.get("/metrics").status_code == 401
    for header in ("Bearer wrong", "Basic Sésame", "Sésame", "Bearer"):
        assert client.get("/v1/voices", headers={"authorization": header.encode()}).status_code == 401
    assert client.get("/v1/voices", headers={"authorization": "Bearer Sésame".encode()}).status_code == 200
    client = serve(token="secret")
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
        pass
    assert refused.value.status_code == 401
    with client.websocket_connect("/v1/realtime", headers={"authorization": "Bearer secret"}) as socket:
        assert socket.receive_json()["type"] == "session.created"


def test_a_browsers_subprotocols(serve):
    client = serve(token="secret")
    offered = ["realtime", "openai-insecure-api-key.secret", "openai-agents-sdk.0.14.3"]
    with client.websocket_connect("/v1/realtime?model=nano", subprotocols=offered) as socket:
        assert socket.accepted_subprotocol == "realtime"
        assert socket.receive_json()["type"] == "session.created"
    with client.websocket_connect("/v1/realtime", headers={"authorization": "Bearer secret"}) as socket:
        assert socket.accepted_subprotocol is None


def test_full_is_503_with_retry_after_and_a_hang_up_frees_the_slot(serve):
    client = serve(FakeEngine(slots=1))
    with client.websocket_connect("/v1/realtime") as first:
        first.receive_json()
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
            pass
        assert refused.value.status_code == 503
        assert int(refused.value.headers["retry-after"]) > 0
        assert refused.value.json()["error"]["code"] == "session_limit_reached"
    with client.websocket_connect("/v1/realtime") as second:
        assert second.receive_json()["type"] == "session.created"


def test_bad_frames_keep_the_connection(serve):
    client = serve(max_event_bytes=5000)
    with client.websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        for bad in ("{", "[]", '{"type": "x"}', '{"type": "response.cancel"}', "x" * 6000):
            socket.send_text(bad)
            assert socket.receive_json()["type"] == "error"
        socket.send_bytes(b"\xff\xfe")
        assert socket.receive_json()["error"]["code"] == "invalid_json"
        socket.send_json({"type": "session.update", "session": {}})
        assert socket.receive_json()["type"] == "session.updated"


def test_an_expired_session_is_told_and_closed(serve):
    client = serve(session_max_s=0.05)
    with client.websocket_connect("/v1/realtime") as socket:
        assert socket.receive_json()["type"] == "session.created"
        assert socket.receive_json()["error"]["code"] == "session_expired"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        assert (closed.value.code, closed.value.reason) == (1000, "session_expired")


def test_voices_are_listed_made_and_spoken_in(serve):
    engine = FakeEngine(words=1)
    client = serve(engine)
    assert client.get("/v1/voices").json()["data"] == [
        {"id": "first", "name": "first"},
        {"id": "second", "name": "second"},
    ]
    made = client.post("/v1/voices", params={"name": "  My   voice ", "consent": "true"}, content=wav(2.0))
    assert made.status_code == 201
    voice = made.json()
    assert voice["name"] == "My voice"
    assert voice in client.get("/v1/voices").json()["data"]
    with client.websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        socket.send_json({"type": "session.update", "session": {"audio": {"output": {"voice": voice["id"]}}}})
        assert socket.receive_json()["session"]["audio"]["output"]["voice"] == voice["id"]
        content = [{"type": "input_text", "text": "Hi."}]
        item = {"type": "message", "role": "user", "content": content}
        socket.send_json({"type": "conversation.item.create", "item": item})
        socket.send_json({"type": "response.create"})
        while socket.receive_json()["type"] != "response.created":
            pass
        (session,) = engine.sessions
        assert session.voice.name == "My voice"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"no audio", 400), (wav(2.0)[:30], 400), (wav(0.01), 400), (b"x" * 20_000, 413)],
)
def test_recordings_that_make_no_voice(serve, body, status):
    client = serve(max_voice_bytes=10_000 if status == 413 else 100_000)
    answer = client.post("/v1/voices?consent=true", content=body)
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]["message"]
    assert client.post("/v1/voices", params={"name": "x" * 100, "consent": "true"}, content=wav(1)).status_code == 400


def test_old_recorded_voices_go(serve):
    client = serve(max_voices=2)
    ids = [client.post("/v1/voices?consent=true", content=wav(1.0)).json()["id"] for _ in range(3)]
    assert [voice["id"] for voice in client.get("/v1/voices").json()["data"]] == ["first", "second", *ids[1:]]


def ids(client) -> list[str]:
    return [voice["id"] for voice in client.get("/v1/voices").json()["data"]]


def test_recorded_voices_outlive_the_server_until_they_are_deleted(serve, tmp_path):
    client = serve(voices_folder=tmp_path / "kept")
    jo, al = (
        client.post("/v1/voices", params={"name": name, "consent": "true"}, content=wav(1.0)).json()
        for name in ("Jo", "Al")
    )
    (file,) = (tmp_path / "kept").glob(f"{jo['id']}*")
    assert file.stat().st_mode & 0o077 == 0

    client = serve(voices_folder=tmp_path / "kept")
    assert client.get("/v1/voices").json()["data"][2:] == [jo, al]
    spoken = client.post("/v1/audio/speech", json={"model": "fake", "input": "one", "voice": jo["id"]})
    assert spoken.status_code == 200
    assert ids(serve(voices_folder=tmp_path / "kept", max_voices=1))[2:] == [jo["id"]]  # used last

    assert client.delete(f"/v1/voices/{jo['id']}").status_code == 204
    assert client.delete(f"/v1/voices/{jo['id']}").json()["error"]["code"] == "no_such_voice"
    assert client.delete("/v1/voices/first").status_code == 404
    assert ids(client)[2:] == ids(serve(voices_folder=tmp_path / "kept"))[2:] == [al["id"]]


class Counting(FakeEngine):
    """Counts the voices it makes, and keeps its slots."""

    def __init__(self):
        super().__init__(words=1)
        self.made, self.opened = 0, []

    async def make_voice(self, pcm, name):
        self.made += 1
        return await super().make_voice(pcm, name)

    async def open(self, *, voice=None):
        self.opened.append(await super().open(voice=voice))
        return self.opened[-1]


def test_a_kept_voice_is_made_when_it_is_first_chosen(serve, tmp_path):
    jo = serve(voices_folder=tmp_path).post("/v1/voices?consent=true", content=wav(1.0)).json()["id"]
    for door in ("speech", "session", "response"):
        engine = Counting()
        client = serve(engine, voices_folder=tmp_path)
        assert ids(client)[2:] == [jo]
        assert engine.made == 0
        for _ in range(2):
            if door == "speech":
                answer = client.post("/v1/audio/speech", json={"model": "fake", "input": "one", "voice": jo})
                assert answer.status_code == 200
            else:
                assert spoken_in(client, jo, by=door)["status"] == "completed"
            assert engine.opened[-1].voice.frames == 50
            assert engine.made == 1


@pytest.mark.parametrize("door", ["speech", "session", "response"])
def test_a_kept_voice_that_broke_since_is_refused_and_no_more_offered(serve, tmp_path, door):
    jo, al = (
        serve(voices_folder=tmp_path).post("/v1/voices?consent=true", content=wav(1.0)).json()["id"] for _ in range(2)
    )
    client = serve(voices_folder=tmp_path)
    (tmp_path / f"{jo}.safetensors").write_bytes(b"\xff" * 100)
    if door == "speech":
        answer = client.post("/v1/audio/speech", json={"model": "fake", "input": "one", "voice": jo})
        assert answer.status_code == 400
        error = answer.json()["error"]
    else:
        error = spoken_in(client, jo, by=door)
        assert error["param"] == f"{door}.audio.output.voice"
    assert error["code"] == "invalid_value"
    assert jo in error["message"]
    assert str(tmp_path) not in error["message"]
    assert ids(client)[2:] == [al]
    assert spoken_in(client, al, by="session")["status"] == "completed"


def spoken_in(client, voice: str, *, by: str) -> dict:
    """The response of a typed turn whose voice is chosen in the session, or for one answer; or the error."""
    audio = {"audio": {"output": {"voice": voice}}}
    content = [{"type": "input_text", "text": "hello"}]
    with client.websocket_connect("/v1/realtime") as socket:
        item = {"type": "message", "role": "user", "content": content}
        socket.send_json({"type": "conversation.item.create", "item": item})
        if by == "session":
            socket.send_json({"type": "session.update", "session": audio})
        socket.send_json({"type": "response.create", "response": audio if by == "response" else {}})
        while True:
            event = socket.receive_json()
            if event["type"] == "error":
                return event["error"]
            if event["type"] == "response.done":
                return event["response"]


def test_voices_that_are_not_kept_are_nowhere_on_disk(serve, tmp_path):
    client = serve(voices_folder=tmp_path / "kept", keep_voices=False)
    assert client.post("/v1/voices?consent=true", content=wav(1.0)).status_code == 201
    assert not (tmp_path / "kept").exists()


def test_files_that_are_no_voice_are_left_out(serve, tmp_path):
    key = "voice_" + "0" * 20
    save_file({"pcm": np.zeros((2, 16_000), np.int16)}, tmp_path / f"{key}.safetensors")
    (tmp_path / f"{key[:-1]}1.safetensors").write_bytes(b"\xff" * 100)
    save_file({"pcm": np.zeros(16_000_000, np.int16)}, tmp_path / f"{key[:-1]}2.safetensors")
    save_file({"pcm": np.zeros(100, np.int16)}, tmp_path / f"{key[:-1]}3.safetensors")
    save_file({"pcm": np.zeros(16_000, np.int16)}, tmp_path / "voice_mine.safetensors")
    assert ids(serve(voices_folder=tmp_path)) == ["first", "second"]


def test_a_folder_that_cannot_be_written_still_leaves_the_voice(serve, tmp_path):
    (tmp_path / "file").write_text("")
    client = serve(voices_folder=tmp_path / "file")
    voice = client.post("/v1/voices?consent=true", content=wav(1.0)).json()["id"]
    assert ids(client)[2:] == [voice]


def test_the_page_and_its_files(serve):
    client = serve()
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/web/index.html").status_code == 200
    assert client.get("/web/../pyproject.toml").status_code == 404
    assert client.get("/web/nothing.js").status_code == 404
