"""The tasks of the paper's section 4, each: material and a model in, figures and one record an item out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import AudioError, EngineError, TextError
from ..facade import Chunk, SpeechGPTGen, join
from ..generation import SOUND_SEED
from ..perceptual.streaming import solve_offline
from ..semantic.layout import MAX_HISTORY_TURNS, Mode
from ..semantic.pieces import Message
from ..semantic.vocabulary import N_UNITS
from ..training.synthesis.dialogues import no_speech
from ..voice import Voice
from . import content
from .figures import Figure, error_rate, mean, share
from .judges import Judges
from .material import Clip, HeldOutVoice, Material, shipped, shuffled

Pcm = NDArray[np.float32]
LEVELS = (1, 2, 4, 8)
_MAX_SECONDS = 15.0


@dataclass
class Run:
    """A run's settings, and what it has found so far. `keep` is told samples worth listening to: name, sound."""

    model: SpeechGPTGen
    judges: Judges
    material: Material
    items: int
    seed: int = 0
    say: Callable[[str], None] = print
    keep: Callable[[str, Pcm], None] = lambda name, pcm: None
    figures: list[Figure] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def record(self, task: str, number: int, total: int, **values: Any) -> None:
        """Note one item."""
        self.records.append({"task": task, "item": number, **values})
        self.say(f"{task} {number + 1}/{total}")

    def voice(self, held_out: HeldOutVoice) -> Voice:
        """The held-out speaker as a voice of the model."""
        return self.model.voice((held_out.prompt, 16_000), held_out.speaker)

    def say_in(self, voice: Voice, text: str) -> Pcm:
        """A text in a voice; of a model that breaks down nothing, which is judged as the worst."""
        try:
            return self.model.say(text, voice, seed=self.seed, max_seconds=_MAX_SECONDS).pcm
        except (EngineError, TextError):
            return np.zeros(0, np.float32)

    def convert_to(self, voice: Voice, pcm: Pcm) -> Pcm:
        """A recording in a voice, or nothing."""
        try:
            return self.model.convert((pcm, 16_000), voice, seed=self.seed).pcm
        except (AudioError, EngineError):
            return np.zeros(0, np.float32)


def tokenizer(run: Run) -> None:
    """Reconstruction from the first 1, 2, 4 and 8 levels; level 1 alone says whether the units can be read."""
    clips, codec = run.material.sentences, run.model.bundle.tokenizer
    levels = [n for n in LEVELS if n < codec.n_q] + [codec.n_q]
    errors: dict[str, list[tuple[int, int]]] = {str(n): [] for n in (0, *levels)}
    against, alike, quality = [], [], []
    for number, clip in enumerate(clips):
        with torch.inference_mode():
            codes = codec.encode(torch.from_numpy(clip.pcm)[None, None].to(run.model.bundle.device))
            made = {
                n: codec.decode(codec.latents(codes[:n]))[0, 0, : len(clip.pcm)].float().cpu().numpy() for n in levels
            }
        heard = {0: run.judges.read(clip.pcm), **{n: run.judges.read(pcm) for n, pcm in made.items()}}
        for n, text in heard.items():
            errors[str(n)].append(run.judges.errors(clip.text, text))
        whole = np.clip(made[codec.n_q], -1, 1)
        against.append(run.judges.against(clip.pcm, whole))
        alike.append(run.judges.similarity(clip.pcm, whole))
        quality.append(run.judges.quality(whole))
        run.record(
            "tokenizer", number, len(clips), speaker=clip.speaker, text=clip.text, heard=heard, pesq=against[-1][0]
        )
        if number < 2:
            run.keep(f"tokenizer-{number}-original", clip.pcm)
            run.keep(f"tokenizer-{number}-reconstructed", whole)
    run.figures += [
        error_rate("tokenizer", f"WER, all {codec.n_q} levels", errors[str(codec.n_q)], floor=5.0, aim=3.0),
        *(
            error_rate("tokenizer", f"WER, RVQ-1{f' to {n}' if n > 1 else ' alone'}", errors[str(n)])
            for n in levels[:-1]
        ),
        error_rate("tokenizer", "WER, original", errors["0"]),
        mean("tokenizer", "PESQ", [p for p, _ in against], better="more"),
        mean("tokenizer", "STOI", [s for _, s in against], better="more"),
        mean("tokenizer", "speaker cosine to the original", alike, better="more"),
        mean("tokenizer", "DNSMOS", quality, better="more"),
    ]


