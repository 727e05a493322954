"""Client secrets and limits at the doors, over HTTP and WebSocket in process."""

import time

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.streaming.engine.fake import FakeEngine

PATH = "/v1/realtime/client_secrets"
TOKEN = {"authorization": "Bearer secret"}


@pytest.fixture
def serve():
    """serve(**settings): a client of a started application."""
    clients = []

    def start(**settings):
        client = TestClient(create_app(FakeEngine(words=2), Settings(**settings)), base_url="http://127.0.0.1:8080")
        clients.append(client.__enter__())
        while client.get("/readyz").json()["status"] == "starting":
            time.sleep(0.005)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def test_a_secret_carries_its_session_over_websocket(serve):
    client = serve(token="secret")
    wanted = {"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"voice": "second"}}}
    made = client.post(PATH, json={"expires_after": {"seconds": 60}, "session": wanted}, headers=TOKEN).json()
    assert made["value"].startswith("ek_")
    assert 50 < made["expires_at"] - time.time() <= 60
    assert made["session"]["instructions"] == "Be brief."
    key = made["value"]
    for _ in range(2):
        with client.websocket_connect("/v1/realtime", subprotocols=["realtime", f"openai-insecure-api-key.{key}"]) as s:
            session = s.receive_json()["session"]
            assert session["instructions"] == "Be brief."
            assert session["audio"]["output"]["voice"] == "second"
    bearer = {"authorization": f"Bearer {key}"}
    with client.websocket_connect("/v1/realtime", headers=bearer) as socket:
        assert socket.receive_json()["type"] == "session.created"
    assert client.post("/v1/realtime/calls", headers=bearer, content=b"").status_code == 415
    for path in (PATH, "/v1/voices"):
        assert client.post(path, headers=bearer).status_code == 401
    assert client.post(PATH).status_code == 401


def test_an_unknown_secret_is_refused_even_where_no_token_is_needed(serve):
    client = serve()
    with client.websocket_connect("/v1/realtime", headers={"authorization": "Bearer local"}) as socket:
        socket.receive_json()
    with pytest.raises(WebSocketDenialResponse) as refused:
        client.websocket_connect("/v1/realtime", headers={"authorization": "Bearer ek_gone"}).__enter__()
    assert refused.value.status_code == 401
    assert client.post(PATH).json()["session"]["type"] == "realtime"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"expires_after": {"seconds": 9}}', "expires_after.seconds"),
        (b'{"expires_after": {"seconds": 7201}}', "expires_after.seconds"),
        (b'{"session": {"audio": {"output": {"voice": "nobody"}}}}', "session.audio.output.voice"),
        (b'{"session": {"type": "transcription"}}', "session.type"),
        (b'{"session": 3}', "session"),
        (b"[", None),
        (b"\xff", None),
    ],
)
def test_bad_requests_for_a_secret_name_the_field(serve, body, param):
    answer = serve().post(PATH, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].get("param") == param
    assert "\n" not in answer.json()["error"]["message"]


def test_a_large_request_for_a_secret_is_refused(serve):
    answer = serve().post(PATH, content=b" " * 300_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_any_of_several_tokens_opens(serve):
    client = serve(token=["one", "two"])
    for token, status in (("one", 200), ("two", 200), ("one,two", 401)):
        assert client.get("/v1/voices", headers={"authorization": f"Bearer {token}"}).status_code == status


def test_too_many_requests_get_429_and_when_to_come_back(serve):
    client = serve(requests_per_minute=3, token="secret")
    assert [client.get("/v1/voices").status_code for _ in range(3)] == [401] * 3
    late = client.get("/v1/voices", headers=TOKEN)
    assert (late.status_code, late.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(late.headers["retry-after"]) <= 20
    assert client.get("/healthz").status_code == 200


def test_one_client_holds_no_more_conversations_than_allowed(serve):
    client = serve(max_sessions_per_client=1)
    with client.websocket_connect("/v1/realtime") as first:
        first.receive_json()
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
            pass
        assert refused.value.status_code == 429
        assert refused.value.json()["error"]["code"] == "too_many_sessions"
    with client.websocket_connect("/v1/realtime") as again:
        assert again.receive_json()["type"] == "session.created"
