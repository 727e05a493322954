"""Settings: where values come from, and what wrong ones get."""

import inspect
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from speechgpt_gen.agent.cli import main, make_app
from speechgpt_gen.agent.cli.serve import with_setting_flags
from speechgpt_gen.agent.settings import CONFIG_ENV, ENV_PREFIX, Settings, load_settings
from speechgpt_gen.models.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in [*Settings.model_fields, "config"]:
        monkeypatch.delenv(ENV_PREFIX + name.upper(), raising=False)


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "server.toml"
        path.write_text(text)
        return path

    return write


def test_defaults_are_safe_and_every_setting_has_a_reason():
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.token == []
    assert settings.stun == []
    assert all(field.description for field in Settings.model_fields.values())


def test_flags_win_over_environment_over_file_over_default(monkeypatch, toml):
    path = toml('port = 1\nslots = 2\nhost = "file"\norigins = ["https://a"]')
    monkeypatch.setenv("SPEECHGPT_GEN_PORT", "3")
    monkeypatch.setenv("SPEECHGPT_GEN_SLOTS", "4")
    monkeypatch.setenv("SPEECHGPT_GEN_STUN", "stun:a:1, stun:b:2")
    settings = load_settings(path, port="5", token="t")
    assert (settings.port, settings.slots, settings.host) == (5, 4, "file")
    assert settings.origins == ["https://a"]
    assert settings.stun == ["stun:a:1", "stun:b:2"]
    monkeypatch.setenv(CONFIG_ENV, str(path))
    assert load_settings(token="t").host == "file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "setting colour"),
        ("slots = 0", "setting slots"),
        ("port = 'many'", "setting port"),
        ("soft_end_ms = 900", "soft_end_ms (900) is longer than silence_ms"),
        ("tls_cert = 'a.pem'", "tls_cert and tls_key go together"),
        ("tls_self_signed = true\ntls_cert = 'a.pem'\ntls_key = 'b.pem'", "tls_self_signed makes a certificate"),
        ("host = '0.0.0.0'", "without a token only this machine may call"),
        ("host = '192.168.1.2'", "give --token"),
        ("host = '::'", "give --token"),
        ("host = 'my.machine'", "give --token"),
        ("port = ", "is not TOML"),
    ],
)
def test_wrong_settings_are_named_in_one_line(toml, text, message):
    with pytest.raises(ConfigError) as error:
        load_settings(toml(text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml")


def test_tokens_are_not_shown(monkeypatch):
    assert "hush" not in repr(load_settings(token="hush"))
    monkeypatch.setenv("SPEECHGPT_GEN_TOKEN", "one, two")
    assert [token.get_secret_value() for token in load_settings(host="0.0.0.0").token] == ["one", "two"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1", "[::1]"])
def test_without_a_token_this_machine_may_call(host):
    assert load_settings(host=host).host == host


def test_serve_has_a_flag_for_every_setting():
    seen = {}
    command = with_setting_flags(lambda **flags: seen.update(flags))
    assert set(inspect.signature(command).parameters) == {"config", *Settings.model_fields}
    command(port="9", origins=[], token=None)
    assert seen == {"port": "9"}
    text = CliRunner().invoke(make_app(), ["serve", "--help"], env={"COLUMNS": "400", "TERM": "dumb"}).output
    for name, field in Settings.model_fields.items():
        assert "--" + name.replace("_", "-") in text
        assert (field.description or "").split(";")[0].split(":")[0][:40] in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--slots", "0"], "slots"), (["--config", "/no/file"], "/no/file"), (["--host", "256.1.1.1"], "256.1.1.1")],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["speechgpt-gen", "serve", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_a_taken_port_is_told_before_anything_is_loaded(monkeypatch, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr("sys.argv", ["speechgpt-gen", "serve", "--port", str(other.getsockname()[1])])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 2
    assert "taken" in capsys.readouterr().err
