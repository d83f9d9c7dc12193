"""`jitgrad check` and `show`: a function of one example, judged and laid open."""

from __future__ import annotations

from typing import Annotated

import typer

from jitgrad import terminal
from jitgrad.cli.options import DeviceOption, FunctionArgument, JsonOption, numbers


def check(
    target: FunctionArgument,
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

    Examples:

    - `jitgrad check model.py:objective`

    - `jitgrad check formulas.py:price --argnums 0,1 --device cuda`
    """
    with terminal.reporting(as_json):
        from jitgrad import discover
        from jitgrad.testing import check_grads

        subject = discover.find(target, None if argnums is None else numbers(argnums, "--argnums", 0), seed)
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


def show(
    target: FunctionArgument,
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
        subject = discover.find(target, None if argnums is None else numbers(argnums, "--argnums", 0))
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
