"""The ablation's page says what the slices measured."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from speechgpt_gen.agent.cli.train import app
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.evaluation.ablation import page, plot, read_lines

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
    with pytest.raises(ConfigError, match="run the ablation slices first"):
        read_lines([tmp_path / "empty"])
