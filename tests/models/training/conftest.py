"""A corpus of a few seconds for the recipes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

TEXTS = ["What is half of four?", "It is two.", "The sea is calm today."]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in the form of `prepare`'s input: nine recordings of noise with texts."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "shards").mkdir()
    rng = np.random.default_rng(0)
    rows = ["id\tshard\tspeaker\tspeed\tseconds\tkind\tpair\tsplit\ttext"]
    with tarfile.open(folder / "shards" / "A.tar", "w") as archive:
        for n in range(9):
            kind = ("question", "answer", "sentence")[n % 3]
            pair = f"p{n // 3}" if kind != "sentence" else ""
            name = f"u{n}"
            buffer = io.BytesIO()
            pcm = 0.1 * rng.standard_normal(16_000 + 1600 * n)
            soundfile.write(buffer, pcm, 16_000, format="OGG", subtype="OPUS")
            info = tarfile.TarInfo(f"{name}.ogg")
            info.size = buffer.getbuffer().nbytes
            buffer.seek(0)
            archive.addfile(info, buffer)
            speaker = ("ann", "bob")[n % 2]
            rows.append(f"{name}\tA.tar\t{speaker}\t1.0\t1.0\t{kind}\t{pair}\ttrain\t{TEXTS[n % 3]}")
    (folder / "manifest.tsv").write_text("\n".join(rows) + "\n")
    return folder
