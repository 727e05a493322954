"""Padded blocks of many utterances against each utterance's own stream."""

import torch

from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.speech_tokenizer.slots import DecoderSlots

BUNDLE = load_bundle("tiny")
LONGEST = 8


def new_slots(count: int = 3) -> DecoderSlots:
    latents = torch.zeros(3, LONGEST, BUNDLE.tokenizer.dim)
    made = DecoderSlots(BUNDLE.tokenizer.decoder, latents, Lane(torch.device("cpu")), slots=count, buckets=(1, 3))
    made.capture()
    return made


def some_latents(frames: int, seed: int) -> torch.Tensor:
    return torch.randn(frames, BUNDLE.tokenizer.dim, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def streamed(latents: torch.Tensor) -> torch.Tensor:
    return BUNDLE.tokenizer.decode(latents[None])[0, 0]


def test_any_blocks_in_any_company_give_the_whole_utterance() -> None:
    cuts = ((3, 5, 8, 8, 1, 2, 8, 8), (8, 1, 1, 7, 8), (5, 5, 5))
    utterances = [some_latents(sum(sizes), number) for number, sizes in enumerate(cuts)]
    slots = new_slots()
    parts: list[list[torch.Tensor]] = [[], [], []]
    places = [0] * 3
    for number in range(3):
        slots.open(number)
    for turn in range(8):
        batch = []
        for number in [(turn + k) % 3 for k in range(3)]:
            if turn < len(cuts[number]):
                row, size = len(batch), cuts[number][turn]
                slots.latents[row] = 1e3  # whatever the padding holds
                slots.latents[row, :size] = utterances[number][places[number] : places[number] + size]
                batch.append((number, places[number], size))
                places[number] += size
        slots.decode(batch)
        for row, (number, _, size) in enumerate(batch):
            parts[number].append(slots.pcm[row, : 320 * size].clone())
    for number in range(3):
        torch.testing.assert_close(torch.cat(parts[number]), streamed(utterances[number]), atol=1e-5, rtol=1e-4)


def test_a_new_utterance_knows_nothing_of_the_last() -> None:
    slots = new_slots()
    latents = some_latents(8, 1)
    sounds = []
    for _ in range(2):
        slots.open(2)
        slots.latents[0] = latents
        slots.decode([(2, 0, 8)])
        sounds.append(slots.pcm[0].clone())
        slots.latents[0] = torch.nan
        slots.decode([(2, 8, 8)])
    assert torch.equal(*sounds)
