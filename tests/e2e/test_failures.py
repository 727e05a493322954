"""What the page says when something is in the way, and how it recovers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def notice(user: Any, words: str, timeout: float = 30) -> None:
    user.page.wait_for_selector(f"#notice:visible:has-text('{words}')", timeout=1000 * timeout)


def test_microphone_denied(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve().url, microphone=False)
    user.page.click("#talk")
    notice(user, "The microphone is blocked")
    notice(user, "You can still type")
    user.look("off")
    assert user.page.get_attribute("#notice", "role") == "alert"
    user.page.context.grant_permissions(["microphone"])
    user.page.click("#talk")
    user.look("listening", "hearing")
    assert user.page.is_hidden("#notice")


@pytest.mark.parametrize(
    ("error", "words"), [("NotFoundError", "No microphone found"), ("NotReadableError", "The microphone is in use")]
)
def test_microphone_out_of_order(serve: Callable[..., Any], visit: Callable[..., Any], error: str, words: str) -> None:
    user = visit(serve().url)
    broken = f"() => Promise.reject(new DOMException('', '{error}'))"
    user.page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {broken}; }}")
    user.page.click("#talk")
    notice(user, words)


def test_insecure_origin(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    user = visit(f"http://insecure.test:{server.port}/")
    notice(user, "needs a secure page")
    user.page.click("#talk")
    notice(user, "https:// or localhost")


def test_server_full_then_free(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve(slots=1)
    first, second = visit(server.url), visit(server.url)
    first.page.click("#talk")
    first.look("listening", "hearing")
    second.page.click("#talk")
    notice(second, "The server is full")
    second.look("waiting")
    assert "Trying again in" in second.page.inner_text("#state")
    first.page.click("#end")
    first.look("off")
    second.look("listening", "hearing")
    assert second.page.is_hidden("#notice")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_server_gone_and_back(serve: Callable[..., Any], visit: Callable[..., Any], how: signal.Signals) -> None:
    server = serve()
    user = visit(server.url)
    user.page.click("#talk")
    user.page.wait_for_selector(".assistant.done", timeout=40_000)
    said = user.lines()[:2]
    server.end(how)
    user.page.wait_for_selector("#link[data-state=waiting]")
    notice(user, "cannot be reached")
    server.start()
    user.look("listening", "hearing", timeout=40)
    assert user.page.is_hidden("#notice")
    assert user.lines()[:2] == said
    user.page.wait_for_selector(".assistant.done >> nth=1", timeout=40_000)


def test_server_not_ready(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    server = serve()
    user = visit(server.url)
    body = '{"error": {"code": "not_ready", "message": "the engine is warming up"}}'
    user.page.route("**/v1/realtime/calls", lambda route: route.fulfill(status=503, body=body))
    user.page.click("#talk")
    notice(user, "The server is not ready yet The engine is warming up.")
    user.page.unroute("**/v1/realtime/calls")
    user.look("listening", "hearing")


def test_token(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve(settings={"token": "secret"}).url)
    notice(user, "asks for a token")
    user.page.click("#settings-open")
    user.page.fill("#token", "secret")
    user.page.click("#settings .strong")
    user.page.wait_for_selector("#voice option:text('second')", state="attached")
    user.page.click("#talk")
    user.look("listening", "hearing")


def test_an_idle_conversation_ends_for_good(serve: Callable[..., Any], visit: Callable[..., Any]) -> None:
    user = visit(serve(settings={"idle_timeout_s": 2}).url, microphone=False)
    user.page.fill("#type-text", "hello")
    user.page.keyboard.press("Enter")
    notice(user, "The conversation has ended")
    user.page.wait_for_timeout(1500)
    user.look("off")
    assert user.page.inner_text("#link") == "Not connected"
