"""The ablation's page says what the slices measured."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from speechgpt_gen.agent.cli.train import app
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.evaluation.ablation import judge_of, page, plot, read_lines
from speechgpt_gen.models.evaluation.judges import Judges
from speechgpt_gen.models.training.corpus import Corpus

CELLS = (("implicit", "semantic"), ("implicit", "gaussian"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [
        {"variant": f"{chain}-{prior}-{seed}", "chain": chain, "prior": prior, "seed": seed, "share": step / 100}
        | {"step": step, "nfe": nfe, "cer": 0.1 * (1 + number) + 0.02 * seed + 0.001 * nfe - 0.0001 * step}
        for number, (chain, prior) in enumerate(CELLS)
        for seed in (0, 1)
        for step in (50, 100)
        for nfe in (2, 8)
    ]
    for name, part in (("first", lines[:8]), ("second", lines)):  # a later slice repeats what it took over
        (tmp_path / name).mkdir()
        (tmp_path / name / "ablation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    return tmp_path


def test_the_page_has_the_mean_and_spread_of_every_cell(folder: Path) -> None:
    lines = read_lines([folder])
    assert len(lines) == 16
    text = page(lines, "ablation.svg")
    assert "| implicit | semantic | 10.2 (9.2 - 11.2) | 10.8 (9.8 - 11.8) |" in text
    assert "| implicit | gaussian | 21.3 (20.3 - 22.3) | 20.8 (19.8 - 21.8) |" in text


def test_every_measure_that_there_is_has_its_tables(folder: Path) -> None:
    lines = [line | {"wer": 0.5 - 0.001 * line["step"], "sim": 0.7} for line in read_lines([folder])]
    text = page(lines, "ablation.svg")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Word error rate by Whisper, %",
        "## Character error rate by the units' own reader, %",
        "## Speaker cosine to the recording",
    ]
    assert "| implicit | semantic | 45.0 (45.0 - 45.0) | 40.0 (40.0 - 40.0) |" in text
    assert "| implicit | gaussian | 0.70 (0.70 - 0.70) | 0.70 (0.70 - 0.70) |" in text
    ElementTree.fromstring(plot(lines))


def test_what_was_spoken_is_judged_by_words_speaker_and_quality() -> None:
    class Listeners:
        def read(self, pcm: np.ndarray) -> str:
            return "half right" if pcm.any() else ""

        def errors(self, truth: str, heard: str) -> tuple[int, int]:
            return len(set(truth.split()) - set(heard.split())), len(truth.split())

        def similarity(self, one: np.ndarray, other: np.ndarray) -> float:
            return float(one @ other) if one.any() else float("nan")

        def quality(self, pcm: np.ndarray) -> float:
            return 3.0 if pcm.any() else float("nan")

    recorded = SimpleNamespace(by_id={n: SimpleNamespace(text="half wrong") for n in "ab"}, audio=lambda _: np.ones(2))
    judge = judge_of(cast(Judges, Listeners()), cast(Corpus, recorded))
    found = judge({"a": torch.tensor([0.25, 0.25]), "b": torch.zeros(2)})
    assert found == {"wer": 0.75, "sim": 0.5, "dnsmos": 3.0}


def test_the_plot_names_every_cell(folder: Path) -> None:
    svg = plot(read_lines([folder]))
    ElementTree.fromstring(svg)
    assert svg.count("<!-- implicit chain, ") == len(CELLS)


def test_the_command_writes_both_and_refuses_an_empty_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ablation.md"
    result = CliRunner().invoke(app, ["ablation", str(folder), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "16 measurements of 4 variants" in result.output
    assert out.with_suffix(".svg").is_file()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="run `train ablate` or the ablation slices first"):
        read_lines([tmp_path / "empty"])
