"""The command line: `jitgrad train`, `demo`, `check`, `show`, `devices`, `bench` and `cache`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from jitgrad import terminal
from jitgrad.errors import ArgumentError, explain

if TYPE_CHECKING:
    from jitgrad.data import Dataset
    from jitgrad.recipes import Recipe

app = typer.Typer(
    name="jitgrad",
    help="Train small models with fused kernels, and check gradients, from the shell.\n\n"
    "Exit status: 0 success, 1 a failed check or unusable input, 2 a wrong command line, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


class Loss(StrEnum):
    """The losses that `train` offers."""

    AUTO = "auto"
    HINGE = "hinge"
    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    CROSS_ENTROPY = "cross_entropy"
    MSE = "mse"
    HUBER = "huber"


class Activation(StrEnum):
    """What follows a hidden layer."""

    TANH = "tanh"
    RELU = "relu"


class Schedule(StrEnum):
    """How the learning rate changes."""

    CONSTANT = "constant"
    COSINE = "cosine"
    STEP = "step"


class Dtype(StrEnum):
    """Of parameters and inputs."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


DeviceOption = Annotated[
    str, typer.Option(envvar="JITGRAD_DEVICE", help="auto, cpu, cuda, interpret or jax; see `jitgrad devices`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Decides initial parameters, minibatches and validation, not what is held out.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        import jitgrad

        typer.echo(f"jitgrad {jitgrad.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Only the options that stand before a command."""


@app.command()
def train(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="moons, digits, or a CSV file with a header line.")],
    column: Annotated[
        str | None, typer.Option("--target", metavar="COLUMN", help="The CSV column to predict; needed for a CSV file.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="The CSV columns to predict from; all others by default.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="What separates the cells of the CSV file.")] = ",",
    loss: Annotated[
        Loss, typer.Option(help="auto: hinge for moons, binary_cross_entropy for two classes, "
                                "cross_entropy for more, mse for a number.")
    ] = Loss.AUTO,
    hidden: Annotated[
        str | None,
        typer.Option(metavar="N,M,...", help="Widths of the hidden layers, '' for a linear model. "
                                             "Default: 16,16 for moons, 32 for digits, 32,16 for CSV."),
    ] = None,
    activation: Annotated[
        Activation | None, typer.Option(help="After a hidden layer. Default: relu for moons, else tanh.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. Default: 100 for moons, 60 for digits, 50 for CSV.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples per step. Default: 50 for moons, else 64.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Adam's.")] = 1e-2,
    schedule: Annotated[
        Schedule, typer.Option(help="Of the learning rate. cosine: falls to 0 over all epochs, after a warm-up over their "
                                    "first twentieth; step: a tenth after every third of the epochs.")
    ] = Schedule.CONSTANT,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, metavar="FRACTION",
                            help="Measure so much of the training examples after each epoch instead of training on it.")
    ] = 0.0,
    patience: Annotated[
        int | None, typer.Option(min=1, help="End after so many epochs in a row without a lower validation loss (without "
                                             "--validation: loss), and keep the best.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the training to this safetensors file after each epoch.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from --checkpoint, if there is such a file, as if never stopped.")
    ] = False,
    seed: SeedOption = 0,
    dtype: Annotated[Dtype, typer.Option(help="Of parameters and inputs.")] = Dtype.FLOAT32,
    device: DeviceOption = "auto",
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write loss.png, boundary.png (two features, two classes), params.npz and "
                                         "result.json there. Default: write nothing."),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE.html", help="Write a report that is one file: data, settings, loss, results, weights "
                                               "and gradients, and the program."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a multilayer perceptron and measure it on a held-out fifth of the examples.

    In a CSV file every feature must be a number. The target is a class if it holds text or at most 20 distinct
    integers, and a number otherwise; --loss mse or huber makes it a number, the other losses a class. Features, and a
    target that is a number, are standardised.

    Examples:

    - `jitgrad train moons --out moons`

    - `jitgrad train houses.csv --target price --hidden 64,32 --epochs 200`
    """
    with terminal.reporting(as_json):
        from jitgrad import recipes

        base = {"moons": recipes.MOONS, "digits": recipes.DIGITS}.get(target, recipes.Recipe())
        recipe = replace(
            base,
            loss=base.loss if loss is Loss.AUTO else loss.value,
            hidden=base.hidden if hidden is None else _widths(hidden),
            activation=base.activation if activation is None else activation.value,
            epochs=base.epochs if epochs is None else epochs,
            batch_size=base.batch_size if batch_size is None else batch_size,
            learning_rate=learning_rate,
            schedule=schedule.value,
            validation=validation,
            patience=patience,
            seed=seed,
            dtype=dtype.value,
            device=device,
        )
        if resume and checkpoint is None:
            raise typer.BadParameter("--resume needs --checkpoint FILE, what to go on from.")
        dataset = _dataset(target, column, features, delimiter, recipe)
        if out is not None:
            # Before the training, so that an unusable folder costs no time.
            os.makedirs(out, exist_ok=True)
        if report is not None:
            from jitgrad import report as reports

            reports.check_name(report)
        training = recipes.run(dataset, recipe, progress=False if as_json else None, checkpoint=checkpoint, resume=resume)
        files = training.write(out) if out is not None else []
        if report is not None:
            files.append(reports.write(training, report))
        if as_json:
            terminal.print_json({"ok": True, **training.as_json(), "files": files})
        else:
            terminal.print_training(training, files)
        terminal.end_if_interrupted(training)


@app.command()
def demo(
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the pictures go.")] = "jitgrad-demo",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train on two moons and on handwritten digits, and draw the losses and the decision boundary.

    A 2-16-16-1 network with hinge loss, and a 64-32-10 network with cross-entropy on scikit-learn's 1,797 digits, of
    which a fixed fifth is held out. Takes less than a minute on two cores.
    """
    with terminal.reporting(False):
        from jitgrad import data, recipes

        os.makedirs(out, exist_ok=True)
        for load, recipe in ((data.load_moons, recipes.MOONS), (data.load_digits, recipes.DIGITS)):
            dataset = load()
            training = recipes.run(dataset, replace(recipe, seed=seed, device=device))
            terminal.print_training(training, training.write(out, prefix=f"{dataset.name}-"))
            terminal.end_if_interrupted(training)


