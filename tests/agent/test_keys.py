"""Keys, what one client may ask for, and the certificate of our own."""

import ssl
import stat
import time

import pytest
from pydantic import SecretStr

from speechgpt_gen.agent.keys import MAX_SECRETS, Keys
from speechgpt_gen.agent.limits import Bucket, Clients, TooManySessionsError, client_of
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.agent.tls import fingerprint, self_signed
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.clock import VirtualClock


async def test_client_secrets_expire_and_open_conversations_only():
    clock = VirtualClock()
    keys = Keys([SecretStr("token")], clock)
    value = keys.issue({"instructions": "Be brief."}, 60)
    assert value.startswith("ek_")
    token, secret = keys.find("token"), keys.find(value)
    assert token is not None
    assert not token.realtime_only
    assert secret is not None
    assert secret.realtime_only
    assert secret.session == {"instructions": "Be brief."}
    for wrong in ("", "toke", "token ", value[:-1], value.upper(), "ek_"):
        assert keys.find(wrong) is None
    await clock.advance(60)
    assert keys.find(value) is None
    assert keys.find("token") is token


async def test_the_oldest_of_too_many_secrets_give_way_but_expired_ones_first():
    clock = VirtualClock()
    keys = Keys([], clock)
    first = keys.issue({}, 3600)
    short = [keys.issue({}, 10) for _ in range(MAX_SECRETS - 1)]
    await clock.advance(11)
    later = keys.issue({}, 3600)
    assert keys.find(first) is not None
    assert keys.find(short[0]) is None
    for _ in range(MAX_SECRETS - 1):
        keys.issue({}, 3600)
    assert keys.find(first) is None
    assert keys.find(later) is not None


async def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    clock = VirtualClock()
    bucket = Bucket(2, 3, clock)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    await clock.advance(0.5)
    assert bucket.take() == 0
    assert bucket.take() == 0.5


async def test_requests_and_sessions_are_counted_for_each_client():
    clients = Clients(Settings(requests_per_minute=60, max_sessions_per_client=1), VirtualClock())
    assert not any(clients.request("a") for _ in range(60))
    assert clients.request("a") == 1.0
    assert clients.request("b") == 0
    with clients.session("a"):
        with pytest.raises(TooManySessionsError, match="1 conversations"), clients.session("a"):
            pass
        with clients.session("b"):
            pass
    with clients.session("a"):
        pass


def test_a_client_has_all_of_its_ipv6_network():
    assert client_of("2001:db8:1:2:3::4") == client_of("2001:db8:1:2::9") != client_of("2001:db8:1:3::9")
    assert client_of("10.0.0.1") == "10.0.0.1"
    assert client_of("testclient") == "testclient"


def test_a_certificate_of_our_own_is_kept_and_good_for_this_machine(tmp_path):
    certificate, key = self_signed(tmp_path / "tls")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(fingerprint(certificate)) == 32 * 3 - 1
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    for name in ("localhost", "127.0.0.1"):
        shake_hands(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "elsewhere.example")
    before = certificate.read_bytes()
    assert self_signed(tmp_path / "tls") == (certificate, key)
    assert certificate.read_bytes() == before
    certificate.write_text("broken")
    self_signed(tmp_path / "tls")
    assert certificate.read_text().startswith("-----BEGIN")
    assert certificate.read_bytes() != before
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="cannot keep a certificate"):
        self_signed(file)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    until = time.monotonic() + 10
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                assert time.monotonic() < until
