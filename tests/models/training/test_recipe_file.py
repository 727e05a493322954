"""Recipes as files: those of the package are right, and what cannot be is refused, by name, before any work."""

from pathlib import Path

import pytest

from speechgpt_gen.models.bundle import read_config
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training import semantic_units
from speechgpt_gen.models.training.recipe import load_recipe

RECIPES = Path(semantic_units.__file__).parent


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_the_recipes_that_come_with_the_package_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.acoustic.tokenizer.latent_dim == recipe.perceptual.model.latent_dim
    assert recipe.description


@pytest.mark.parametrize("name", ["nano.toml", "nano_cpu.toml"])
def test_the_recipes_of_nano_ask_for_the_tokenizer_that_is_shipped(name: str) -> None:
    recipe, shipped = load_recipe(RECIPES / name), read_config("nano").tokenizer
    assert recipe.acoustic.tokenizer == shipped
    assert recipe.units.encoder == shipped.semantic


def test_an_unknown_key_of_a_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[semantic]\nhiden_size = 3\n")
    with pytest.raises(ConfigError, match="hiden_size"):
        load_recipe(path)


@pytest.mark.parametrize("part", ["perceptual", "ablation"])
def test_detail_that_nobody_tells_is_refused_before_any_work(tmp_path: Path, part: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f"[{part}]\nmodel = {{ detail = 5 }}\n")
    with pytest.raises(ConfigError, match=f"{part}.model.detail"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("views = -1", "views is -1: give 0 or more"),
        ("prompt_frames = 0", "prompt_frames is 0: give more than 0"),
        ("[semantic]\nhidden_size = 33", "semantic: .*hidden_size 33 does not split into 4 heads"),
        ("[semantic]\nlayers = 0", "semantic: layers is 0"),
        ("[semantic]\nheads = 6\nkv_heads = 4", "4 key/value heads do not divide 6"),
        ("[semantic]\nrows = 0", "semantic: rows is 0"),
        ("[semantic]\nunit_noise = -0.1", "semantic.unit_noise is -0.1: give 0 or more"),
        ("[semantic.loop]\nsteps = 0", "semantic.loop: steps is 0"),
        ("[semantic.loop]\nlearning_rate = nan", "semantic.loop.learning_rate is nan"),
        ("[semantic.loop]\nema = 1.5", "semantic.loop: ema is 1.5: give 0 to 1"),
        ("[perceptual]\nmodel = { dim = 33 }", "perceptual.model: dim 33 does not split into 6 heads of even size"),
        ("[perceptual]\nmodel = { latent_dim = 32 }", "perceptual.model.latent_dim is 32: the tokenizer's is 64"),
        ("[ablation]\nmodel = { latent_dim = 32 }", "ablation.model.latent_dim is 32"),
        ("[perceptual]\nbatch_frames = 0", "perceptual: batch_frames is 0"),
        ("[recognizer]\nmodel = { layers = 0 }", "recognizer.model: layers is 0"),
        ("[recognizer]\nbatch_seconds = 0", "recognizer: batch_seconds is 0"),
        ("[units]\nencoder = { dim = 30 }", "units.encoder: dim 30 does not split into 8 heads"),
        ("[units]\nencoder = { heads = 1 }", "units: encoder.reader_dim 256 does not split into 0 heads"),
        ("[units]\nbatch_seconds = 0", "units: batch_seconds is 0"),
        (
            "[acoustic]\ntokenizer = { decoder_dim = 30 }",
            "acoustic.tokenizer: decoder_dim 30 does not split into 4 heads",
        ),
        ("[acoustic]\ntokenizer = { codebook_size = 512 }", "codebook_size is 512: there are 1024 units"),
        ("[decoder]\ncrop_frames = 0", "decoder: crop_frames is 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=words) as error:
        load_recipe(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