def tts(run: Run) -> None:
    """Open-domain sentences in the default voice, streamed and in one piece; then in held-out voices."""
    texts = shuffled(shipped("open_domain"), run.seed, "tts")[: run.items]
    errors, quality, offline_errors, offline_quality, difference = [], [], [], [], []
    for number, text in enumerate(texts):
        streamed = join(run.model.say(text, stream=True, seed=run.seed, max_seconds=_MAX_SECONDS))
        whole = _in_one_piece(run, streamed)
        heard = run.judges.read(streamed.pcm)
        errors.append(run.judges.errors(text, heard))
        quality.append(run.judges.quality(streamed.pcm))
        offline_errors.append(run.judges.errors(text, run.judges.read(whole)))
        offline_quality.append(run.judges.quality(whole))
        difference.append(float(np.abs(whole - streamed.pcm).max(initial=0.0)))
        run.record("tts", number, len(texts), text=text, heard=heard, dnsmos=quality[-1], difference=difference[-1])
        if number < 3:
            run.keep(f"tts-{number}", streamed.pcm)
    run.figures += [
        error_rate("tts", "WER, default voice", errors, floor=6.0, aim=3.0),
        mean("tts", "DNSMOS, default voice", quality, better="more", floor=3.0, aim=3.2),
        error_rate("tts", "WER, the same in one piece", offline_errors),
        mean("tts", "DNSMOS, the same in one piece", offline_quality, better="more"),
        Figure("tts", "streamed to one piece, largest difference", max(difference, default=None), items=len(texts)),
    ]
    _other_voices(run, texts)


def _in_one_piece(run: Run, streamed: Chunk) -> Pcm:
    """The same units as one masked run of the flow and one run of the decoder: what streaming must equal."""
    bundle = run.model.bundle
    voice = bundle.voice(None)
    if not streamed.units:
        return streamed.pcm
    with torch.inference_mode():
        codec = bundle.tokenizer
        units, detail = torch.tensor((streamed.units, streamed.detail), device=bundle.device)
        v1 = codec.semantics((units + N_UNITS * detail)[None])
        latents = solve_offline(
            bundle.perceptual,
            v1,
            seed=run.seed ^ SOUND_SEED,
            solver=bundle.config.solver,
            schedule=bundle.config.blocks,
            prompt=(voice.latents, codec.semantics(voice.units[None])[0]),
        )
        pcm: Pcm = codec.decode(latents)[0, 0].float().cpu().numpy()
    return np.clip(pcm, -1.0, 1.0)


def _other_voices(run: Run, texts: list[str]) -> None:
    voices = run.material.voices
    errors, alike, quality = [], [], []
    ceiling = [run.judges.similarity(v.prompt, v.other) for v in voices]
    for number, text in enumerate(texts if voices else []):
        held_out = voices[number % len(voices)]
        voice = run.voice(held_out)
        pcm = run.say_in(voice, text)
        heard = run.judges.read(pcm)
        errors.append(run.judges.errors(text, heard))
        alike.append(run.judges.similarity(pcm, held_out.prompt))
        quality.append(run.judges.quality(pcm))
        run.record("tts-voices", number, len(texts), speaker=held_out.speaker, text=text, heard=heard, cosine=alike[-1])
        if number < 3:
            run.keep(f"tts-voices-{number}-{held_out.speaker}", pcm)
    run.figures += [
        error_rate("tts", f"WER, {run.material.speakers} voice (3 s)", errors, floor=8.0, aim=4.0),
        mean("tts", f"speaker cosine, {run.material.speakers} voice", alike, better="more", floor=0.75, aim=0.85),
        mean("tts", f"DNSMOS, {run.material.speakers} voice", quality, better="more"),
        mean("tts", "speaker cosine of two real recordings", ceiling),
    ]


