"""The command ``teach``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from napari_deepretina.cli_progress import Reporter, add_loudness
from napari_deepretina.cli_segment import add_settings, chosen_settings
from napari_deepretina.errors import UserError

if TYPE_CHECKING:
    from napari_deepretina.teaching.session import Pair

_BUT = ("planes", "regions", "link", "link_gap", "tile", "tta", "channel_shift_seed")
"""Settings that do not count: images are planes, looked at once."""


def add_teach(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its options."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="IMAGE LABELS",
        help="an image, and a label image of it of which only some nuclei need be right, or a .nuclei file "
        "that knows which ones a person corrected; and so on",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="NAME|FILE.safetensors",
        help="name of the taught weights, by which all commands and napari know them, or a file",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="all nuclei are labelled and right: whatever else the network finds is wrong",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace taught weights of this name")
    add_settings(parser, but=_BUT)
    add_loudness(parser)
    parser.set_defaults(run=_teach, reads=("files", "setting_weights"))


def _teach(arguments: argparse.Namespace) -> int:
    with Reporter.of(arguments) as reporter:
        reporter.at(0, beside="loading PyTorch and the weights")
        from napari_deepretina.inference.settings import make_settings
        from napari_deepretina.model.weights import find
        from napari_deepretina.teaching.session import (
            base_of,
            remembered_of,
            target_of,
            teach_steps,
            teacher_of,
            write,
        )

        if len(arguments.files) % 2:
            raise UserError(f"{arguments.files[-1]} has no partner: give images and labels in turn")
        target = target_of(arguments.out, overwrite=arguments.overwrite)
        settings = make_settings(**chosen_settings(arguments))
        images, labels = arguments.files[::2], arguments.files[1::2]
        pairs = [_pair(Path(i), Path(k)) for i, k in zip(images, labels, strict=True)]
        path = find(settings.weights)
        teacher = teacher_of(base_of(path, pairs[0].image, settings), settings.device, settings.precision)
        earlier = list(remembered_of(path))
        steps = teach_steps(teacher, pairs, settings, earlier, complete=arguments.complete)
        lessons = reporter.drain(steps)
        reporter.say(str(lessons))
        if lessons.helped:
            reporter.say(str(write(lessons, teacher, target)))
    return 0


def _pair(image: Path, labels: Path) -> Pair:
    """An image with its labels, or with the corrections that a file of nuclei knows."""
    import numpy as np

    from napari_deepretina.data.files import decode_labels
    from napari_deepretina.data.picture import read_picture
    from napari_deepretina.document.store import SUFFIX, load
    from napari_deepretina.files import expanded
    from napari_deepretina.intake import read_bytes
    from napari_deepretina.teaching.corrections import of_document
    from napari_deepretina.teaching.session import Pair

    picture = read_picture(expanded(image))
    if picture.extent:
        raise UserError(f"{image} is a stack of planes: give one file a plane")
    pixels = np.asarray(picture.plane())
    if labels.suffix != SUFFIX:
        return Pair(image.name, pixels, decode_labels(read_bytes(expanded(labels)), labels.name))
    document, _ = load(expanded(labels))
    if document.labels.shape != pixels.shape[:2]:
        raise UserError(
            f"{labels} has shape {document.labels.shape}, {image} has {pixels.shape[:2]}: they differ"
        )
    return Pair(image.name, pixels, of_document(document))
