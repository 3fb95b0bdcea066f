"""The command line: parse, call, print. Each command imports what it needs, so help is instant."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allegro_jax import __version__, compilation_cache
from allegro_jax.data import commands as data_commands
from md.commands import LoadedPotential, add_commands, add_dtype
from md.commands.options import add_processes, together

if TYPE_CHECKING:
    from allegro_jax.model_file import Model

DEBUG_VARIABLE = "ALLEGRO_JAX_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or what the command returns; 2, with one line on stderr, after a user's
        error.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    code = 0
    try:
        compilation_cache.enable()
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            code = command(options) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"allegro-jax: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("allegro-jax: interrupted", file=sys.stderr)
        return 130
    return code


def _show_warning(message: Warning | str, *_: object) -> None:
    """A warning is for the user, and one line; where in the code it arose is not."""
    print(f"allegro-jax: warning: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="allegro-jax",
        description="Allegro interatomic potentials: train, test, use.",
        epilog="Units: eV, Å, fs, K, GPa. The environment variable "
        f"{compilation_cache.VARIABLE} names the folder of compiled programs (empty: none); "
        f"{DEBUG_VARIABLE}=1 shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"allegro-jax {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for add in (
        *(
            _add_train,
            _add_tune,
            _add_report,
            _add_evaluate,
            data_commands.add_commands,
            _add_dynamics,
        ),
        *(_add_convert, _add_info, _add_benchmark),
    ):
        add(commands)
    return parser


class _CommandParser(argparse.ArgumentParser):
    """Takes options and positional arguments in any order."""

    _mixing = False

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        if self._mixing or self._subparsers is not None:  # argparse cannot mix subcommands
            return super().parse_known_args(args, namespace)
        self._mixing = True
        return super().parse_known_intermixed_args(args, namespace)


# -- train ----------------------------------------------------------------------------------------


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model from a YAML file",
        description="Train a model. Writes model.safetensors, metrics.csv, plots and checkpoints.",
    )
    parser.set_defaults(command=_train)
    _add_configuration(parser)
    parser.add_argument("--output", metavar="DIR", help="folder of the results")
    add_processes(parser)


def _train(options: argparse.Namespace) -> None:
    from allegro_jax.train import load_config, train

    config = load_config(options.config, options.overrides)
    if options.output:
        config = dataclasses.replace(config, output=Path(options.output))
    with together(options):
        train(config)


# -- tune -----------------------------------------------------------------------------------------


def _add_tune(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "tune",
        help="time and memory that a training run will take",
        description="Estimate time and memory of a training run for some batch sizes and blocks, "
        "from a few steps of each, and recommend one. Writes nothing.",
    )
    parser.set_defaults(command=_tune)
    _add_configuration(parser)
    parser.add_argument("--batch-sizes", metavar="N,N,...", help="default: 1,2,5,10 and its own")
    parser.add_argument(
        "--block-slots",
        metavar="N,N,...",
        help="slots evaluated at once, tried with the best batch size; default: a quarter of the "
        "configuration's and four times as many",
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="to measure each setting (default: 2)"
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the figures")


def _tune(options: argparse.Namespace) -> None:
    from allegro_jax.train import load_config
    from allegro_jax.train.tuning import tune

    tuning = tune(
        load_config(options.config, options.overrides),
        batch_sizes=_numbers("--batch-sizes", options.batch_sizes),
        block_slots=_numbers("--block-slots", options.block_slots),
        seconds=options.seconds,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(tuning)
    _write_json(options.json, dataclasses.asdict(tuning))


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{option}: expected whole numbers, for example 1,5,10; got {text!r}")
    return [int(part) for part in parts]


# -- report ---------------------------------------------------------------------------------------


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report",
        help="write the report of a finished training run again",
        description="Write report.html again from what a training run has left in its folder.",
    )
    parser.set_defaults(command=_report)
    parser.add_argument("folder", metavar="RUN_FOLDER", help="the output of a training run")


def _report(options: argparse.Namespace) -> None:
    from allegro_jax.train.report import write_report

    print(write_report(options.folder))


# -- evaluate -------------------------------------------------------------------------------------


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="errors of a model on labelled structures, and its predictions",
        description="Compare a model with labelled structures. Absent labels are left out.",
    )
    parser.set_defaults(command=_evaluate)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", nargs="+", metavar="DATA", help="files, folders and patterns")
    parser.add_argument("--output", metavar="PRED.extxyz", help="write the predictions")
    parser.add_argument("--json", metavar="OUT.json", help="write the errors")
    add_dtype(parser)
    data_commands.add_reading(parser)


def _evaluate(options: argparse.Namespace) -> None:
    from allegro_jax import evaluation

    model = _load_model(options.model, options.dtype)
    errors = evaluation.evaluate(
        model,
        options.data,
        dtype=options.dtype,
        conventions=data_commands.conventions(options),
        output=options.output,
    )
    _print_errors(errors)
    _write_json(options.json, errors)


def _print_errors(errors: dict[str, Any]) -> None:
    """Errors as a table in milli-units, a line for each quantity of each file."""
    parts = dict(errors["files"])
    if len(parts) > 1:
        parts["all files"] = errors
    for name, part in parts.items():
        print(f"{name}: {part['frames']} frames, {part['atoms']} atoms")
        for quantity, unit in (
            ("energy", "meV"),
            ("energy_per_atom", "meV/atom"),
            ("forces", "meV/Å"),
            ("stress", "meV/Å³"),
        ):
            lines = {quantity.replace("_", " "): part}
            if quantity == "forces" and len(part["by_species"]) > 1:
                lines |= {f"  on {symbol}": own for symbol, own in part["by_species"].items()}
            for label, found in lines.items():
                if f"{quantity}_rmse" in found:
                    rmse, mae = (1000 * found[f"{quantity}_{kind}"] for kind in ("rmse", "mae"))
                    print(f"  {label:16} RMSE {rmse:10.3f}   MAE {mae:10.3f} {unit}")
        for quantity, unit in (("energy_per_atom", "meV/atom"), ("forces", "meV/Å")):
            if found := part.get("uncertainty", {}).get(quantity):
                label = f"{quantity.replace('_', ' ')} uncertainty"
                print(
                    f"  {label:28} RMS {1000 * found['rms']:10.3f} {unit}, "
                    f"correlation with the errors {found.get('correlation', float('nan')):.2f}"
                )


# -- md, relax, join ------------------------------------------------------------------------------


def _add_dynamics(commands: argparse._SubParsersAction) -> None:
    add_commands(commands, _load_potential)


def _load_potential(path: str, dtype: str, collapse: bool) -> LoadedPotential:
    model = _load_model(path, dtype)
    potential = model.potential
    if collapse and (collapsed := model.collapsed(dtype)):
        print(f"allegro-jax: {path} collapses exactly: {collapsed}", file=sys.stderr)
        potential = collapsed.potential
    return LoadedPotential(potential, model.shortest_distance_table())


# -- convert --------------------------------------------------------------------------------------


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn a model of nequip-allegro into a model file",
        description="Convert a nequip checkpoint (.ckpt) or package (.nequip.zip), and verify the "
        'result against it. Needs torch: pip install "allegro-jax[nequip]".',
    )
    parser.set_defaults(command=_convert)
    parser.add_argument("source", metavar="SOURCE", help=".ckpt or .nequip.zip")
    parser.add_argument("destination", metavar="DESTINATION", help="the model file to write")
    parser.add_argument(
        "--species",
        nargs="+",
        metavar="TYPE=SYMBOL",
        help="chemical symbols of the model's types, where their names are none",
    )


def _convert(options: argparse.Namespace) -> None:
    from allegro_jax.convert import convert

    species = None
    if options.species:
        if not all("=" in pair for pair in options.species):
            raise ValueError("--species: write TYPE=SYMBOL, for example --species 0=H 1=O")
        species = dict(pair.split("=", 1) for pair in options.species)
    convert(options.source, options.destination, species=species)


# -- info -----------------------------------------------------------------------------------------


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info", help="what a model file holds", description="Print what a model file holds."
    )
    parser.set_defaults(command=_info)
    parser.add_argument("model", metavar="MODEL")


def _info(options: argparse.Namespace) -> None:
    import yaml

    from allegro_jax import model_file
    from allegro_jax.model import count_parameters

    model = model_file.load(options.model)
    summary = {
        "file": str(options.model),
        "members": model.members,
        "parameters": count_parameters(model.potential.params) // model.members,
        "config": model.config.to_dict(),
        **model.metadata,
    }
    plain = json.loads(json.dumps(summary))  # tuples become lists
    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100), end="")


# -- benchmark ------------------------------------------------------------------------------------


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="speed and memory of a model",
        description="Measure a model: time per atom and step, pairs per second, memory, and the "
        "time to compile.",
    )
    parser.set_defaults(command=_benchmark)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "structure",
        nargs="?",
        metavar="STRUCTURE",
        help="a structure that ASE reads; default: a dense random box of the model's species",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the figures")
    add_dtype(parser)


def _benchmark(options: argparse.Namespace) -> None:
    from allegro_jax import benchmark
    from md import structure_file

    model = _load_model(options.model, options.dtype)
    atoms = structure_file.read(options.structure) if options.structure else None
    figures = benchmark.benchmark(model, atoms, dtype=options.dtype)
    print(figures)
    _write_json(options.json, dataclasses.asdict(figures))


# -- shared ---------------------------------------------------------------------------------------


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml", help="what to train, on what, and how")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="replaces a value of the file, for example model.l_max=3",
    )


def _load_model(path: str, dtype: str) -> Model:
    """A model whose float64 weights stay so only where the arithmetic is to be float64."""
    import jax

    from allegro_jax import model_file

    with jax.enable_x64(dtype == "float64"):
        return model_file.load(path)


def _write_json(path: str | None, data: object) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
