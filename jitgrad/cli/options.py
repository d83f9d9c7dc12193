"""What several commands share: options, how their text is read, and what a shell completes."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jitgrad.layers import ACTIVATIONS
from jitgrad.tables import ENDINGS


class Loss(StrEnum):
    """The losses that `train` offers."""

    AUTO = "auto"
    HINGE = "hinge"
    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    CROSS_ENTROPY = "cross_entropy"
    MSE = "mse"
    HUBER = "huber"


Activation = StrEnum("Activation", {name.upper(): name for name in sorted(ACTIVATIONS)})  # type: ignore[misc]


class Schedule(StrEnum):
    """How the learning rate changes."""

    CONSTANT = "constant"
    COSINE = "cosine"
    STEP = "step"


class Dtype(StrEnum):
    """Of parameters and inputs."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


def _complete_data(incomplete: str) -> list[str]:
    """The built-in data sets, tables and folders."""
    return [name for name in ("moons", "digits") if name.startswith(incomplete)] + _complete_table(incomplete)


def _complete_model(incomplete: str) -> list[str]:
    return _files(incomplete, ".safetensors")


def _complete_table(incomplete: str) -> list[str]:
    return _files(incomplete, *ENDINGS)


def _complete_function(incomplete: str) -> list[str]:
    """Python files, up to the colon after them."""
    return [name if name.endswith(os.sep) else f"{name}:" for name in _files(incomplete, ".py")]


def _files(incomplete: str, *endings: str) -> list[str]:
    """Files of these endings, and folders, that begin so."""
    folder, start = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    return [os.path.join(folder, entry.name) + os.sep * entry.is_dir() for entry in entries
            if entry.name.startswith(start) and (start or not entry.name.startswith("."))
            and (entry.is_dir() or entry.name.lower().endswith(endings))]


def _complete_device(incomplete: str) -> list[str]:
    return [name for name in ("auto", "cpu", "cuda", "interpret", "jax") if name.startswith(incomplete)]


DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="moons, digits, or a table: a CSV file with a header line, .csv.gz, .parquet, "
                                               ".arrow, .feather.",
                        autocompletion=_complete_data)
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="What `train` or `sweep` wrote: the folder of --out, its model.safetensors, "
                                              "or a checkpoint.", autocompletion=_complete_model)
]
TableArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="The rows to predict for: a table as `train` takes.",
                        autocompletion=_complete_table)
]
FunctionArgument = Annotated[
    str, typer.Argument(metavar="FILE:FUNCTION", help="A loss for one example, and its file.",
                        autocompletion=_complete_function)
]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="COLUMN", help="The column to predict; needed for a table.")
]
FeaturesOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="The columns to predict from; all others by default.")
]
IgnoreOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Columns not to use, such as a row's number.")
]
CategoriesOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Columns whose numbers are names, such as postcodes.")
]
DelimiterOption = Annotated[
    str | None, typer.Option(help="What separates the cells of the CSV file. Default: found in the header.")
]
DecimalOption = Annotated[
    str | None, typer.Option(help="The decimal mark of the CSV file, . or ,. Default: found in the cells.")
]
LossOption = Annotated[
    Loss, typer.Option(help="auto: hinge for moons, binary_cross_entropy for two classes, "
                            "cross_entropy for more, mse for a number.")
]
HiddenOption = Annotated[
    str | None,
    typer.Option(metavar="N,M,...", help="Widths of the hidden layers, '' for a linear model. "
                                         "Default: 16,16 for moons, 32 for digits, 32,16 for a table."),
]
ActivationOption = Annotated[
    Activation | None, typer.Option(help="After a hidden layer. Default: relu for moons, else tanh.")
]
EpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Passes over the data. Default: 100 for moons, 60 for digits, 50 for a table.")
]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Examples per step. Default: 50 for moons, else 64.")]
LearningRateOption = Annotated[float, typer.Option(help="Adam's.")]
L1Option = Annotated[float, typer.Option(help="Penalty: so much times the sum of |parameter|.")]
L2Option = Annotated[float, typer.Option(help="Penalty: so much times the sum of squared parameters.")]
ScheduleOption = Annotated[
    Schedule, typer.Option(help="Of the learning rate. cosine: falls to 0 over all epochs, after a warm-up over their "
                                "first twentieth; step: a tenth after every third of the epochs.")
]
PatienceOption = Annotated[
    int | None, typer.Option(min=1, help="End after so many epochs in a row without a lower validation loss (without "
                                         "--validation: loss), and keep the best.")
]
DtypeOption = Annotated[Dtype, typer.Option(help="Of parameters and inputs.")]
DeviceOption = Annotated[
    str, typer.Option(envvar="JITGRAD_DEVICE", help="auto, cpu, cuda, interpret or jax; see `jitgrad devices`.",
                      autocompletion=_complete_device)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Decides initial parameters, minibatches and validation, not what is held out.")
]


def names(text: str | None) -> list[str] | None:
    """Column names with commas between."""
    return None if text is None else [name.strip() for name in text.split(",")]


def widths(text: str) -> tuple[int, ...]:
    """The hidden layers of --hidden."""
    return numbers(text, "--hidden", 1) if text.strip() else ()


def numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    """Whole numbers with commas between; BadParameter for anything else."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (least - 1,)
    if min(found) < least:
        raise typer.BadParameter(f"{option} takes whole numbers of at least {least} with commas between, not {text!r}.")
    return found


def is_table(data: str) -> bool:
    """Whether DATA is meant as a file."""
    return data.lower().endswith(ENDINGS) or Path(data).exists()
