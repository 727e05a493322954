"""`speechgpt-gen eval`: what it writes, and the line that a missing judge gets."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from speechgpt_gen.agent.cli.evaluate import register
from speechgpt_gen.models.evaluation import judges, material


class FakeJudges(judges.Judges):
    """Judges that need no package."""

    def check(self) -> None:
        pass

    def read(self, pcm: NDArray[np.float32]) -> str:
        return "hello"

    def errors(self, truth: str, heard: str) -> tuple[int, int]:
        return 1, 2

    def similarity(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return 0.5

    def quality(self, pcm: NDArray[np.float32]) -> float:
        return 2.5


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command("models")(lambda: None)  # typer asks for no name where there is a single command
    register(app)
    return CliRunner().invoke(app, ["eval", *arguments])


def test_a_report_is_written_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "Judges", FakeJudges)
    noise = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
    voices = [material.HeldOutVoice("ann", noise, noise)]
    monkeypatch.setattr(material, "gather", lambda *_, **__: material.Material(voices=voices, source="noise"))
    result = run("tts", "tiny", "--items", "1", "-o", str(tmp_path / "report"), "--precision", "float32", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["figures"] == stored["figures"]
    figures = {f["measure"]: f["value"] for f in stored["figures"]}
    assert figures["WER, default voice"] == 50.0
    assert figures["speaker cosine, unseen voice"] == 0.5
    made = {p.name for p in (tmp_path / "report").iterdir()}
    assert made == {"report.json", "report.md", "report.html", "items.jsonl", "goals.png"}


def test_a_missing_judge_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "MODULES", ("a_judge_that_nobody_has",))
    result = run("all", "tiny", "-o", str(tmp_path / "report"))
    assert result.exit_code == 2
    assert "pip install 'speechgpt-gen[eval]'" in result.stderr
    assert not (tmp_path / "report").exists()


def test_a_missing_whisper_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "MODULES", ())
    result = run("asr", "tiny", "--whisper", str(tmp_path))
    assert result.exit_code == 2
    assert "no model.bin in" in result.stderr
