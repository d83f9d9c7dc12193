"""`jitgrad predict`: what a trained model says of new rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jitgrad import terminal
from jitgrad.cli.options import DecimalOption, DelimiterOption, DeviceOption, JsonOption, ModelArgument, TableArgument

if TYPE_CHECKING:
    from jitgrad.predictor import Predictions


def predict(
    model: ModelArgument,
    table: TableArgument,
    out: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Write the CSV there, compressed if it ends in .gz. Default: "
                                                          "print it.")
    ] = None,
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Predict for each row of a CSV, Parquet or Arrow file with a model that `jitgrad train` or `sweep` wrote.

    The file needs the columns that the model was trained with; others are carried along. The result is the same table,
    as CSV, with a column `predicted …` more, and a probability for each class where the loss was a
    cross-entropy. If the target is there as well, its accuracy or root mean squared error is reported. A category that the
    training never met counts as none of those it knows, and is reported.

    Examples:

    - `jitgrad train houses.csv --target price --out houses`

    - `jitgrad predict houses new.csv --out priced.csv`
    """
    with terminal.reporting(as_json):
        from jitgrad import predictor, tables

        if out is not None and tables.is_arrow(out):
            raise typer.BadParameter(f"--out is written as CSV, which {out!r} is no name of; call it .csv, say.")
        found = predictor.load(model).on(device).predict_table(table, delimiter, decimal)
        if out is not None:
            with tables.open_text(out, "w") as file:
                file.write(found.csv())
        if as_json:
            terminal.print_json({
                "ok": True, "target": found.target, "predictions": found.values.tolist(), "classes": list(found.classes),
                "probabilities": None if found.probabilities is None else found.probabilities.tolist(),
                "unknown": {column: [{found.table.source.unit: place, "text": text} for place, text in cells]
                            for column, cells in found.unknown.items()},
                "metrics": found.metrics, "files": [] if out is None else [out]})
            return
        if out is None:
            terminal.print_table(found.csv())
        else:
            typer.echo(f"wrote {out}: {len(found.values):,} predictions of {found.target}")
        _say(found)


def _say(found: Predictions) -> None:
    """Beside the table, on stderr: what was measured, and what the model did not know."""
    for name, value in found.metrics.items():
        typer.echo(f"{name}: {terminal.metric(name, value)}", err=True)
    for column, cells in found.unknown.items():
        place, text = cells[0]
        typer.echo(f"column {column!r}: no category that the training had in rows: {len(cells):,}, such as {text!r} in "
                   f"{found.table.source.unit} {place}; it counts as none", err=True)