def vc(run: Run) -> None:
    """Held-out sentences in another held-out voice."""
    errors, alike, source, quality = [], [], [], []
    clips, voices = run.material.sentences, run.material.voices
    for number, clip in enumerate(clips):
        others = [v for v in voices if v.speaker != clip.speaker]
        if not others:
            break
        target = others[number % len(others)]
        voice = run.voice(target)
        pcm = run.convert_to(voice, clip.pcm)
        heard = run.judges.read(pcm)
        errors.append(run.judges.errors(clip.text, heard))
        alike.append(run.judges.similarity(pcm, target.prompt))
        source.append(run.judges.similarity(pcm, clip.pcm))
        quality.append(run.judges.quality(pcm))
        run.record(
            "vc", number, len(clips), source=clip.speaker, target=target.speaker, text=clip.text, heard=heard,
            cosine=alike[-1],
        )  # fmt: skip
        if number < 3:
            run.keep(f"vc-{number}-{clip.speaker}-to-{target.speaker}", pcm)
    run.figures += [
        error_rate("vc", f"WER, {run.material.speakers} voice", errors, floor=10.0, aim=5.0),
        mean("vc", "speaker cosine to the target", alike, better="more", floor=0.70, aim=0.80),
        mean("vc", "speaker cosine to the source", source, better="less"),
        mean("vc", "DNSMOS", quality, better="more"),
    ]


def asr(run: Run) -> None:
    """What the model hears of held-out speakers, beside what the judge hears; then of no speech at all."""
    clips = [*run.material.sentences, *run.material.questions]
    errors, judge = [], []
    for number, clip in enumerate(clips):
        heard = _transcript(run, clip.pcm)
        errors.append(run.judges.errors(clip.text, heard))
        judge.append(run.judges.errors(clip.text, run.judges.read(clip.pcm)))
        run.record("asr", number, len(clips), speaker=clip.speaker, text=clip.text, heard=heard)
    silent = []
    sounds = list(no_speech(run.seed))
    for number, (name, pcm) in enumerate(sounds):
        heard = _transcript(run, pcm)
        silent.append(not heard.strip())
        run.record("asr-no-speech", number, len(sounds), sound=name, heard=heard)
    run.figures += [
        error_rate("asr", f"WER, {run.material.speakers} speakers", errors, floor=10.0, aim=6.0),
        error_rate("asr", "WER of the judge itself", judge),
        share("asr", "silence, noise, tones: nothing heard", silent),
    ]


def _transcript(run: Run, pcm: Pcm) -> str:
    try:
        return run.model.transcribe((pcm, 16_000))
    except AudioError:
        return ""


def dialogue(run: Run) -> None:
    """Spoken questions: is the content right, as planned and as heard; unanswerable ones; earlier turns remembered."""
    planned, later, heard_right, direct, chance, alike, quality, errors = [], [], [], [], [], [], [], []
    clips = run.material.questions
    for number, clip in enumerate(clips):
        answer = _answer(run, clip, "text")
        spoken = run.judges.read(answer.pcm)
        bare = run.judges.read(_answer(run, clip, "direct").pcm)
        after = _answer(run, replace(clip, history=(*_talk_of_others(clips, number), *clip.history)), "text")
        planned.append(content.right(clip.text, clip.answers, answer.text, run.judges.normalise))
        later.append(content.right(clip.text, clip.answers, after.text, run.judges.normalise))
        heard_right.append(content.right(clip.text, clip.answers, spoken, run.judges.normalise))
        direct.append(content.right(clip.text, clip.answers, bare, run.judges.normalise))
        # How often this answer would pass for the next question: what guessing is worth.
        other = clips[(number + 1) % len(clips)]
        chance.append(content.right(other.text, other.answers, spoken, run.judges.normalise))
        errors.append(run.judges.errors(answer.text, spoken) if answer.text else (0, 0))
        quality.append(run.judges.quality(answer.pcm))
        alike.append(run.judges.similarity(answer.pcm, _default_prompt(run)))
        run.record(
            "dialogue", number, len(clips), speaker=clip.speaker, question=clip.text, understood=answer.transcript,
            expected=clip.answers[:3], planned=answer.text, heard=spoken, direct=bare, right=heard_right[-1],
            planned_later=after.text,
        )  # fmt: skip
        if number < 3:
            run.keep(f"dialogue-{number}-question", clip.pcm)
            run.keep(f"dialogue-{number}-answer", answer.pcm)
    run.figures += [
        share("dialogue", "right content, heard by the judge", heard_right, floor=80.0, aim=90.0),
        share("dialogue", "right content, as planned in text", planned),
        share("dialogue", "the same after three other turns", later),
        share("dialogue", "right content, spoken directly", direct),
        share("dialogue", "right by chance (another question's answer)", chance),
        error_rate("dialogue", "WER of the answer against its own text", errors),
        mean("dialogue", "speaker cosine", alike, better="more"),
        mean("dialogue", "DNSMOS of answers", quality, better="more"),
    ]
    _unknowable(run)
    _remembered(run)


