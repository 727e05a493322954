"""What only the batched engine has: shared batches, who goes first, and errors that stay with their cause."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.errors import ConfigError, EngineError, EngineFullError
from speechgpt_gen.models.perceptual.slots import FlowSlots
from speechgpt_gen.models.semantic.slots import Chunk, SlotModel
from speechgpt_gen.streaming.engine import batched
from speechgpt_gen.streaming.engine.batched import BatchedEngine
from speechgpt_gen.streaming.engine.capacity import Load, admitted
from speechgpt_gen.streaming.engine.local import LocalEngine
from speechgpt_gen.streaming.engine.protocol import Audio, Engine, Finished, Output, Request, Text, Voice, Word

SAY = Request("say", "Hello there.", seed=3, max_seconds=1)
DIRECT = Request(mode="direct", seed=5, max_seconds=0.8)


def new_engine(slots: int = 3, **options: object) -> BatchedEngine:
    return BatchedEngine(load_bundle("tiny"), slots, device="cpu", context=320, **options)  # type: ignore[arg-type]


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000))).astype(np.float32)


def sound(outputs: Sequence[Output]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *(o.pcm for o in outputs if isinstance(o, Audio))])


def said(outputs: Sequence[Output]) -> list[Output]:
    return [output for output in outputs if isinstance(output, Text | Word)]


def end(outputs: Sequence[Output]) -> Finished:
    assert isinstance(outputs[-1], Finished)
    return outputs[-1]


async def run(
    engine: Engine, request: Request, *heard: NDArray[np.float32], voice: Voice | None = None
) -> list[Output]:
    session = await engine.open(voice=voice)
    session.begin_turn([])
    for pcm in heard:
        session.listen(pcm)
    outputs = [output async for output in session.generate(request)]
    await session.close()
    return outputs


async def test_many_at_once_say_what_the_plain_engine_says_one_by_one() -> None:
    requests = [(SAY, ()), (DIRECT, (noise(0.5, 1),)), (Request("reply", "What is this?", seed=2, max_seconds=0.5), ())]
    plain = LocalEngine(load_bundle("tiny"), slots=1)
    await plain.start()
    wanted = [await run(plain, request, *heard) for request, heard in requests]
    await plain.stop()
    engine = new_engine()
    await engine.start()
    given = await asyncio.gather(*(run(engine, request, *heard) for request, heard in requests))
    await engine.stop()
    for ours, theirs in zip(given, wanted, strict=True):
        assert said(ours) == said(theirs)
        assert end(ours).reason == end(theirs).reason
        np.testing.assert_allclose(sound(ours), sound(theirs), atol=1e-4)


async def test_a_broken_voice_fails_its_own_conversation_only() -> None:
    engine = new_engine(buckets=(3,))
    await engine.start()
    good = await run(engine, SAY)
    first = load_bundle("tiny").voice("first")
    bad = Voice("bad", first.units, torch.full_like(first.latents, torch.nan))
    failed, together = await asyncio.gather(run(engine, SAY, voice=bad), run(engine, SAY))
    assert end(failed).reason == "failed"
    assert "not finite" in (end(failed).error or "")
    np.testing.assert_array_equal(sound(together), sound(good))
    np.testing.assert_array_equal(sound(await run(engine, SAY)), sound(good))
    await engine.stop()


@pytest.mark.parametrize("part", ["prefill", "burst", "solve"])
async def test_an_error_on_the_device_ends_what_caused_it(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever slot is the last fails as soon as it is in a batch."""
    engine = new_engine(buckets=(3,))
    await engine.start()
    good = await run(engine, SAY)
    owner, cursed = (FlowSlots, 2) if part == "solve" else (SlotModel, 2)
    before = getattr(owner, part)
    seen: set[int] = set()

    def failing(self: object, work: Sequence[object]) -> object:
        slots = [w.slot if isinstance(w, Chunk) else w[0] if isinstance(w, tuple) else w for w in work]
        seen.update(slots)  # type: ignore[arg-type]
        if cursed in slots:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return before(self, work)

    monkeypatch.setattr(owner, part, failing)
    outputs = await asyncio.gather(*(run(engine, SAY) for _ in range(3)))
    assert cursed in seen
    ends = sorted(end(each).reason for each in outputs)
    assert ends in (["completed", "completed", "failed"], ["failed", "length", "length"])
    for each in outputs:
        if end(each).reason == "failed":
            assert "memory is full" in (end(each).error or "")
        else:
            np.testing.assert_array_equal(sound(each), sound(good))
    monkeypatch.undo()
    np.testing.assert_array_equal(sound(await run(engine, SAY)), sound(good))
    await engine.stop()


