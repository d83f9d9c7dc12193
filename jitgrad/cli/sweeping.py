"""`jitgrad sweep`: a model for each combination of settings, and the best of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

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
    LearningRateOption,
    Loss,
    LossOption,
    PatienceOption,
    Schedule,
    ScheduleOption,
    SeedOption,
    TargetOption,
)
from jitgrad.cli.training import dataset_of, recipe_of

if TYPE_CHECKING:
    from jitgrad.grids import Swept

_SHOWN = 10


def sweep(
    data: DataArgument,
    grid: Annotated[
        list[str], typer.Option(metavar="NAME=VALUES", help="A setting and its values, such as lr=0.01,0.003 or seed=0..31. "
                                                            "May be given again for others.")
    ],
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
    validation: Annotated[
        float, typer.Option(min=0.01, max=0.9, metavar="FRACTION",
                            help="So much of the training examples chooses the best model; none is trained on it.")
    ] = 0.2,
    patience: PatienceOption = None,
    seed: SeedOption = 0,
    dtype: DtypeOption = Dtype.FLOAT32,
    device: DeviceOption = "auto",
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write the best model as `train` does (model.safetensors, result.json, pictures), "
                                         "and all in sweep.json. Default: write nothing."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network for each combination of settings, side by side on all cores, and keep the best.

    The best has the lowest loss on the validation examples, the same for all models; its accuracy is then measured on the
    held-out fifth, which chose nothing. Models of one shape share a compiled program.

    The settings of --grid: `lr`, `seed`, `hidden` (8,16x16,none: a layer of 8, two of 16, a linear model), `activation`,
    `batch`, `epochs`, `schedule`, `l1` and `l2`. Commas separate values, and 0..31 counts. The other options say what the
    grid leaves open.

    Examples:

    - `jitgrad sweep moons --grid lr=0.01,0.003 --grid seed=0..31`

    - `jitgrad sweep houses.csv --target price --grid hidden=8,16,32x16 --grid lr=0.03,0.01 --patience 20 --out best`, then
      `jitgrad predict best new.csv`
    """
    with terminal.reporting(as_json):
        from jitgrad import grids

        recipe = recipe_of(
            data, loss, hidden, activation=activation, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
            schedule=schedule, validation=validation, patience=patience, seed=seed, dtype=dtype, device=device)
        settings = grids.read(grid)
        dataset = dataset_of(data, target, features, ignore, categories, delimiter, decimal, recipe)
        if out is not None:
            terminal.make_folder(out)
        if not as_json:
            terminal.print_columns(dataset)
        swept = grids.run(dataset, recipe, settings, progress=False if as_json else None)
        files = []
        if out is not None:
            files = swept.best.write(out, pictures=terminal.can_draw())
            files.append(os.path.join(out, "sweep.json"))
            Path(files[-1]).write_text(json.dumps(swept.as_json(), indent=2) + "\n", encoding="utf-8")
        if as_json:
            terminal.print_json({"ok": True, **swept.as_json(), "files": files})
        else:
            _print(swept, files)


def _print(swept: Swept, files: list[str]) -> None:
    out = terminal.console()
    count = len(swept.models)
    diverged = f", of which {swept.diverged} diverged" if swept.diverged else ""
    out.print(f"[bold]{count:,} models{diverged}[/bold], chosen by {swept.validated} validation examples; "
              f"the best {min(_SHOWN, count - swept.diverged)}:")
    best = swept.models[0]
    assert best.result is not None
    table = Table("rank", *map(_setting, best.settings), "validation loss", *best.result.history[0].metrics, "epoch",
                  box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for rank, model in enumerate(swept.models[:_SHOWN], 1):
        if model.result is not None:
            last = model.result.history[model.result.epoch - 1]
            table.add_row(str(rank), *map(_value, model.settings.values()), f"{model.loss:.5f}",
                          *(f"{value:.4f}" for value in last.metrics.values()), str(model.result.epoch))
    out.print(table)
    out.print("\nThe best, on examples that chose nothing:")
    terminal.print_training(swept.best, files)


def _setting(field: str) -> str:
    return field.replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
