"""`speechgpt-gen train`: from a corpus to a model folder, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import user_errors

if TYPE_CHECKING:
    from ...models.bundle import Bundle
    from ...models.training.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Train the three parts and put them together.")

Run = Annotated[Path, typer.Option(help="Folder of this training run; every stage resumes from what it finds there.")]
Config = Annotated[Path | None, typer.Option(help="TOML recipe; default: the recipe of nano.")]


@app.command()
@user_errors
def prepare(corpus: Annotated[Path, typer.Argument(help="Folder with manifest.tsv and shards.")], *, run: Run) -> None:
    """Decode a corpus once into the run's folder."""
    from ...models.training.corpus import prepare as decode

    made = decode(corpus, run / "corpus")
    hours = sum(u.samples for u in made.utterances) / 16_000 / 3600
    typer.echo(f"{len(made.utterances)} utterances, {hours:.2f} hours, {len(made.speakers)} speakers")


@app.command()
@user_errors
def tokenizer(*, run: Run, config: Config = None) -> None:
    """Train the speech tokenizer: semantic units first, then the codec around them."""
    from ...models.training import recipe

    recipe.train_tokenizer(run, _recipe(config))


@app.command()
@user_errors
def semantic(*, run: Run, config: Config = None) -> None:
    """Train the semantic model: it listens, answers and speaks in units."""
    from ...models.training import recipe

    recipe.train_semantic(run, _recipe(config))


@app.command()
@user_errors
def perceptual(*, run: Run, config: Config = None) -> None:
    """Train the perceptual model: flow matching from units to sound in a voice."""
    from ...models.training import recipe

    recipe.train_perceptual(run, _recipe(config))


@app.command()
@user_errors
def export(
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")], *, run: Run, config: Config = None
) -> None:
    """Write the trained parts and voices as a folder for `--model`."""
    from ...models.training import recipe

    _say(folder, recipe.export(run, _recipe(config), folder))


@app.command()
@user_errors
def assemble(
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")],
    slices: Annotated[list[Path], typer.Argument(help="Folders that gpu_slice.sh wrote, of all stages.")],
    config: Config = None,
) -> None:
    """Put together what slices on another machine left, as a folder for `--model`."""
    from ...models.training.slices.assemble import assemble_slices

    _say(folder, assemble_slices(slices, _recipe(config), folder))


@app.command("export-hf")
@user_errors
def export_hugging_face(
    model: Annotated[str, typer.Argument(help="A model by name or folder.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Write a model's semantic part as a Hugging Face LlamaForCausalLM folder."""
    from ...models.bundle import load_bundle
    from ...models.semantic.hugging_face import save_hugging_face

    bundle = load_bundle(model)
    save_hugging_face(bundle.semantic, bundle.vocabulary, folder)
    typer.echo(
        f"{folder}: {bundle.vocabulary.size} tokens, {bundle.info.parameters['semantic'] / 1e6:.1f} M parameters"
    )


def _say(folder: Path, bundle: Bundle) -> None:
    millions = {name: f"{count / 1e6:.1f} M" for name, count in bundle.info.parameters.items()}
    typer.echo(f"{folder}: " + ", ".join(f"{name} {size}" for name, size in millions.items()))


def _recipe(path: Path | None) -> Recipe:
    from ...models.training.recipe import load_recipe

    return load_recipe(path or Path(__file__).parents[2] / "models" / "training" / "nano.toml")


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.add_typer(app, name="train")
