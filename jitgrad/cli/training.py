"""`jitgrad train` and `demo`: a recipe trained on a data set."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jitgrad import terminal
from jitgrad.cli.options import (
    ActivationOption,
    BatchSizeOption,
    CategoriesOption,
    DataArgument,
    DecimalOption,
    DelimiterOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    EpochsOption,
    FeaturesOption,
    HiddenOption,
    IgnoreOption,
    JsonOption,
    L1Option,
    L2Option,
    LearningRateOption,
    Loss,
    LossOption,
    PatienceOption,
    Schedule,
    ScheduleOption,
    SeedOption,
    TargetOption,
    is_table,
    names,
    widths,
)
from jitgrad.errors import require
from jitgrad.tables import ENDINGS, read_table

if TYPE_CHECKING:
    from jitgrad.data import Dataset
    from jitgrad.recipes import Recipe


def train(
    data: DataArgument,
    target: TargetOption = None,
    features: FeaturesOption = None,
    ignore: IgnoreOption = None,
    categories: CategoriesOption = None,
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    loss: LossOption = Loss.AUTO,
    hidden: HiddenOption = None,
    activation: ActivationOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = 1e-2,
    schedule: ScheduleOption = Schedule.CONSTANT,
    l1: L1Option = 0.0,
    l2: L2Option = 0.0,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.9, metavar="FRACTION",
                            help="Measure so much of the training examples after each epoch instead of training on it.")
    ] = 0.0,
    patience: PatienceOption = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the training to this safetensors file after each epoch.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from --checkpoint, if there is such a file, as if never stopped.")
    ] = False,
    seed: SeedOption = 0,
    dtype: DtypeOption = Dtype.FLOAT32,
    device: DeviceOption = "auto",
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write model.safetensors (for `jitgrad predict`), result.json, and with matplotlib "
                                         "loss.png and boundary.png (two features, two classes) there. Default: write "
                                         "nothing."),
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE.html", help="Write a report that is one file: data, settings, loss, results, weights "
                                               "and gradients, and the program."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a multilayer perceptron and measure it on a held-out fifth of the examples.

    DATA may be a table: CSV with a header line, or with pyarrow a Parquet or Arrow file. Its columns may hold numbers, dates
    (2024-12-31) or the names of categories; missing ones are filled in, and other text is left out. What each column was
    taken for is printed. The target is a class if it holds text or at most 20 distinct integers in two rows each on
    average, and a number otherwise; --loss mse or huber makes it a number, the other losses a class. Numbers and dates are
    standardised.

    Examples:

    - `jitgrad train moons --out moons`

    - `jitgrad train houses.csv --target price --out houses`, then `jitgrad predict houses new.csv`

    - `jitgrad train churn.csv --target churn --validation 0.2 --patience 20 --epochs 500 --report churn.html`
    """
    with terminal.reporting(as_json):
        from jitgrad import recipes

        recipe = recipe_of(
            data, loss, hidden, activation=activation, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
            schedule=schedule, l1=l1, l2=l2, validation=validation, patience=patience, seed=seed, dtype=dtype, device=device)
        if resume and checkpoint is None:
            raise typer.BadParameter("--resume needs --checkpoint FILE, what to go on from.")
        dataset = dataset_of(data, target, features, ignore, categories, delimiter, decimal, recipe)
        # Before the training, so that what cannot be written costs no time.
        if out is not None:
            terminal.make_folder(out)
        if report is not None:
            from jitgrad import report as reports

            require("matplotlib", "A report's pictures are drawn by matplotlib", "matplotlib")
            terminal.make_folder(os.path.dirname(reports.check_name(report)) or ".")
        if not as_json:
            terminal.print_columns(dataset)
        trained = recipes.run(dataset, recipe, progress=False if as_json else None, checkpoint=checkpoint, resume=resume)
        files = trained.write(out, pictures=terminal.can_draw()) if out is not None else []
        if report is not None:
            files.append(reports.write(trained, report))
        if as_json:
            terminal.print_json({"ok": True, **trained.as_json(), "files": files})
        else:
            terminal.print_training(trained, files)
        terminal.end_if_interrupted(trained)


def demo(
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the pictures go.")] = "jitgrad-demo",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train on two moons and on handwritten digits, and draw the losses and the decision boundary.

    A 2-16-16-1 network with hinge loss, and a 64-32-10 network with cross-entropy on scikit-learn's 1,797 digits, of
    which a fixed fifth is held out. Takes less than a minute on two cores. Needs scikit-learn and matplotlib.
    """
    with terminal.reporting(as_json):
        from jitgrad import data, recipes

        require("matplotlib", "The pictures are drawn by matplotlib", "'jitgrad[demo]'")
        require("sklearn", "The data come with scikit-learn", "'jitgrad[demo]'")
        terminal.make_folder(out)
        records = []
        for load, recipe in ((data.load_moons, recipes.MOONS), (data.load_digits, recipes.DIGITS)):
            dataset = load()
            trained = recipes.run(dataset, replace(recipe, seed=seed, device=device), progress=False if as_json else None)
            files = trained.write(out, prefix=f"{dataset.name}-")
            records.append({**trained.as_json(), "files": files})
            if not as_json:
                terminal.print_training(trained, files)
            if trained.result.ended == "interrupted":
                break
        if as_json:
            terminal.print_json({"ok": True, "trainings": records})
        terminal.end_if_interrupted(trained)


def recipe_of(data: str, loss: Loss, hidden: str | None, **settings: Any) -> Recipe:
    """The recipe of DATA with what the command line says; None and "auto" leave the recipe's own."""
    from jitgrad import recipes

    base = {"moons": recipes.MOONS, "digits": recipes.DIGITS}.get(data, recipes.Recipe())
    if loss is not Loss.AUTO:
        settings["loss"] = loss
    if hidden is not None:
        settings["hidden"] = widths(hidden)
    given: dict[str, Any] = {name: str(value) if isinstance(value, str) else value
                             for name, value in settings.items() if value is not None}
    return replace(base, **given)


def dataset_of(data: str, target: str | None, features: str | None, ignore: str | None, categories: str | None,
               delimiter: str | None, decimal: str | None, recipe: Recipe) -> Dataset:
    """DATA, loaded as its options say."""
    from jitgrad import data as sets
    from jitgrad import recipes

    if data in ("moons", "digits"):
        given = {"--target": target, "--features": features, "--ignore": ignore, "--categories": categories,
                 "--delimiter": delimiter, "--decimal": decimal}
        if any(value is not None for value in given.values()):
            raise typer.BadParameter(f"{', '.join(given)} are for tables; {data} has its own columns.")
        return sets.load_moons() if data == "moons" else sets.load_digits()
    if not is_table(data):
        raise typer.BadParameter(f"DATA must be moons, digits or a file ({', '.join(ENDINGS)}), not {data!r}.")
    if target is None:
        columns = read_table(data, delimiter, decimal).header
        raise typer.BadParameter(f"A table needs --target COLUMN, the column to predict: {', '.join(columns)}.")
    if recipe.loss == "auto":
        task = "auto"
    else:
        task = "regression" if recipe.loss in recipes.NUMBER_LOSSES else "classification"
    return sets.load_table(data, target, task=task, features=names(features), ignore=names(ignore) or (),
                           categories=names(categories) or (), delimiter=delimiter, decimal=decimal)
