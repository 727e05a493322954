"""Figures, their intervals and goals, and the report that shows them."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechgpt_gen.models.evaluation import report
from speechgpt_gen.models.evaluation.figures import Figure, error_rate, interval, mean, share


def test_word_errors_are_counted_over_all_words() -> None:
    figure = error_rate("asr", "WER", [(1, 2), (0, 8)])
    assert figure.value == pytest.approx(10.0)
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low <= 10.0 <= figure.high


def test_what_could_not_be_measured_is_not_counted() -> None:
    figure = mean("tts", "DNSMOS", [3.0, float("nan"), 1.0])
    assert (figure.value, figure.items) == (2.0, 2)
    assert mean("tts", "DNSMOS", [float("nan")]).value is None


def test_an_interval_narrows_with_items_and_never_changes() -> None:
    def width(count: int) -> float:
        values = np.arange(count) % 2
        low, high = interval(count, lambda chosen: float(values[chosen].mean()))
        return high - low

    assert width(1000) < width(100) < width(10)
    assert width(50) == width(50)


@pytest.mark.parametrize(
    ("value", "better", "verdict"),
    [
        (2.0, "less", "aim"),
        (5.0, "less", "floor"),
        (5.1, "less", "below"),
        (2.0, "more", "below"),
        (5.0, "more", "floor"),
    ],
)
def test_goals(value: float, better: str, verdict: str) -> None:
    aim = 3.0 if better == "less" else 6.0
    assert Figure("t", "m", value, better=better, floor=5.0, aim=aim).verdict == verdict


def test_a_report_needs_nothing_beside_it(tmp_path: Path) -> None:
    figures = [
        error_rate("tokenizer", "WER, all 8 levels", [(0, 5), (1, 5)], floor=5.0, aim=3.0),
        share("dialogue", "right content, heard by the judge", [True, False], floor=80.0, aim=90.0),
        Figure("vc", "WER, unseen voice", None),
    ]
    about = {"model": "<b>nano", "judges": {"text": "a judge"}, "material": "few"}
    sounds = {"tts-0": np.zeros(16_000, np.float32)}
    report.write(tmp_path, figures, [{"task": "tokenizer", "item": 0}], about, sounds)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [f["verdict"] for f in stored["figures"]] == ["below", "below", ""]
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "data:audio/ogg;base64," in page
    assert "<b>nano" not in page
    assert "http" not in page
    table = (tmp_path / "report.md").read_text()
    assert "SpeechTokenizer | 5.0" in table
    assert "10.0 %" in table