@app.command()
def check(
    target: Annotated[str, typer.Argument(metavar="FILE:FUNCTION", help="An objective for one example, and its file.")],
    argnums: Annotated[
        str | None, typer.Option(metavar="I,J,...", help="The arguments to differentiate. Default: see above.")
    ] = None,
    reduce: Annotated[str, typer.Option(help="How examples combine: mean or sum.")] = "mean",
    seed: Annotated[int, typer.Option(min=0, help="Of the random arguments.")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare a function's value and gradients with JAX in float64 and with central differences.

    The file is imported. The arguments come from the first of these that there is:

    1. `FUNCTION_args` in the file: a tuple such as `objective_args = (params, X, Y)`, or a function that returns one

    2. `example_args` in the file: the same, for all its functions

    3. the signature: eight random examples of one scalar a parameter

    In 1 and 2 the first argument is differentiated and shared by the examples, the others are batched along axis 0.
    In 3 every argument is batched and differentiated.

    Exit status 1, with the worst element named, if anything disagrees.
    """
    with terminal.reporting(as_json):
        from jitgrad import discover
        from jitgrad.testing import check_grads

        subject = discover.find(target, None if argnums is None else _numbers(argnums, "--argnums", 0), seed)
        report = check_grads(
            subject.function,
            subject.args,
            argnums=subject.argnums,
            in_axes=subject.in_axes,
            reduce=reduce,
            device=device,
            seed=seed,
        )
        if as_json:
            terminal.print_json({"ok": True, "target": target, "arguments": subject.origin, "report": str(report)})
        else:
            typer.echo(f"{target} agrees with its referees (arguments: {subject.origin}).\n{report}")


@app.command()
def show(
    target: Annotated[str, typer.Argument(metavar="FILE:FUNCTION", help="A loss for one example, and its file.")],
    form: Annotated[
        str | None, typer.Option(help="Print this form alone, whole: graph, tape, llvm, asm, ptx, sass or jaxpr. ptx and "
                                      "sass are for cuda, and need no GPU.")
    ] = None,
    argnums: Annotated[
        str | None, typer.Option(metavar="I,J,...", help="The arguments to differentiate, as in `jitgrad check`.")
    ] = None,
    reduce: Annotated[str, typer.Option(help="How examples combine: mean, sum, or none for a gradient each.")] = "mean",
    limits: Annotated[
        str | None, typer.Option(metavar="BYTES,FLOPS", help="What the machine can do a second, such as 4.8e12,67e12. "
                                                             "Default: measured, unless for cuda.")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Measure the machine and time the program.")] = True,
    picture: Annotated[
        str | None, typer.Option("--draw", metavar="FILE", help="Also draw the tape: .svg, .html or .dot.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show what a function becomes: graph, tape, generated code, cost, and its place under the machine's roofline.

    The function and its example arguments are found as by `jitgrad check`.

    Examples:

    - `jitgrad show model.py:objective`

    - `jitgrad show model.py:objective --form ptx > objective.ptx`
    """
    with terminal.reporting(as_json):
        from jitgrad import discover
        from jitgrad import show as shown

        if form is not None and form not in shown.FORMS:
            raise typer.BadParameter(f"--form is one of {', '.join(shown.FORMS)}; not {form!r}.")
        subject = discover.find(target, None if argnums is None else _numbers(argnums, "--argnums", 0))
        lowered = shown.lower(subject, device, form, None if reduce == "none" else reduce)
        code = None if form is None else lowered.as_text(form)
        if picture is not None:
            from jitgrad.drawing import draw

            draw(lowered, "tape").save(picture)
        if code is not None and not as_json:
            typer.echo(code)
            return
        overview = shown.Overview(target, subject.origin, lowered, shown.position(lowered, limits, measure))
        if as_json:
            code_of = {} if form is None else {form: code}
            terminal.print_json({"ok": True, **overview.as_json(), **code_of})
        else:
            overview.print(terminal.console())


@app.command()
def devices(as_json: JsonOption = False) -> None:
    """List the backends, why each can or cannot be used here, and the rule by which `auto` chooses."""
    with terminal.reporting(as_json):
        from jitgrad import backends

        found = backends.devices()
        if as_json:
            rows = [{"name": d.name, "available": d.available, "detail": d.detail} for d in found]
            terminal.print_json({"ok": True, "devices": rows, "auto": _auto_rule(backends.GPU_WORK)})
            return
        table = Table("device", "usable", "detail", box=None, pad_edge=False)
        for device in found:
            table.add_row(device.name, "yes" if device.available else "no", device.detail)
        console = terminal.console()
        console.print(table, markup=False)
        console.print(f"\nauto: {_auto_rule(backends.GPU_WORK)}", markup=False, highlight=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Time jitgrad beside JAX, PyTorch, Dr.Jit and micrograd: `jitgrad bench 'mlp-*' --json`; `--list`, `--quick`, `--help`.

    The cases are in `benchmarks/` of a checkout, which an installed jitgrad does not carry. They are found beside the
    library, or in the folder the command is given in, and then measure the jitgrad that is installed.
    """
    with terminal.reporting(False):
        status = _benchmarks()(context.args)
    raise typer.Exit(status)


def _benchmarks() -> Callable[[list[str]], int]:
    """The command of the benchmarks of a checkout."""
    for folder in (Path(__file__).resolve().parent.parent, Path.cwd()):
        if (folder / "benchmarks" / "command.py").is_file() and (folder / "jitgrad" / "cli.py").is_file():
            # The jitgrad that runs is imported already, and is the one that is measured.
            sys.path.insert(0, str(folder))
            command: Callable[[list[str]], int] = importlib.import_module("benchmarks.command").main
            return command
    raise ArgumentError(explain(
        "the benchmarks are not installed with jitgrad.", None,
        "Get a checkout of jitgrad's source (git clone, or unpack the source archive), and give the command in its folder; "
        "they measure the jitgrad that is installed."))


_cache = typer.Typer(help="The machine code kept on disk between processes.", no_args_is_help=True)
app.add_typer(_cache, name="cache")


@_cache.command()
def info(as_json: JsonOption = False) -> None:
    """Where it is, how many programs it holds, and how large it may grow."""
    with terminal.reporting(as_json):
        from jitgrad.compiler import cache

        files = cache.files()
        size = cache.size(files)
        if as_json:
            terminal.print_json({"ok": True, "folder": str(cache.folder()), "files": len(files), "bytes": size,
                         "limit_bytes": cache.LIMIT_BYTES})
            return
        typer.echo(f"{cache.folder()}: {len(files)} files, {size / 2**20:.1f} of at most "
                   f"{cache.LIMIT_BYTES / 2**20:.0f} MiB (JITGRAD_CACHE_DIR puts it elsewhere)")


@_cache.command()
def clear(as_json: JsonOption = False) -> None:
    """Remove it; programs are compiled anew when they are next run."""
    with terminal.reporting(as_json):
        from jitgrad.compiler import cache

        gone = cache.clear()
        if as_json:
            terminal.print_json({"ok": True, "removed": gone})
            return
        typer.echo(f"removed {gone} files from {cache.folder()}")


def _dataset(target: str, column: str | None, features: str | None, delimiter: str, recipe: Recipe) -> Dataset:
    from jitgrad import data, recipes

    if target in ("moons", "digits"):
        if column is not None or features is not None:
            raise typer.BadParameter(f"--target and --features are for CSV files; {target} has its own columns.")
        return data.load_moons() if target == "moons" else data.load_digits()
    if not target.lower().endswith((".csv", ".tsv", ".txt")) and not os.path.exists(target):
        raise typer.BadParameter(f"TARGET must be moons, digits or a CSV file, not {target!r}.")
    if column is None:
        raise typer.BadParameter("A CSV file needs --target COLUMN, the column to predict.")
    if recipe.loss == "auto":
        task = "auto"
    else:
        task = "regression" if recipe.loss in recipes.NUMBER_LOSSES else "classification"
    wanted = None if features is None else [name.strip() for name in features.split(",")]
    return data.load_csv(target, column, task=task, features=wanted, delimiter=delimiter)


def _auto_rule(gpu_work: int) -> str:
    return (
        "JITGRAD_DEVICE if it is set; else cuda if it is usable and one call does at least "
        f"{gpu_work:,} scalar operations (examples times operations an example); else cpu"
    )


def _widths(text: str) -> tuple[int, ...]:
    return _numbers(text, "--hidden", 1) if text.strip() else ()


def _numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (least - 1,)
    if min(numbers) < least:
        raise typer.BadParameter(f"{option} takes whole numbers of at least {least} with commas between, not {text!r}.")
    return numbers


def main() -> None:
    """The `jitgrad` command."""
    app()