def _talk_of_others(clips: list[Clip], number: int) -> tuple[Message, ...]:
    """Turns that have nothing to do with a question: those that come after it, with their right answers."""
    others = [*clips[number + 1 :], *clips[:number]][:MAX_HISTORY_TURNS]
    return tuple(m for c in others for m in (Message("user", c.text), Message("assistant", c.answers[0])))


def _default_prompt(run: Run) -> Pcm:
    bundle = run.model.bundle
    with torch.inference_mode():
        pcm: Pcm = bundle.tokenizer.decode(bundle.voice(None).latents[None])[0, 0].float().cpu().numpy()
    return pcm


def _answer(run: Run, clip: Clip, mode: Mode) -> Chunk:
    try:
        return run.model.reply((clip.pcm, 16_000), clip.history, mode=mode, seed=run.seed, max_seconds=_MAX_SECONDS)
    except (AudioError, EngineError):
        return join([])


def _unknowable(run: Run) -> None:
    clips = run.material.unknowable
    said = []
    for number, clip in enumerate(clips):
        heard = run.judges.read(_answer(run, clip, "text").pcm)
        said.append(content.admits(heard, run.judges.normalise))
        run.record("dialogue-unknowable", number, len(clips), question=clip.text, heard=heard, right=said[-1])
    run.figures.append(share("dialogue", "asked what it can't know, says so", said, floor=80.0, aim=95.0))


def _remembered(run: Run) -> None:
    """Questions that only earlier turns answer, after these turns as text, and in a talk in which all is spoken."""
    clips = run.material.dialogues
    planned, right, talked = [], [], []
    for number, clip in enumerate(clips):
        answer = _answer(run, clip, "text")
        heard = run.judges.read(answer.pcm)
        history = _talk(run, clip)
        after = _answer(run, replace(clip, history=history), "text").text
        planned.append(content.right(clip.text, clip.answers, answer.text, run.judges.normalise))
        right.append(content.right(clip.text, clip.answers, heard, run.judges.normalise))
        talked.append(content.right(clip.text, clip.answers, after, run.judges.normalise))
        run.record(
            "dialogue-turns", number, len(clips), history=_lines(clip.history), question=clip.text,
            understood=answer.transcript, planned=answer.text, heard=heard, right=right[-1], talk=_lines(history),
            planned_in_talk=after,
        )  # fmt: skip
    run.figures += [
        share("dialogue", "earlier turns remembered", right),
        share("dialogue", "the same, as planned in text", planned),
        share("dialogue", "as planned, when those turns were spoken too", talked),
    ]


def _talk(run: Run, clip: Clip) -> tuple[Message, ...]:
    """Earlier turns as a conversation comes to keep them: what was heard of them, and what it answered."""
    history: tuple[Message, ...] = ()
    for pcm in clip.turns:
        answer = _answer(run, replace(clip, pcm=pcm, history=history), "text")
        if answer.transcript and answer.text:  # what was not understood is no turn
            history += (Message("user", answer.transcript), Message("assistant", answer.text))
    return history


def _lines(history: Sequence[Message]) -> list[str]:
    return [f"{m.role}: {m.text}" for m in history]


TASKS: dict[str, Callable[[Run], None]] = {f.__name__: f for f in (tokenizer, tts, vc, asr, dialogue)}
NEEDS: dict[str, set[str]] = {
    "tokenizer": {"sentences"},
    "tts": {"voices"},
    "vc": {"sentences", "voices"},
    "asr": {"sentences", "questions"},
    "dialogue": {"questions", "unknowable", "dialogues"},
}
