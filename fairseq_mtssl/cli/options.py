"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.files import prepare_output as prepare_output
from fairseq_mtssl.files import write_json as write_json

if TYPE_CHECKING:
    import torch


class Renamed(argparse.Action):
    """An option whose last name is an earlier one, which still works with a warning."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string == self.option_strings[-1]:
            print(f"{option_string} is now called {self.option_strings[0]}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --batch-size and --device."""
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="checkpoint that training saved")
    parser.add_argument(
        "--batch-size", type=positive_int, default=32, metavar="N", help="clips or images at once (32)"
    )
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is any"
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --batch-seconds."""
    add_device_argument(parser)
    parser.add_argument(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="audio put through the model at once, with its padding; 0: one utterance at a time, which is "
        "fastest on a CPU (400 with CUDA, else 0)",
    )


def add_random_argument(parser: argparse.ArgumentParser) -> None:
    """--random-weights."""
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="a network of the checkpoint's sizes, untrained, of --seed",
    )


def random_seed(args: argparse.Namespace) -> int | None:
    """The seed of an untrained network, None where the checkpoint's weights are wanted."""
    return int(args.seed) if args.random_weights else None


def name_and_path(text: str) -> tuple[str, Path]:
    """`NAME=RUN` -> (NAME, RUN), `RUN` -> ("", RUN)."""
    # the first "=": folders of sweeps have one in their names, too
    name, _, path = ("", "", text) if "=" not in text or Path(text).exists() else text.partition("=")
    return name, Path(path)


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number, at least 1")
    return number


def pick_device(name: str) -> torch.device:
    """The device of a --device option. Raises: ConfigError for cuda without CUDA."""
    from fairseq_mtssl.inference import devices

    return devices.pick_device(name)
