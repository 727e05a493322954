"""Every stage of the recipe runs, resumes and ends in a bundle, on a corpus of a few seconds."""

import io
import json
import re
import resource
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.semantic.hugging_face import extend_llama
from speechgpt_gen.models.semantic.vocabulary import SpeechVocabulary
from speechgpt_gen.models.training import ablation, semantic_model, semantic_units
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.extract import Spoken, align, load_spoken
from speechgpt_gen.models.training.loop import DivergedError, Loop, LoopConfig
from speechgpt_gen.models.training.precision import mixed
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.recipe import load_recipe
from speechgpt_gen.models.training.saving import UnsavedError
from speechgpt_gen.models.training.semantic_recipe import SemanticRecipe

RECIPE = """
views = 1
voices = ["ann"]
prompt_frames = 20
[units]
batch_seconds = 6.0
encoder = {bands = 20, dim = 32, layers = 1, heads = 2, window = 8, lookahead = 2, detail = 2}
loop = {steps = 3, warmup = 1, save_every = 2}
[acoustic]
continuous_steps = 2
batch = 2
crop_frames = 16
tokenizer = {encoder_dim = 16, encoder_layers = 1, decoder_dim = 16, decoder_layers = 1, heads = 2, reach = 8, \
latent_dim = 8, semantic = {bands = 20, dim = 32, layers = 1, heads = 2, window = 8, lookahead = 2, detail = 2}}
loop = {steps = 4, warmup = 1, save_every = 2}
[semantic]
text_tokens = 140
hidden_size = 32
intermediate_size = 48
layers = 2
heads = 2
kv_heads = 1
row_tokens = 400
rows = 2
loop = {steps = 3, warmup = 1, save_every = 2, ema = 0.9}
[perceptual]
batch_frames = 200
joined = 0.5
model = {latent_dim = 8, dim = 32, depth = 1, heads = 2, detail = 2}
loop = {steps = 3, warmup = 1, save_every = 2, ema = 0.9}
[decoder]
batch = 2
crop_frames = 16
loop = {steps = 3, warmup = 1, save_every = 2, ema = 0.9}
[ablation]
batch_frames = 200
model = {latent_dim = 8, dim = 16, depth = 1, heads = 2}
loop = {steps = 3, warmup = 1, save_every = 2}
"""


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    prepare(source, folder / "corpus", progress=False)
    return folder


def test_a_corpus_is_decoded_sample_for_sample(source: Path, run: Path) -> None:
    corpus = Corpus(run / "corpus")
    assert [u.id for u in corpus.utterances] == [f"u{n}" for n in range(9)]
    with tarfile.open(source / "shards" / "A.tar") as archive:
        handle = archive.extractfile("u4.ogg")
        assert handle is not None
        truth, _ = soundfile.read(io.BytesIO(handle.read()), dtype="int16")
    np.testing.assert_array_equal(corpus.audio(corpus.by_id["u4"]) * 32768, truth)
    assert [(q.id, a.id) for q, a in corpus.pairs() if q.split == "train"] == [("u0", "u1"), ("u3", "u4"), ("u6", "u7")]


