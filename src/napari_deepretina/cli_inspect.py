"""``napari-deepretina inspect``: what the network sees, as pictures and numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from napari_deepretina.errors import UserError


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="an image file")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where PNG and JSON go")
    parser.add_argument("--weights", default="nuclei", metavar="NAME|PATH")
    parser.add_argument("--compare", metavar="NAME|PATH", help="other weights: how much each layer changed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--diameter", type=float, metavar="PIXELS", help="expected diameter of the nuclei")
    parser.add_argument("--score", type=float, metavar="F", help="score threshold")
    parser.add_argument("--truth", type=Path, metavar="LABELS", help="true label image: errors are told")
    parser.add_argument(
        "--at", action="append", default=[], metavar="Y,X", help="a pixel: the nucleus there, or why none"
    )
    parser.add_argument("--data", metavar="PATH", help="annotated images to look at")
    parser.add_argument("--recipe", default="fine-tune", help="whose augmentation is shown for --data")
    parser.set_defaults(run=_inspect, reads=("image", "weights", "compare", "truth", "data", "recipe"))


def _inspect(arguments: argparse.Namespace) -> int:
    from napari_deepretina.data.files import read_image
    from napari_deepretina.data.open import open_dataset
    from napari_deepretina.inference.device import resolve_device
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.inspection.report import Report
    from napari_deepretina.inspection.steps import inspect_image
    from napari_deepretina.model.weights import load_model
    from napari_deepretina.training.recipe import load_recipe

    if arguments.image is None and arguments.data is None:
        raise UserError("give an image to inspect, or --data with annotated images")
    report = Report(arguments.out)
    model = load_model(arguments.weights, resolve_device(arguments.device))
    if arguments.image is not None:
        image = read_image(Path(arguments.image))
        truth = None if arguments.truth is None else _labels(arguments.truth, image.shape[:2])
        places = [_place(text, image.shape) for text in arguments.at]
        given = {} if arguments.score is None else {"score": arguments.score}
        settings = make_settings(**given).postprocessing(model.info)
        inspection = inspect_image(model, image, settings, diameter=arguments.diameter)
        report.image(inspection, image, truth=truth, places=places)
        for told in report.numbers["places"]:
            print(told["told"])
    other = load_model(arguments.compare) if arguments.compare else None
    report.weights(model, other)
    if arguments.data is not None:
        dataset, _ = open_dataset(arguments.data, lonely_too=True)
        report.data(arguments.data, dataset, load_recipe(arguments.recipe))
    report.finish()
    print(arguments.out)
    return 0


def _labels(path: Path, shape: tuple[int, ...]) -> Any:
    from napari_deepretina.data.files import read_image
    from napari_deepretina.data.sample import checked_sample

    labels = checked_sample(path.stem, read_image(path), read_image(path)).labels
    if labels.shape != shape:
        raise UserError(f"{path} is {labels.shape}, the image {shape}: they must be of one size")
    return labels


def _place(text: str, shape: tuple[int, ...]) -> tuple[int, int]:
    try:
        y, x = (int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: write row and column, as in --at 120,45") from None
    if not (0 <= y < shape[0] and 0 <= x < shape[1]):
        raise UserError(f"--at {text} lies outside the image of {shape[0]}×{shape[1]}")
    return y, x