@pytest.mark.parametrize(("owner", "part"), [(SlotModel, "burst"), (FlowSlots, "solve")])
async def test_a_thread_that_dies_is_told_and_lives_on(
    owner: type[object], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine(buckets=(3,))
    await engine.start()
    good = await run(engine, SAY)
    with monkeypatch.context() as patch:
        patch.setattr(owner, part, lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        failed = await run(engine, SAY)
    assert end(failed).reason == "failed"
    assert "killed" in (end(failed).error or "")
    np.testing.assert_array_equal(sound(await run(engine, SAY)), sound(good))
    await engine.stop()


async def test_an_answer_tells_what_its_first_sound_took() -> None:
    """Of the time to the first sound: the parts are all there, and no more than it."""
    engine = new_engine(3)
    await engine.start()
    alone = end(await run(engine, DIRECT, noise(0.5, 1)))
    crowd = await asyncio.gather(*(run(engine, DIRECT, noise(0.5, seed)) for seed in range(3)))
    text = end(await run(engine, Request("reply", "What is this?", speak=False, seed=1)))
    await engine.stop()
    for finished in (alone, *map(end, crowd)):
        assert set(finished.parts) == {"queue", "prefill", "decode", "flow", "codec"}
        assert all(value >= 0 for value in finished.parts.values())
        assert min(finished.parts[part] for part in ("prefill", "decode", "flow", "codec")) > 0
        assert sum(finished.parts.values()) <= finished.timings["first_audio"]
    assert text.parts == {}


async def test_it_takes_no_more_than_it_keeps_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "measure_loads", lambda *_: [Load(1, 0.001, 0.01, 10), Load(3, 0.02, 0.01, 10)])
    engine = new_engine(measure=True)
    await engine.start()
    assert engine.info.slots == 1
    session = await engine.open()
    with pytest.raises(EngineFullError, match="all 1 slots are taken"):
        await engine.open()
    await session.close()
    await engine.stop()


async def test_it_talks_from_a_cache_in_fp8_and_a_gpu_too_old_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = new_engine(2, kv_cache="fp8", buckets=(2,))
    await engine.start()
    one = await run(engine, DIRECT, noise(0.5, 1))
    together = await asyncio.gather(run(engine, DIRECT, noise(0.5, 1)), run(engine, SAY))
    assert end(one).reason in ("completed", "length")
    np.testing.assert_array_equal(sound(together[0]), sound(one))
    await engine.stop()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "an A100")
    with pytest.raises(ConfigError, match=r"kv_cache 'fp8' needs compute capability 8.9 or newer, an A100 has 8.0"):
        batched.check_fp8(torch.device("cuda"))


async def test_loads_are_measured() -> None:
    engine = new_engine(2, measure=True)
    await engine.start()
    assert [load.size for load in engine.loads] == [1, 2]
    assert all(load.token > 0 and load.block > 0 for load in engine.loads)
    await engine.stop()


def test_admission_is_by_what_one_second_of_all_takes() -> None:
    def load(size: int, share: float) -> Load:
        return Load(size, share / 2 / 60, share / 2 / 2, 25)

    loads = [load(1, 0.2), load(2, 0.3), load(4, 0.79), load(8, 0.9)]
    assert loads[2].share == pytest.approx(0.79)
    assert [admitted(loads, slots) for slots in (1, 3, 8, 32)] == [1, 3, 4, 4]
    assert admitted([load(1, 3.0)], 8) == 1


async def test_broken_weights_fail_at_the_start() -> None:
    broken = load_bundle("tiny")
    broken.perceptual.out_proj.bias.data.fill_(torch.nan)
    with pytest.raises(EngineError, match=r"warm-up failed: .*not finite"):
        await BatchedEngine(broken, 1, device="cpu", context=320).start()
