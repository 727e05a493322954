"""Stage one of the tokenizer: units that a recogniser can read and that don't say who speaks."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import check_heads, positive
from ..errors import ConfigError
from ..packages import whisper_folder
from ..recognition.letters import SYMBOLS, characters, collapsed, plainly
from ..speech_tokenizer.semantic_encoder import SemanticEncoder, SemanticEncoderConfig, SemanticReader
from .batches import BucketBatches
from .corpus import Corpus, Utterance
from .distillation import Distillation
from .loop import Loop, LoopConfig
from .parallel import ALONE, World
from .precision import mixed
from .recordings import HOP, Recordings
from .teachers import Teacher
from .views import Heard, HeardOnce, views
from .whisper import start_from_whisper

_KEPT = 4
"""One row in so many is compared with what the encoder to start from hears: a forward pass more, and enough."""
_READING = 0.2
"""Share of a budget in which units that are kept are learnt to be read."""


@dataclass(frozen=True)
class SemanticUnitsConfig:
    """Settings of stage one."""

    encoder: SemanticEncoderConfig = field(default_factory=SemanticEncoderConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=900, learning_rate=4e-4, warmup=60, save_every=100)
    )
    batch_seconds: float = 40.0
    evaluate_every: int = 0
    """Steps between readings of the held-out split (0: at the end only)."""
    recognition: float = 1.0
    """Weight of reading characters by CTC; 0: a corpus needs no texts, and the reader learns nothing of them."""
    spectrum_weight: float = 1.0
    teacher: str | None = None
    """A folder of HuBERT or Whisper, or "whisper" for that of the packages (`teachers.py`)."""
    teacher_layer: int | None = None
    """Its hidden state that teaches; by default the mean of all, as published."""
    distillation: float = 0.0
    """Weight of telling what the teacher hears (`distillation.py`)."""
    freeze_encoder: bool = False
    """Learn only to read the units as they are."""
    clean: float = 0.0
    """Share of the utterances that are heard as they are; the others through `augment`."""
    speed: float = 0.0
    """Share of the utterances that are played at another speed, pitch and all: as if other people spoke."""
    pitch: float = 0.0
    """Share of the utterances whose pitch alone is another."""
    keep: float = 0.0
    """Weight of staying near the digits that the encoder to start from hears in clean sound (0: free). With it units
    keep their meaning, and what was trained on them need not be trained again: a reader learns to read them as they
    are (`reading_steps`), then stays as it is and the encoder goes on; or one of another shape takes its place."""
    reading_steps: int = 900
    reader_learns: bool = False
    """Where units are kept, the reader goes on with the encoder, and so does the spread of their digits: units come to
    tell more, and `keep` may be small, but they move, and what was trained on them has to learn them again."""
    whisper: str | None = None
    """Folder of a Whisper model (CTranslate2) whose encoder's first layers the semantic encoder starts from."""
    hold: int = 0
    """Layers of the encoder, from the first and with the convolutions before it, that stay as they are: so that
    synthetic speech does not take the place of what Whisper learnt of recorded people. Those of the encoder to start
    from if it has this shape, else of `whisper`, and where that names none, of whisper-base from its packages."""
    hear_hours: float = 0.0
    """Hours of speech that the layers that are held hear once: what they say is kept beside the checkpoint (75 kB a
    second, and as much for the reader where units are kept) and comes again every epoch. 0: each step hears anew."""

    def __post_init__(self) -> None:
        positive(self, "batch_seconds")
        check_heads("encoder.reader_dim", self.encoder.reader_dim, self.encoder.heads // 2)  # as its reader has
        if not self.freeze_encoder and not 0 <= self.hold <= self.encoder.layers:
            raise ConfigError(f"units.hold = {self.hold}: the encoder has {self.encoder.layers} layers")
        if self.hear_hours and not self.held:
            raise ConfigError("units.hear_hours keeps what held layers say: give units.hold too, or leave it out")
        if (self.teacher is None) != (self.distillation == 0):
            raise ConfigError("units.teacher and units.distillation belong together: give both, or neither")
        if not self.recognition and not self.distillation:
            raise ConfigError("units.recognition = 0: give a teacher to distil, or units learn nothing of what is said")

    @property
    def held(self) -> int:
        """Layers that no step moves."""
        return self.encoder.layers if self.freeze_encoder else self.hold

    def reading(self) -> SemanticUnitsConfig:
        """The same settings, but for learning to read finished units, which stay as they are."""
        return replace(self, freeze_encoder=True, keep=0.0, recognition=1.0, teacher=None, distillation=0.0)


class SemanticUnits(nn.Module):
    """Encoder and its reader, as one module to train."""

    def __init__(self, config: SemanticUnitsConfig, speakers: int) -> None:
        super().__init__()
        kept = config.keep > 0 and not config.reader_learns
        self.fixed, self.held = config.freeze_encoder or kept, config.held
        self.encoder = SemanticEncoder(config.encoder)
        self.reader = SemanticReader(config.encoder, len(SYMBOLS), speakers)
        # Five numbers a frame carry little gradient; read before them too and the encoder learns much sooner.
        self.early = nn.Linear(config.encoder.dim, len(SYMBOLS))

    def train(self, mode: bool = True) -> SemanticUnits:
        """Where units keep their meaning, the spread of their digits must not follow the data."""
        super().train(mode)
        if self.fixed:
            self.encoder.spread.eval()
        return self

    def forward(self, states: Tensor, speaker: Tensor, start: int) -> tuple[Tensor, ...]:
        """States (B, T + lookahead, dim) after the layers that are held, speakers (B,) and the index of the first frame
        -> character logits before and after quantisation (B, T, symbols), spectrum (B, bands, 2 * T), digits as they
        are and as they are quantised (B, T, 5)."""
        hidden = self.encoder.upper(states, self.held, start)
        digits = self.encoder.digits(hidden)
        values, _ = self.encoder.quantizer(digits)
        logits, spectrum = self.reader(values, speaker)
        return self.early(hidden), logits, spectrum, self.encoder.quantizer.bound(digits), values


def ctc(logits: Tensor, utterances: Sequence[Utterance], frames: Tensor | None = None) -> Tensor:
    """Mean CTC loss of character logits (B, T, symbols) in nats a character; frames (B,): their lengths, if changed."""
    targets = [torch.tensor(characters(u.text)) for u in utterances]
    frames = torch.tensor([u.frames for u in utterances]) if frames is None else frames
    lengths = torch.tensor([len(t) for t in targets])
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(
        log_probs,
        torch.cat(targets).to(logits.device),
        frames.to(logits.device),
        lengths.to(logits.device),
        zero_infinity=True,
    )


def batches_of(pool: Sequence[Utterance], seconds: float, seed: int, *, fill: bool = True) -> BucketBatches:
    """Batches of about `seconds` of audio, padded to whole seconds."""
    return BucketBatches([u.frames for u in pool], seconds * 50, 50, seed, fill=fill)


def train(
    corpus: Corpus,
    folder: Path,
    config: SemanticUnitsConfig,
    *,
    device: str = "cpu",
    start: SemanticEncoder | None = None,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> SemanticUnits:
    """Train stage one in `folder`, resuming from its checkpoint; `start` is an encoder to go on from, `budget` the
    seconds that it may take. Raises ConfigError for units to be kept, but of no encoder, and for an encoder of another
    shape whose units are not kept; ModelNotFoundError when layers are to be held and nobody has them."""
    torch.manual_seed(config.loop.seed)
    module = _module(config, len(corpus.speakers), start, resumed=(folder / "checkpoint.pt").is_file())
    kept: SemanticEncoder | None = None
    if config.keep:
        if start is None:
            raise ConfigError("units.keep keeps the units of a model: name it with --start, or leave keep out")
        steps = replace(config.loop, steps=config.reading_steps, learning_rate=1.5e-3)
        reading = replace(config.reading(), encoder=start.config, loop=steps)
        share = None if budget is None else budget * _READING
        read = train(corpus, folder / "reader", reading, device=device, start=start, budget=share, world=world)
        budget = None if budget is None else budget * (1 - _READING)
        module.reader.load_state_dict(read.reader.state_dict())
        module.encoder.spread.load_state_dict(start.spread.state_dict())
        if _alike(start, config):
            module.early.load_state_dict(read.early.state_dict())
        module.reader.requires_grad_(config.reader_learns)
        kept = deepcopy(start).eval().to(device)
    module.to(device)
    recordings = Recordings(corpus, device)
    speaker_of = {name: i for i, name in enumerate(corpus.speakers)}
    # A sound without letters has all its frames' blanks for a loss, not one character's: it would drown the others.
    training, held_out = (
        [u for u in corpus.split(name) if not config.recognition or characters(u.text)] for name in ("train", "valid")
    )
    batches = batches_of(training, config.batch_seconds, config.loop.seed)
    teacher, distil = None, None
    if config.teacher is not None:
        teacher = Teacher(config.teacher, config.teacher_layer, device)
        distil = Distillation(teacher.dim).to(device)
    shares = {"clean": config.clean, "speed": config.speed, "pitch": config.pitch}

    def hear(number: int) -> Heard:
        index = batches(number)
        chosen = [training[i] for i in index]
        said = recordings.audio(chosen, int(batches.longest(index)))
        rng = np.random.default_rng((config.loop.seed, number))
        said, heard, frames = views(said, [u.samples for u in chosen], rng, **shares)
        first = int(rng.integers(1500))
        truth = module.encoder.mel_frames(said)[..., : said.shape[-1] // HOP * 2]
        with torch.set_grad_enabled(not config.held), mixed(heard.device):
            states = module.encoder.lower(module.encoder.mel_frames(heard), config.held, first)
        rows, digits = torch.zeros(0, dtype=torch.int64, device=device), truth.new_zeros(0)
        if kept is not None:
            some = rng.choice(len(chosen), -(-len(chosen) // _KEPT), replace=False)
            rows = torch.from_numpy(some).to(device)
            digits = _digits(kept, said[rows], first)
        taught = truth.new_zeros(0) if teacher is None else teacher(said, frames.tolist())
        return Heard(states, truth, frames, torch.tensor(first), rows, digits, taught)

    again: HeardOnce | None = None
    if config.hear_hours:
        told: dict[str, object] = {**shares, "seed": config.loop.seed, "held": config.held, "kept": kept is not None}
        told |= {"teacher": config.teacher, "layer": config.teacher_layer}
        settings = f"{told} {config.encoder}"
        again = HeardOnce(folder / "heard", batches, training, config.hear_hours, hear, settings=settings)

    def losses(step: int) -> dict[str, Tensor]:
        number = step if again is None else again.number(step)
        states, truth, frames, first, rows, kept_digits, taught = (
            hear(number) if again is None else again(number, device)
        )
        chosen = [training[i] for i in batches(number)]
        speaker = torch.tensor([speaker_of[u.speaker] for u in chosen], device=device)
        with mixed(states.device):
            early, late, spectrum, digits, values = module(states, speaker, int(first))
        inside = torch.arange(truth.shape[-1], device=device)[None] < 2 * frames[:, None]
        l1 = 4 * (spectrum.float() - truth).abs().mean(1)[inside].mean()
        terms = {"loss": config.spectrum_weight * l1, "spectrum": l1}
        if config.recognition:
            terms |= {"early": ctc(early, chosen, frames), "ctc": ctc(late, chosen, frames)}
            terms["loss"] = terms["loss"] + config.recognition * (terms["early"] + terms["ctc"])
        if distil is not None:
            terms["distillation"] = distil(values, taught, frames)
            terms["loss"] = terms["loss"] + config.distillation * terms["distillation"]
        if len(rows):
            moved = (digits[rows] - kept_digits).square().mean(-1)
            terms["kept"] = moved[inside[rows][:, ::2]].mean()
            terms["loss"] = terms["loss"] + config.keep * terms["kept"]
        return terms

    def evaluate() -> dict[str, float]:
        return {"cer": readability(recordings, module, held_out)} if held_out and config.recognition else {}

    loop = Loop(
        folder,
        module,
        config.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        beside=distil,
        world=world,
    )
    loop.run(losses, until=until)
    return module


def _module(
    config: SemanticUnitsConfig, speakers: int, start: SemanticEncoder | None, *, resumed: bool
) -> SemanticUnits:
    """What is to be trained, with the weights that it goes on from; those that stay take no gradient."""
    module = SemanticUnits(config, speakers)
    if start is not None and not _alike(start, config) and not config.keep:
        raise ConfigError("the encoder to start from has another shape: keep its units (units.keep), or start anew")
    if start is not None and _alike(start, config):
        module.encoder.start_from(start)
    elif (config.whisper or config.hold) and not resumed:
        start_from_whisper(module.encoder, Path(config.whisper) if config.whisper else whisper_folder())
    module.encoder.requires_grad_(not config.freeze_encoder)
    if module.encoder.detail is not None:
        module.encoder.detail.requires_grad_(False)  # learnt of a finished encoder (`reading.py`)
    if config.hold:
        module.encoder.front.requires_grad_(False)
        module.encoder.transformer.layers[: config.hold].requires_grad_(False)
    return module


def _alike(start: SemanticEncoder, config: SemanticUnitsConfig) -> bool:
    """Whether an encoder has the shape that is asked for, but for detail."""
    return replace(start.config, detail=config.encoder.detail) == config.encoder


@torch.no_grad()
def _digits(encoder: SemanticEncoder, wav: Tensor, start: int) -> Tensor:
    """Real digits (B, T, 5) that an encoder hears."""
    with mixed(wav.device):
        return encoder.quantizer.bound(encoder.digits(encoder.hidden(encoder.mel_frames(wav), start)))


@torch.inference_mode()
def readability(
    recordings: Recordings, module: SemanticUnits, utterances: Sequence[Utterance], *, most: int = 400
) -> float:
    """Character error rate of the reader's best path on units of audio (of `most` utterances, evenly taken)."""
    chosen = list(utterances)[:: max(1, len(utterances) // most)][:most]
    batches = batches_of(chosen, 200.0, 0, fill=False)
    wrong = total = 0
    for step in range(batches.per_epoch):
        index = batches(step)
        part = [chosen[i] for i in index]
        wav = recordings.audio(part, int(batches.longest(index)))
        for u, read in zip(part, transcribe(module, wav, [u.frames for u in part]), strict=True):
            truth = plainly(u.text)
            wrong += edits(read, truth)
            total += len(truth)
    return wrong / max(1, total)


@torch.inference_mode()
def transcribe(module: SemanticUnits, wav: Tensor, frames: Sequence[int]) -> list[str]:
    """What the reader reads from the units of waveforms (B, N), greedily."""
    with mixed(wav.device):
        values, _ = module.encoder.quantize(module.encoder.hidden(module.encoder.mel_frames(wav)))
        best = module.reader.read(values).argmax(-1).cpu()
    return [collapsed(row[:n]) for row, n in zip(best.tolist(), frames, strict=True)]


def edits(made: str, truth: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(truth) + 1))
    for i, c in enumerate(made, 1):
        previous, row[0] = row[0], i
        for j, d in enumerate(truth, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (c != d))
    return row[-1]
