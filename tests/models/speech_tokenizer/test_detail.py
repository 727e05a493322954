"""What is told beyond the unit: numbers that hold both, and an encoder that keeps its units as they were."""

from dataclasses import replace

import torch

from speechgpt_gen.models.speech_tokenizer.detail import DETAIL_LEVELS, Detail, detail_of, levels_of, semantics
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import UNITS, SemanticEncoder, SemanticEncoderConfig

CONFIG = SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2, window=6, lookahead=2)


def encoder(detail: int) -> SemanticEncoder:
    torch.manual_seed(1)
    made = SemanticEncoder(replace(CONFIG, detail=detail)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_the_levels_are_those_that_the_digits_were_rounded_to() -> None:
    torch.manual_seed(0)
    detail = Detail(8, 24)
    hidden = torch.randn(2, 50, 8)
    with torch.inference_mode():
        told = detail(hidden)
        wanted = detail.quantizer.bound(detail.digits(hidden)).round().clamp(0, DETAIL_LEVELS - 1).long()
    assert torch.equal(levels_of(told, 24), wanted)
    assert told.min() >= 1
    assert told.max() <= DETAIL_LEVELS**24
    assert len(torch.unique(wanted)) == DETAIL_LEVELS


def test_detail_is_made_of_its_levels() -> None:
    levels = torch.randint(0, DETAIL_LEVELS, (5, 7, 24), generator=torch.Generator().manual_seed(0))
    assert torch.equal(levels_of(detail_of(levels), 24), levels)


def test_a_flow_is_told_the_vector_of_a_unit_and_the_digits_of_its_detail() -> None:
    codebook = torch.randn(10, 3)
    detail = detail_of(torch.tensor([[0, 3], [2, 1]]))
    told = semantics(torch.tensor([[4, 9 + 10 * int(detail[0]), 4 + 10 * int(detail[1])]]), codebook, 2)
    wanted = torch.tensor([[0.0, 0.0], [-1.0, 1.0], [1 / 3, -1 / 3]])
    torch.testing.assert_close(told[0], torch.cat((codebook[[4, 9, 4]], wanted), dim=1))
    assert torch.equal(semantics(torch.tensor([4]), codebook, 0), codebook[[4]])


@torch.inference_mode()
def test_a_heard_unit_is_the_unit_and_its_detail() -> None:
    with_detail, plain = encoder(20), encoder(0)
    plain.start_from(with_detail)
    wav = torch.randn(2, 6400) * 0.1
    heard = with_detail(wav)
    hidden = with_detail.hidden(with_detail.mel_frames(wav))
    assert torch.equal(heard % UNITS, plain(wav))
    assert torch.equal(heard // UNITS, with_detail.detail(hidden))  # type: ignore[misc]
    assert len(torch.unique(heard // UNITS)) > 10


def test_an_encoder_that_starts_from_one_without_detail_keeps_its_own() -> None:
    made, before = encoder(3), encoder(0)
    own = {name: value.clone() for name, value in made.state_dict().items()}
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter)
    made.start_from(before)
    for name, value in made.state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("detail.") else before.state_dict()[name]), name
