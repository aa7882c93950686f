"""The command ``evaluate``: predictions or weights against truth."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deepretina.cli_progress import Reporter, add_loudness
from napari_deepretina.data.ours import MARK, PROGRAM, refuse_others
from napari_deepretina.errors import UserError
from napari_deepretina.files import write_text

if TYPE_CHECKING:
    from napari_deepretina.data.label_sets import LabelSet


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its options."""
    kinds = "folder or zip of label images, Kaggle folder, RLE CSV or COCO JSON"
    parser.add_argument("--truth", metavar="T", help=kinds)
    parser.add_argument("--pred", metavar="P", help=kinds)
    parser.add_argument(
        "--data",
        metavar="D",
        help="with --weights instead of the two above: annotated images, of which the validation part counts "
        "where there is one",
    )
    parser.add_argument("--weights", metavar="W", help="name, file, run or last")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="the first N images only (with --data)"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--precision", default="auto", metavar="P", help="auto, float32, bfloat16 or float16 (default auto)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument(
        "--all",
        action="store_true",
        help="count images without a prediction as empty instead of leaving them out",
    )
    parser.add_argument(
        "--coco", action="store_true", help="COCO's average precision of boxes and masks as well"
    )
    parser.add_argument(
        "--max-dets",
        type=int,
        metavar="N",
        help="detections an image that count for --coco (default 100, as COCO's, or as many as an image has)",
    )
    add_loudness(parser)
    parser.set_defaults(run=_evaluate, reads=("truth", "pred", "data", "weights"))


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.json:
        refuse_others(arguments.json)
    if arguments.data is not None or arguments.weights is not None:
        figures = _weights_on_data(arguments)
    elif arguments.truth is None or arguments.pred is None:
        raise UserError("give --truth and --pred, or --data and --weights")
    else:
        figures = _predictions(arguments)
    if arguments.json:
        write_text(arguments.json, json.dumps({PROGRAM: MARK, **figures}, indent=2))
    return 0


def _weights_on_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """COCO's average precision of weights, in all and by class."""
    from napari_deepretina.evaluation.coco_ap import class_table, coco_table
    from napari_deepretina.inference.device import resolve_device
    from napari_deepretina.model.weights import load_model
    from napari_deepretina.training.evaluate import evaluate_weights

    if arguments.data is None or arguments.weights is None:
        raise UserError("give --data and --weights together")
    if arguments.truth is not None or arguments.pred is not None:
        raise UserError("give either --truth and --pred, or --data and --weights")
    if arguments.limit < 0 or (arguments.max_dets or 1) < 1:
        raise UserError("--limit and --max-dets count images and detections: give 1 or more")
    model = load_model(arguments.weights, resolve_device(arguments.device), arguments.precision)
    with Reporter.of(arguments) as reporter:
        figures = reporter.drain(
            evaluate_weights(model, arguments.data, limit=arguments.limit, max_dets=arguments.max_dets or 100)
        )
        reporter.say(f"{figures['images']} images")
        reporter.say(coco_table(figures["coco"]))
        reporter.say(class_table(figures["by_class"]))
    return figures


def _predictions(arguments: argparse.Namespace) -> dict[str, Any]:
    from napari_deepretina.data.label_sets import open_label_set
    from napari_deepretina.evaluation.compare import compare

    truth, predicted = open_label_set(arguments.truth), open_label_set(arguments.pred, arguments.truth)
    report, missing = compare(truth, predicted, missing_as_empty=arguments.all)
    if missing:
        what = "counted as empty" if arguments.all else "left out (--all counts them as empty)"
        print(f"{len(missing)} images of the truth have no prediction: {what}", file=sys.stderr)
    reporter = Reporter.of(arguments)
    reporter.say(report.table())
    figures = report.to_json()
    if arguments.coco:
        from napari_deepretina.evaluation.coco_ap import coco_ap, coco_table

        contents = [
            _coco_content(p, s, truth) for p, s in ((arguments.truth, truth), (arguments.pred, predicted))
        ]
        most = arguments.max_dets or _most_objects(contents)
        if most > 100 and not arguments.max_dets:
            print(
                f"an image holds {most} objects: so many detections count, where COCO's own figures stop at "
                "100 (--max-dets 100 gives those)",
                file=sys.stderr,
            )
        figures["coco"] = coco_ap(*contents, max_dets=most)
        reporter.say(coco_table(figures["coco"]))
    return figures


def _most_objects(contents: Sequence[Any]) -> int:
    """Objects or detections of the image that holds most, at least COCO's 100."""
    counted = [c if isinstance(c, list) else c.get("annotations", []) for c in contents]
    numbers = [Counter(a["image_id"] for a in annotations).values() for annotations in counted]
    return max(100, *(max(n, default=0) for n in numbers))


def _coco_content(path: str, labels: LabelSet, truth: LabelSet) -> Any:
    """COCO JSON as it is; any other set of labels made into it."""
    from napari_deepretina.export.coco import coco_content
    from napari_deepretina.instances import Instances
    from napari_deepretina.intake import read_json

    if path.lower().endswith(".json"):
        return read_json(path)
    shapes = {n: truth.labels(n).shape for n in labels.names} if path.lower().endswith(".csv") else {}
    return coco_content(
        (name, Instances.from_labels(labels.labels(name, shapes.get(name)))) for name in labels.names
    )
