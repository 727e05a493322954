"""Sentences of WordNet's examples: whole ones of plain words, none that is known or tells what is held out."""

import subprocess
import sys
from pathlib import Path

import pytest

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training.synthesis.wordnet import examples, sentences

DATA = """\
  1 This is the licence, in which "nobody needs to look for any examples".
00001740 03 n 01 entity 0 000 | that which is perceived; "the sea was calm on the first day"; "too short"
00001930 03 n 01 thing 0 000 | "is that what you were looking for?"; "about 40 of them were at the sea"
00002137 03 n 01 body 0 000 | "an agent of the FBI looked at the sea"; "The sea was calm, on the first day!"
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(DATA, encoding="latin-1")
    return tmp_path


def test_examples_are_those_that_an_engine_reads_as_they_are_written(wordnet: Path) -> None:
    said = [
        "the sea was calm on the first day",
        "is that what you were looking for?",
        "The sea was calm, on the first day!",
    ]
    assert list(examples(wordnet)) == said
    with pytest.raises(ConfigError, match=r"data\.noun"):
        next(examples(wordnet / "elsewhere"))


def test_sentences_come_once_and_leave_out_what_is_known_or_held_out(wordnet: Path) -> None:
    day, question = "The sea was calm on the first day.", "Is that what you were looking for?"
    assert sorted(sentences(examples(wordnet), [], [])) == [question, day]
    assert sentences(examples(wordnet), [day.upper()], []) == [question]
    assert sentences(examples(wordnet), [], ["We saw that the sea was calm on Monday."]) == [question]
    assert len(sentences(examples(wordnet), [], ["The sea was very calm."])) == 2, "four words in a row are not five"


def test_the_command_writes_what_build_reads(wordnet: Path) -> None:
    command = [sys.executable, "-m", "speechgpt_gen.models.training.synthesis.wordnet", str(wordnet)]
    subprocess.run([*command, str(wordnet / "texts"), "--count", "1"], check=True, capture_output=True)
    lines = (wordnet / "texts" / "sentences.tsv").read_text().splitlines()
    assert lines[0] == "id\ttext"
    assert len(lines) == 2
    refused = subprocess.run([*command[:-1], str(wordnet / "no"), "texts"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: no data.noun")
    assert refused.stderr.count("\n") == 1