@pytest.mark.slow
def test_the_stages_end_in_a_bundle_that_loads(run: Path, tmp_path: Path) -> None:
    from speechgpt_gen.agent.cli.train import app

    config = tmp_path / "tiny.toml"
    config.write_text(RECIPE)
    options = ["--run", str(run), "--config", str(config)]
    (run / "decoder").mkdir()  # as a process leaves it that is killed before it saved anything
    for stage in ("tokenizer", "semantic", "perceptual", "decoder"):
        result = CliRunner().invoke(app, [stage, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    folder = tmp_path / "model"
    result = CliRunner().invoke(app, ["export", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    bundle = load_bundle(folder)
    assert bundle.voice("ann").latents.shape == (20, 8)
    assert bundle.tokenizer.codebooks.vectors[0].any(dim=-1).all()
    spoken = load_spoken(run / "spoken.npz", Corpus(run / "corpus"))
    wav = torch.from_numpy(Corpus(run / "corpus").audio(Corpus(run / "corpus").by_id["u2"]))
    encoder = bundle.tokenizer.semantic
    mel = encoder.mel_frames(wav[None])
    with torch.inference_mode(), mixed(mel.device):  # as training reads them: a digit on the edge falls as bf16 has it
        units = encoder.quantize(encoder.hidden(mel))[1][0]
        told = encoder.heard(encoder.hidden(mel))[0] // 1024
    assert len(units) == len(spoken["u2"].units)
    assert (spoken["u2"].detail == told.numpy()).mean() > 0.9, "but for digits on the edge"
    assert bundle.semantic.config.detail == 2
    assert load_file(run / "detail.safetensors").keys() == encoder.detail.state_dict().keys()  # type: ignore[union-attr]
    decoders = [torch.load(run / name / "checkpoint.pt", weights_only=True) for name in ("acoustic", "decoder")]
    taught = bundle.tokenizer.decoder.head.weight
    assert (taught - decoders[1]["average"]["head.weight"]).abs().max() < 0.01
    assert not torch.equal(decoders[0]["module"]["decoder.head.weight"], decoders[1]["module"]["head.weight"])
    heard = load_spoken(run / "heard-1.npz", Corpus(run / "corpus"))
    assert heard.keys() == spoken.keys()
    assert any((heard[name].units != spoken[name].units).any() for name in spoken), "through noise"
    for stage in ("acoustic", "semantic", "perceptual", "decoder"):
        assert (run / stage / "valid.wav").is_file(), f"{stage} cannot be heard"
    steps = [json.loads(line)["step"] for line in (run / "perceptual" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]

    # The ablation on that tokenizer: every variant to its end, and a second run has nothing left to do.
    settings = load_recipe(config)
    asked: list[int] = []

    def judge(made: Mapping[str, torch.Tensor]) -> dict[str, float]:
        asked.append(len(made))
        return {"wer": float(sum(wav.isfinite().all() for wav in made.values())) / len(made)}

    stopped = run / "ablation" / ablation.VARIANTS[0].name
    stopped.mkdir(parents=True)
    (stopped / "checkpoint.pt").write_bytes(b"half trained")
    path = ablation.run_all(run, settings, lambda corpus: judge)
    lines = ablation.read(path)
    assert [line["step"] for line in lines] == [1, 2, 3, 3, 3, 3, 3] * len(ablation.VARIANTS)
    assert {line["wer"] for line in lines} == {1.0}
    assert ablation.read(ablation.run_all(run, settings, lambda corpus: judge)) == lines
    assert len(asked) == len(lines)

    # Another run goes on from that model: with a rate of nearly nothing its weights are still the model's.
    still = re.sub("loop = {", "loop = {learning_rate = 1e-12, ", RECIPE)
    config.write_text(still.replace("ema = 0.9", "ema = 0.0"))
    second = tmp_path / "second"
    second.mkdir()
    (second / "corpus").symlink_to(run / "corpus")
    options = ["--run", str(second), "--config", str(config), "--start", str(folder)]
    for stage in ("tokenizer", "semantic", "perceptual"):
        result = CliRunner().invoke(app, [stage, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    for part, name in ((bundle.semantic, "semantic"), (bundle.perceptual, "perceptual")):
        state = torch.load(second / name / "checkpoint.pt", weights_only=True)["module"]
        for key, value in part.state_dict().items():
            torch.testing.assert_close(value, state[key], atol=1e-6, rtol=0)

    # And one adapts the semantic model alone: everything else is the first model's, voices too.
    third = tmp_path / "third"
    third.mkdir()
    (third / "corpus").symlink_to(run / "corpus")
    options = ["--run", str(third), "--config", str(config), "--start", str(folder)]
    for stage in (["semantic"], ["export", str(tmp_path / "adapted")]):
        result = CliRunner().invoke(app, [*stage, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert not (third / "units").exists()
    assert not (third / "detail.safetensors").exists(), "it hears what the model did"
    refused = CliRunner().invoke(app, ["tokenizer", *options])
    assert refused.exit_code == 2
    assert "in another folder" in " ".join(refused.output.split())
    adapted, read = load_bundle(tmp_path / "adapted"), load_spoken(third / "spoken.npz", Corpus(run / "corpus"))
    assert read["u2"].units.tolist() == units.tolist()
    for part in ("tokenizer", "perceptual"):
        for key, value in getattr(bundle, part).state_dict().items():
            torch.testing.assert_close(getattr(adapted, part).state_dict()[key], value)
    assert torch.equal(adapted.voice("ann").latents, bundle.voice("ann").latents)

    # Where units keep their meaning, the encoder alone is another, here of another shape.
    fourth = tmp_path / "fourth"
    fourth.mkdir()
    (fourth / "corpus").symlink_to(run / "corpus")
    larger = RECIPE.replace("layers = 1, heads = 2, window = 8", "layers = 2, heads = 2, window = 8, block = 4")
    kept = larger.replace("[units]", "[units]\nkeep = 1.0\nreading_steps = 2")
    config.write_text(kept.replace("[acoustic]", "[acoustic]\nfollow_hours = 1.0"))
    for stage in (["tokenizer"], ["export", str(tmp_path / "hears-better")]):
        result = CliRunner().invoke(
            app, [*stage, "--run", str(fourth), "--config", str(config), "--start", str(folder)], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
    better = load_bundle(tmp_path / "hears-better")
    assert better.tokenizer.config.semantic == better.tokenizer.semantic.config == load_recipe(config).units.encoder
    before, after = bundle.tokenizer.state_dict(), better.tokenizer.state_dict()
    books, followed = before.pop("codebooks.vectors"), after["codebooks.vectors"]
    assert torch.equal(followed[1:], books[1:])
    assert not torch.equal(followed[0], books[0])
    for key, value in before.items():
        assert torch.equal(after[key], value) == (not key.startswith("semantic.") or "spread" in key)
    ann = better.voice("ann")
    assert torch.equal(ann.latents, bundle.voice("ann").latents)
    assert (fourth / "detail.safetensors").exists()
    assert torch.equal(ann.units, better.tokenizer.hear(better.tokenizer.decode(ann.latents[None]))[0])
    config.write_text(still)

    # Blended, its semantic weights lie between those of both.
    trained = load_bundle(tmp_path / "adapted").semantic.state_dict()
    wild = torch.load(third / "semantic" / "checkpoint.pt", weights_only=True)
    for value in wild["module"].values():
        value.add_(1.0)
    wild["average"] = None
    torch.save(wild, third / "semantic" / "checkpoint.pt")
    config.write_text("blend = 0.25\n" + config.read_text())
    result = CliRunner().invoke(app, ["export", str(tmp_path / "blended"), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for key, value in load_bundle(tmp_path / "blended").semantic.state_dict().items():
        torch.testing.assert_close(value, trained[key] + 0.25, atol=0.02, rtol=0)
    config.write_text(RECIPE.replace("hidden_size = 32", "hidden_size = 16"))
    refused = CliRunner().invoke(app, ["semantic", *options])
    assert refused.exit_code == 2
    assert "hidden_size=16" in refused.output.replace("\n", "")


@pytest.mark.slow
def test_a_model_that_knows_no_detail_learns_of_it(run: Path, tmp_path: Path) -> None:
    from speechgpt_gen.agent.cli.train import app

    plain = RECIPE.replace(", detail = 2", "")
    (tmp_path / "plain.toml").write_text(plain)
    (tmp_path / "more.toml").write_text("blend = 0.5\n" + RECIPE.replace("[semantic]", "[semantic]\nrestated = 1.0"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus").symlink_to(run / "corpus")

    def do(name: str, config: str, *commands: list[str]) -> None:
        for command in commands:
            options = ["--run", str(tmp_path / name), "--config", str(tmp_path / config)]
            done = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
            assert done.exit_code == 0, done.output

    before, after, start = str(tmp_path / "before"), str(tmp_path / "after"), ["--start", str(tmp_path / "before")]
    do("first", "plain.toml", ["tokenizer"], ["semantic"], ["perceptual"], ["export", before])
    do("second", "more.toml", ["semantic", *start], ["perceptual", *start], ["export", after, *start])
    asked = [json.loads(line)["id"] for line in (tmp_path / "second" / "understood.jsonl").read_text().splitlines()]
    assert asked == [u.id for u in Corpus(run / "corpus").utterances if u.kind == "question"]
    assert not (tmp_path / "first" / "understood.jsonl").exists(), "nobody was there to hear them"
    old, new = load_bundle(before), load_bundle(after)
    assert (old.semantic.config.detail, new.semantic.config.detail) == (0, 2)
    assert new.semantic.model.embed_detail.weight.any()  # type: ignore[union-attr]
    assert (old.perceptual.config.detail, new.perceptual.config.detail) == (0, 2)
    assert new.perceptual.in_proj.weight[:, 16:18].any(), "of x_t and v1 it has eight channels each"
    for key, value in old.tokenizer.state_dict().items():
        torch.testing.assert_close(new.tokenizer.state_dict()[key], value)
    wav = torch.from_numpy(Corpus(run / "corpus").audio(Corpus(run / "corpus").by_id["u2"]))[None, None]
    assert torch.equal(new.tokenizer.encode_semantic(wav), old.tokenizer.encode_semantic(wav))
    (tmp_path / "more.toml").write_text(RECIPE.replace("detail = 2", "detail = 3"))
    refused = CliRunner().invoke(
        app, ["semantic", "--run", str(tmp_path / "first"), "--config", str(tmp_path / "more.toml"), "--start", after]
    )
    assert refused.exit_code == 2
    assert "detail" in refused.output


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_one_that_was_never_stopped(run: Path, tmp_path: Path, optimizer: str) -> None:
    recipe_file = tmp_path / "tiny.toml"
    recipe_file.write_text(RECIPE.replace("loop = {", f'loop = {{optimizer = "{optimizer}", '))
    config = load_recipe(recipe_file).units
    corpus = Corpus(run / "corpus")
    whole = semantic_units.train(corpus, tmp_path / "whole", config)
    semantic_units.train(corpus, tmp_path / "parts", config, until=2)
    parts = semantic_units.train(corpus, tmp_path / "parts", config)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    other = replace(config, loop=replace(config.loop, optimizer="muon" if optimizer == "adamw" else "adamw", steps=4))
    with pytest.raises(ConfigError, match="another optimizer"):
        semantic_units.train(corpus, tmp_path / "parts", other)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1)
    loop = Loop(tmp_path, module, LoopConfig(steps=3))
    with pytest.raises(DivergedError, match="step 0"):
        loop.run(lambda step: {"loss": module(torch.full((1, 2), float("nan"))).sum()})


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may become larger, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's, which writes too
@pytest.mark.parametrize("size", [100_000, 0])
def test_a_full_disk_stops_the_run_in_one_line_and_keeps_the_last_checkpoint(tmp_path: Path, size: int) -> None:
    module = torch.nn.Linear(200, 200)

    def losses(step: int) -> dict[str, torch.Tensor]:
        return {"loss": module(torch.full((1, 200), float(step))).square().mean()}

    loop = Loop(tmp_path, module, LoopConfig(steps=3, save_every=1))
    loop.run(losses, until=1)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with room_for(size), pytest.raises(UnsavedError, match="make room, and run it again"):
        loop.run(losses)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert not list(tmp_path.glob("*.part"))
    again = Loop(tmp_path, module, LoopConfig(steps=3, save_every=1))
    assert again.step == 1
    again.run(losses)
    assert again.step == 3


def test_alignment_finds_the_letters_where_they_are() -> None:
    target = [3, 1, 3, 3]
    truth = [0, 1, 1, 2, 3, 4, 5, 5, 6, 7]  # state 2k+1 is letter k, even ones are blanks
    probabilities = np.full((1, len(truth), 5), 0.02, np.float32)
    for t, state in enumerate(truth):
        probabilities[0, t, 0 if state % 2 == 0 else target[state // 2]] = 0.9
    (path,) = align(torch.from_numpy(np.log(probabilities)), [target], [len(truth)])
    assert path.tolist() == truth


def test_a_llama_learns_units_by_low_rank_terms(run: Path, tmp_path: Path) -> None:
    corpus = Corpus(run / "corpus")
    rng = np.random.default_rng(0)
    spoken = {}
    for u in corpus.utterances:
        words = u.text.split()
        ends = [u.frames * (i + 1) // len(words) for i in range(len(words))]
        spoken[u.id] = Spoken(rng.integers(1024, size=u.frames).astype(np.int16), words, ends, ends)
    vocabulary = SpeechVocabulary.train_bpe((u.text for u in corpus.utterances), size=130)
    vocabulary.save(tmp_path / "llama")
    config = LlamaConfig(
        vocab_size=vocabulary.n_text,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    loop = LoopConfig(steps=2, warmup=1, learning_rate=1e-2)
    recipe = SemanticRecipe(base=str(tmp_path / "llama"), lora_rank=2, loss="all", row_tokens=400, rows=2, loop=loop)
    model, made = semantic_model.train(corpus, spoken, tmp_path / "run", recipe)
    assert made.size == vocabulary.size
    (line, *_) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["unit"] > 0
    start, _ = extend_llama(tmp_path / "llama")
    frozen = "model.layers.1.mlp.up_proj"
    state = model.state_dict()
    assert torch.equal(state[f"{frozen}.parametrizations.weight.original"], start.state_dict()[f"{frozen}.weight"])
    assert state[f"{frozen}.parametrizations.weight.0.b"].any()
    assert not torch.equal(state["model.embed_tokens.weight"], start.state_dict()["model.embed_tokens.weight"])
