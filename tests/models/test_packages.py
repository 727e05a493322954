"""Model files from packages: joined once, checked, and told in one line when they are missing."""

import hashlib
from pathlib import Path

import pytest

from speechgpt_gen.models.errors import ModelNotFoundError
from speechgpt_gen.models.packages import cache_folder, join_parts, package_folder, whisper_folder
from speechgpt_gen.models.training.synthesis.kokoro import voices_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEECHGPT_GEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_parts_become_one_file_once(tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    parts[0].write_bytes(b"first ")
    parts[1].write_bytes(b"second")
    target, known = cache_folder() / "whole", hashlib.sha256(b"first second").hexdigest()
    assert join_parts(parts, target, known).read_bytes() == b"first second"
    parts[1].unlink()
    assert join_parts(parts, target, known) == target


def test_other_parts_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"something else")
    with pytest.raises(ModelNotFoundError, match="do not make the known file"):
        join_parts([tmp_path / "a"], cache_folder() / "whole", hashlib.sha256(b"").hexdigest())
    assert list(cache_folder().iterdir()) == []


def test_a_folder_must_hold_a_whisper(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model\.bin"):
        whisper_folder(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"x")
    assert whisper_folder(tmp_path) == tmp_path


def test_packages_are_found_without_being_imported() -> None:
    folder = package_folder("speechgpt_gen")
    assert folder is not None
    assert (folder / "__init__.py").is_file()
    assert package_folder("a_package_that_nobody_has") is None


def test_unknown_voices_are_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / "kokoro-js-1.2.1.tgz").write_bytes(b"not the archive")
    with pytest.raises(ModelNotFoundError, match="delete it and try again"):
        voices_file()
