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
Config = Annotated[
    Path | None, typer.Option(help="TOML recipe; default: nano's, for a GPU, or with --start that for two CPU cores.")
]
Start = Annotated[
    str | None, typer.Option(help="Model (name or folder) of the recipe's shape to go on from; default: from scratch.")
]


@app.command()
@user_errors
def prepare(
    corpora: Annotated[
        list[Path],
        typer.Argument(
            metavar="CORPUS...",
            help="Corpora to take as one, each ours (manifest.tsv), LibriSpeech, MLS, VCTK, a TSV (audio, text, "
            "speaker), or a folder of recordings with NAME.txt beside each.",
        ),
    ],
    *,
    run: Run,
    synthesise: Annotated[
        bool, typer.Option("--synthesise", help="First make the (last) corpus in its folder by text-to-speech.")
    ] = False,
    texts: Annotated[
        Path | None, typer.Option(help="With --synthesise: folder of pairs.tsv, sentences.tsv, speakers.tsv.")
    ] = None,
    engines: Annotated[str, typer.Option(help="With --synthesise: of kokoro, pico, piper, flite.")] = "kokoro",
    mixtures: Annotated[
        int, typer.Option(min=0, help="With --synthesise: Kokoro speakers to draw besides those of the texts.")
    ] = 0,
    exercises: Annotated[
        int, typer.Option(min=0, help="With --synthesise: new sums, spellings and the like of each rule, as text.")
    ] = 0,
    reworded: Annotated[
        int, typer.Option(min=0, help="With --synthesise: instead of the pairs, so many training questions reworded.")
    ] = 0,
    most: Annotated[int | None, typer.Option(min=1, help="With --synthesise: recordings at most.")] = None,
    seed: Annotated[int, typer.Option(help="With --synthesise: who reads what, and how fast.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    max_seconds: Annotated[float, typer.Option(min=0.5, help="Longer recordings are left out.")] = 30.0,
    min_rate: Annotated[int, typer.Option(min=4000, help="Recordings sampled below that (Hz) are left out.")] = 16_000,
    check_text: Annotated[
        float | None,
        typer.Option(min=0, help="Leave out recordings that Whisper reads with more than this WER (%); slow."),
    ] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--rate",
            min=0.5,
            max=2,
            help="Keep what is no answer once more at one of these, as more speakers: 0.9, 1.1.",
        ),
    ] = None,
) -> None:
    """Decode corpora once into the run's folder; what cannot be used is counted and listed in problems.tsv."""
    from concurrent.futures import ProcessPoolExecutor
    from contextlib import nullcontext
    from functools import partial
    from multiprocessing import get_context

    from ...models.training.prepare import Limits, problems_of, summary
    from ...models.training.prepare import prepare as decode

    check = None
    if check_text is not None:
        from ...models.evaluation.judges import Judges, misread

        Judges().check()
        check = partial(misread, check_text)
    with ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 else nullcontext() as pool:
        if synthesise:
            from ...models.training.synthesis.build import Plan, build

            names = tuple(name.strip() for name in engines.split(","))
            plan = Plan(texts, names, mixtures, seed=seed, most=most, exercises=exercises, reworded=reworded)
            count, left_out = build(plan, corpora[-1], pool)
            typer.echo(f"{corpora[-1]}: {count} recordings made, {left_out} could not be")
        limits = Limits(max_seconds, min_rate=min_rate)
        made = decode(corpora, run / "corpus", limits=limits, check=check, rates=rates or (), pool=pool)
    hours = sum(u.samples for u in made.utterances) / 16_000 / 3600
    typer.echo(f"{len(made.utterances)} utterances, {hours:.2f} hours, {len(made.speakers)} speakers")
    if problems := problems_of(run / "corpus"):
        typer.echo(f"left out {len(problems)}: {summary(problems)}; see {run / 'corpus' / 'problems.tsv'}", err=True)


@app.command()
@user_errors
def tokenizer(*, run: Run, config: Config = None, start: Start = None) -> None:
    """Train the speech tokenizer: semantic units first, then the codec around them."""
    from ...models.training import parallel, recipe

    recipe.train_tokenizer(run, _recipe(config, start), _start(start))
    parallel.leave()


@app.command()
@user_errors
def decoder(*, run: Run, config: Config = None, start: Start = None) -> None:
    """Train the tokenizer's decoder alone, for better sound: codes stay, so no other part need know."""
    from ...models.training import parallel, recipe

    recipe.train_decoder(run, _recipe(config, start), _start(start))
    parallel.leave()


@app.command()
@user_errors
def semantic(*, run: Run, config: Config = None, start: Start = None) -> None:
    """Train the semantic model: it listens, answers and speaks in units."""
    from ...models.training import parallel, recipe

    recipe.train_semantic(run, _recipe(config, start), _start(start))
    parallel.leave()


@app.command()
@user_errors
def recognizer(*, run: Run, config: Config = None, start: Start = None) -> None:
    """Train what reads a turn's letters, and count words: for a model that restates what it hears."""
    from ...models.training import parallel, recipe

    recipe.train_recognizer(run, _recipe(config, start), _start(start))
    parallel.leave()


@app.command()
@user_errors
def perceptual(*, run: Run, config: Config = None, start: Start = None) -> None:
    """Train the perceptual model: flow matching from units to sound in a voice."""
    from ...models.training import parallel, recipe

    recipe.train_perceptual(run, _recipe(config, start), _start(start))
    parallel.leave()


@app.command()
@user_errors
def export(
    folder: Annotated[Path, typer.Argument(help="Model folder to write.")],
    *,
    run: Run,
    config: Config = None,
    start: Start = None,
) -> None:
    """Write the trained parts and voices as a folder for `--model`; with --start, parts that were not trained too."""
    from ...models.training.export import export as write

    _say(folder, write(run, _recipe(config, start), folder, _start(start)))


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


@app.command()
@user_errors
def ablate(*, run: Run, config: Config = None) -> None:
    """Train small perceptual models alike but for chain and prior, and judge each; needs a trained tokenizer."""
    from ...models.evaluation import ablation as judging
    from ...models.evaluation.judges import Judges
    from ...models.training import ablation

    judges = Judges()
    judges.check()
    path = ablation.run_all(run, _recipe(config), lambda corpus: judging.judge_of(judges, corpus))
    typer.echo(f"{path}: `speechgpt-gen train ablation {path.parent} -o PAGE.md` shows it")


@app.command("ablation")
@user_errors
def show_ablation(
    slices: Annotated[list[Path], typer.Argument(help="RUN/ablation of `train ablate`, or OUT folders of slices.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Markdown file to write; its plot stands beside it.")],
) -> None:
    """Write tables and a plot of what the ablation measured."""
    from ...models.evaluation import ablation

    lines = ablation.read_lines(slices)
    picture = out.with_suffix(".svg")
    picture.write_text(ablation.plot(lines))
    out.write_text(ablation.page(lines, picture.name))
    typer.echo(f"{out}: {len(lines)} measurements of {len({line['variant'] for line in lines})} variants")


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


def _start(name: str | None) -> Bundle | None:
    from ...models.bundle import load_bundle

    return None if name is None else load_bundle(name)


def _recipe(path: Path | None, start: str | None = None) -> Recipe:
    from ...models.training.recipe import load_recipe

    name = "nano.toml" if start is None else "nano_cpu.toml"
    return load_recipe(path or Path(__file__).parents[2] / "models" / "training" / name)


def register(root: typer.Typer) -> None:
    """Add the commands to the command line."""
    root.add_typer(app, name="train")
