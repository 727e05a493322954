"""Teachers: each row is heard as if it were alone, frame for frame, by HuBERT and by Whisper of either format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, HubertConfig, HubertModel, WhisperConfig, WhisperModel

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.packages import whisper_folder
from speechgpt_gen.models.training.teachers import WHISPER, Teacher, save_teacher

FRAMES = [50, 21]


@pytest.fixture
def wav() -> torch.Tensor:
    made = torch.randn(2, 50 * 320, generator=torch.Generator().manual_seed(0)) * 0.1
    made[1, 21 * 320 :] = 0
    return made


@pytest.fixture
def hubert(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = HubertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    return tmp_path / "hubert"


def test_hubert_hears_the_middle_of_each_frame_and_no_padding(hubert: Path, wav: torch.Tensor) -> None:
    teacher = Teacher(str(hubert))
    taught = teacher(wav, FRAMES)
    assert taught.shape == (2, 50, teacher.dim)
    assert not taught[1, 21:].any()
    torch.testing.assert_close(taught[1, :21], teacher(wav[1:, : 21 * 320], [21])[0])
    model = HubertModel.from_pretrained(hubert).eval()
    said = wav[1, : 21 * 320].numpy()
    alone = torch.from_numpy((said - said.mean()) / np.sqrt(said.var() + 1e-7))
    with torch.no_grad():
        states = model(torch.nn.functional.pad(alone, (40, 40))[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(taught[1, :21], torch.stack(states).mean(0)[0])
    torch.testing.assert_close(Teacher(str(hubert), 1)(wav, FRAMES)[1, :21], states[1][0])


def test_a_click_is_heard_where_it_is(hubert: Path) -> None:
    wav = torch.randn(1, 60 * 320, generator=torch.Generator().manual_seed(1)) * 1e-3
    clicked = wav.clone()
    clicked[0, 30 * 320 + 160] = 0.05
    teacher = Teacher(str(hubert), 0)
    moved = (teacher(clicked, [60]) - teacher(wav, [60])).square().sum(-1)[0]
    assert int(moved.argmax()) == 30


def test_whisper_of_transformers_is_given_half_a_minute_at_a_time(tmp_path: Path, wav: torch.Tensor) -> None:
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "encoder_attention_heads": 2, "decoder_layers": 1, "decoder_attention_heads": 2}
    WhisperModel(WhisperConfig(d_model=32, num_mel_bins=20, **sizes)).save_pretrained(tmp_path)
    teacher = Teacher(str(tmp_path), 2)
    taught = teacher(wav, FRAMES)
    torch.testing.assert_close(taught[1, :21], teacher(wav[1:, : 21 * 320], [21])[0])
    assert not taught[1, 21:].any()
    long = torch.cat([wav[:1]] * 31, dim=1)
    heard = teacher(long, [1550])[0]
    torch.testing.assert_close(heard[1500:], taught[0])  # what follows the first half minute is heard anew


@pytest.mark.slow
def test_whisper_of_the_packages_hears_what_ctranslate2_hears(wav: torch.Tensor) -> None:
    import ctranslate2
    from transformers import WhisperFeatureExtractor

    teacher = Teacher(WHISPER, 6)
    features = WhisperFeatureExtractor(80)(wav[0].numpy(), sampling_rate=16_000, return_tensors="np")["input_features"]
    model = ctranslate2.models.Whisper(str(whisper_folder()), device="cpu", compute_type="float32")
    theirs = np.array(model.encode(ctranslate2.StorageView.from_array(features.astype(np.float32))))
    np.testing.assert_allclose(teacher(wav, FRAMES)[0], theirs[0, :50], atol=2e-3, rtol=1e-3)


def test_a_teacher_that_was_packed_teaches_the_same(tmp_path: Path, hubert: Path, wav: torch.Tensor) -> None:
    (hubert / "preprocessor_config.json").write_text('{"do_normalize": false}')
    save_teacher(str(hubert), tmp_path / "packed")
    theirs = Teacher(str(hubert))(wav, FRAMES)
    torch.testing.assert_close(Teacher(str(tmp_path / "packed"))(wav, FRAMES), theirs, rtol=0.02, atol=0.02)
    assert (tmp_path / "packed" / "preprocessor_config.json").read_text() == '{"do_normalize": false}'


@pytest.mark.slow
def test_whisper_is_packed_in_small_files_and_without_its_decoder(tmp_path: Path, wav: torch.Tensor) -> None:
    save_teacher(WHISPER, tmp_path)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 55e6
    packed, whole = (Teacher(name)(wav, FRAMES) for name in (str(tmp_path), WHISPER))
    assert float((packed - whole).norm() / whole.norm()) < 0.01


def test_what_cannot_teach_is_refused_in_one_line(tmp_path: Path, hubert: Path) -> None:
    with pytest.raises(ConfigError, match="no model that can be read") as error:
        Teacher(str(tmp_path / "missing"))
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="give 0 to 2"):
        Teacher(str(hubert), 3)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=8, **tiny)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="is a bert: give HuBERT"):
        Teacher(str(tmp_path / "bert"))
