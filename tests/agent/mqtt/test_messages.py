"""Messages as Rhasspy's own library (rhasspy-hermes 0.6.2) writes them: every optional field is there, as null."""

import json

import pytest

from speechgpt_gen.agent.mqtt.messages import (
    AsrToggle,
    ContinueSession,
    Detected,
    EndSession,
    GetVoices,
    HermesError,
    PlayFinished,
    Say,
    StartListening,
    StartSession,
    parse,
)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Say, {"text": "hi", "siteId": "k", "lang": None, "id": None, "sessionId": None, "volume": None}),
        (
            StartSession,
            {
                "init": {
                    "canBeEnqueued": True,
                    "type": "action",
                    "text": None,
                    "intentFilter": None,
                    "sendIntentNotRecognized": False,
                },
                "siteId": "default",
                "customData": None,
                "lang": None,
            },
        ),
        (
            StartSession,
            {"init": {"text": "x", "type": "notification"}, "siteId": "k", "customData": None, "lang": None},
        ),
        (
            ContinueSession,
            {
                "sessionId": "s",
                "customData": None,
                "text": None,
                "intentFilter": None,
                "sendIntentNotRecognized": False,
                "slot": None,
                "lang": None,
            },
        ),
        (EndSession, {"sessionId": "s", "text": None, "customData": None}),
        (
            Detected,
            {
                "modelId": "m",
                "modelVersion": "",
                "modelType": "personal",
                "currentSensitivity": 1.0,
                "siteId": "default",
                "sessionId": None,
                "sendAudioCaptured": None,
                "lang": None,
                "customEntities": None,
            },
        ),
        (
            StartListening,
            {
                "siteId": "default",
                "sessionId": None,
                "lang": None,
                "stopOnSilence": True,
                "sendAudioCaptured": False,
                "wakewordId": None,
                "intentFilter": None,
            },
        ),
        (AsrToggle, {"siteId": "default", "reason": ""}),
        (AsrToggle, {"siteId": "default", "reason": "ttsSay"}),
        (PlayFinished, {"id": "x", "sessionId": None}),
        (GetVoices, {"id": None, "siteId": "default"}),
    ],
)
def test_what_rhasspy_writes_is_read(kind, fields):
    read = parse(kind, json.dumps(fields).encode(), "asr").model_dump(by_alias=kind is not PlayFinished)
    for name, value in fields.items():
        if name in read and name != "init":
            assert read[name] == value


def test_an_error_names_the_field_and_whom_it_concerns():
    payload = json.dumps({"siteId": "hall", "sessionId": "s", "text": 7}).encode()
    with pytest.raises(HermesError, match=r"^text: ") as told:
        parse(Say, payload, "tts")
    assert (told.value.component, told.value.site, told.value.session) == ("tts", "hall", "s")
