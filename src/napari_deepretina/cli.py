"""The command line: ``napari-deepretina segment | evaluate | train | recipes | weights | …``."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from napari_deepretina import __version__
from napari_deepretina.errors import UserError, one_line, out_of_memory
from napari_deepretina.files import exists, protected


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help, or fail: argparse would pass over output that nobody takes."""
        print(message, end="", file=file or sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on bad usage or input, 130 when interrupted, 143 when terminated."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names and help go to consoles of any encoding
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what decoders find odd is told by ourselves
    warnings.filterwarnings("ignore", module="PIL")
    try:
        words = sys.argv[1:] if argv is None else argv
        arguments = _parser(words).parse_args(words)
        with _ending_cleanly(), protected(*_inputs_of(arguments)):
            code = int(arguments.run(arguments))
            sys.stdout.flush()  # a full disk counts as failure while it can still be told
            return code
    except UserError as error:
        print(f"napari-deepretina: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read what was printed has gone: nobody is left to be told
        _leave_output()
        return 141
    except OSError as error:
        _leave_output()
        where = f"{error.filename}: " if error.filename else ""
        print(f"napari-deepretina: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print("napari-deepretina: there is not enough memory for this", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("napari-deepretina: interrupted; what is done is kept", file=sys.stderr)
        return 130
    except _Terminated:
        print("napari-deepretina: terminated; what is done is kept", file=sys.stderr)
        return 143


def _leave_output() -> None:
    """Drop what standard output cannot take: the interpreter would report it again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Terminated(BaseException):
    """The system asked the process to end."""


def _shows(path: Path, image: Any) -> bool:
    """Whether a file holds this very image, so that nothing is lost when it is written again."""
    import numpy as np

    from napari_deepretina.data.files import read_image

    try:
        return bool(np.array_equal(read_image(path), image))
    except UserError:
        return False


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what it has begun to write goes, what is done stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:  # training steers by signals of its own
        for number, handler in before.items():
            signal.signal(number, handler)


def _inputs_of(arguments: argparse.Namespace) -> Iterator[Path]:
    """Files that the command reads, as its options ``reads`` name them: it may not write to them."""
    from napari_deepretina.data.files import input_files

    out = getattr(arguments, "out", None)
    results = out if out is not None and (out / "events.jsonl").exists() else None
    for option in arguments.reads:
        values = getattr(arguments, option)
        for value in values if isinstance(values, list) else [values]:
            for text in (str(value), re.sub(r"@\d+$", "", str(value))):
                path = Path(os.path.expanduser(text))
                if value is not None and exists(path):
                    yield from input_files(path, apart_from=results)


_COMMANDS = {
    "segment": ("cli_segment.add_segment", "find the nuclei in images"),
    "evaluate": ("cli_evaluate.add_evaluate", "score predictions, or weights, against truth"),
    "train": ("cli_train.add_train", "learn from annotated images"),
    "teach": ("cli_teach.add_teach", "learn from a few corrected nuclei, in seconds"),
    "recipes": ("cli_train.add_recipes", "list and show recipes for training"),
    "weights": ("cli_weights.add_weights", "list, describe, fetch and convert weights"),
    "sample": ("cli.add_sample", "write a sample image"),
    "inspect": ("cli_inspect.add_inspect", "see every step of a detection, weights, data and errors"),
}
"""Name → the function that declares its options, and what it is for."""


def _parser(argv: Sequence[str]) -> _Parser:
    """With the options of the command that is asked for; to import all takes most of a second."""
    parser = _Parser(prog="napari-deepretina", description="Find, score and learn nuclei.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (where, help_) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_)
        if name in argv:
            module, function = where.split(".")
            getattr(import_module(f"napari_deepretina.{module}"), function)(command)
    return parser


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its options."""
    from napari_deepretina.data.samples import SAMPLES

    parser.add_argument("name", choices=list(SAMPLES), metavar="NAME", help=", ".join(SAMPLES))
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".tif or .png")
    parser.set_defaults(run=_sample, reads=())


def _sample(arguments: argparse.Namespace) -> int:
    from napari_deepretina.data.files import IMAGE_SUFFIXES
    from napari_deepretina.data.samples import sample_image
    from napari_deepretina.export.tiff import write_image

    if arguments.out.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--out {arguments.out}: end the name with .tif or .png")
    image = sample_image(arguments.name)
    if exists(arguments.out) and not _shows(arguments.out, image):
        raise UserError(
            f"{arguments.out} is there already and is another image: it is not replaced, choose --out"
        )
    write_image(image, arguments.out)
    print(arguments.out)
    return 0
