"""The command line: ``napari-deepretina segment | evaluate | train | weights | sample | inspect``."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from napari_deepretina import __version__
from napari_deepretina.cli_inspect import add_inspect
from napari_deepretina.cli_segment import add_segment
from napari_deepretina.errors import UserError
from napari_deepretina.files import exists, protected, write_text

if TYPE_CHECKING:
    from napari_deepretina.data.label_sets import LabelSet


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on bad usage or input, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names and help go to consoles of any encoding
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        with protected(*_inputs_of(arguments)):
            return int(arguments.run(arguments))
    except UserError as error:
        print(f"napari-deepretina: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("napari-deepretina: interrupted", file=sys.stderr)
        return 130


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


def _parser() -> _Parser:
    parser = _Parser(prog="napari-deepretina", description="Find, score and learn nuclei.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    add_segment(commands)
    _add_evaluate(commands)
    _add_train(commands)
    _add_weights(commands)
    _add_sample(commands)
    add_inspect(commands)
    return parser


def _add_evaluate(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("evaluate", help="score predictions against truth")
    kinds = "folder or zip of label images, Kaggle folder, RLE CSV or COCO JSON"
    parser.add_argument("--truth", required=True, metavar="T", help=kinds)
    parser.add_argument("--pred", required=True, metavar="P", help=kinds)
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
    parser.set_defaults(run=_evaluate, reads=("truth", "pred"))


def _evaluate(arguments: argparse.Namespace) -> int:
    from napari_deepretina.data.label_sets import open_label_set
    from napari_deepretina.evaluation.compare import compare

    truth, predicted = open_label_set(arguments.truth), open_label_set(arguments.pred, arguments.truth)
    report, missing = compare(truth, predicted, missing_as_empty=arguments.all)
    if missing:
        what = "counted as empty" if arguments.all else "left out (--all counts them as empty)"
        print(f"{len(missing)} images of the truth have no prediction: {what}", file=sys.stderr)
    print(report.table())
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
        print(coco_table(figures["coco"]))
    if arguments.json:
        write_text(arguments.json, json.dumps(figures, indent=2))
    return 0


def _most_objects(contents: Sequence[Any]) -> int:
    """Objects or detections of the image that holds most, at least COCO's 100."""
    counted = [c if isinstance(c, list) else c.get("annotations", []) for c in contents]
    numbers = [Counter(a["image_id"] for a in annotations).values() for annotations in counted]
    return max(100, *(max(n, default=0) for n in numbers))


def _coco_content(path: str, labels: LabelSet, truth: LabelSet) -> Any:
    """COCO JSON as it is; any other set of labels made into it."""
    from napari_deepretina.data.files import parse_json
    from napari_deepretina.export.coco import coco_content
    from napari_deepretina.instances import Instances

    if path.lower().endswith(".json"):
        return parse_json(Path(path).expanduser().read_bytes())
    shapes = {n: truth.labels(n).shape for n in labels.names} if path.lower().endswith(".csv") else {}
    return coco_content(
        (name, Instances.from_labels(labels.labels(name, shapes.get(name)))) for name in labels.names
    )


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    from napari_deepretina.inference.device import CHOICES

    parser = commands.add_parser("train", help="learn from annotated images")
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a TOML file")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="PATH",
        help="folders or zips (image/label pairs, Kaggle layout), COCO JSON, or toy-shapes; "
        "PATH@3 counts thrice",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN_DIR", help="the run's folder")
    parser.add_argument(
        "--weights",
        default="random",
        metavar="START",
        help="bundled, random, coco, imagenet, a known name or a weights file (default random)",
    )
    parser.add_argument(
        "--split",
        metavar="FILE",
        help="JSON with lists train and val; by default the one in or beside the data, "
        "else a random tenth is held out",
    )
    parser.add_argument(
        "--incomplete",
        nargs="+",
        default=[],
        metavar="DATA",
        help="those of --data in which some nuclei are unlabelled: confident detections without a label "
        "count little in the loss",
    )
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out stopped")
    parser.add_argument("--device", default="auto", choices=CHOICES, help="default auto")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="how many (default 1)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.KEY=VALUE",
        help="change the recipe; may be repeated",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan: images, steps, expected time and memory"
    )
    parser.set_defaults(run=_train, reads=("recipe", "data", "weights", "split"))


def _train(arguments: argparse.Namespace) -> int:
    from napari_deepretina.training.run import plan_training

    plan = plan_training(
        arguments.recipe,
        arguments.data,
        weights=arguments.weights,
        split=arguments.split,
        overrides=arguments.set,
        incomplete=arguments.incomplete,
        out=None if arguments.dry_run else arguments.out,
        resume=arguments.resume,
    )
    if arguments.dry_run:
        print(plan.forecast(arguments.device))
        return 0
    weights = plan.run(
        arguments.out, resume=arguments.resume, device=arguments.device, devices=arguments.devices
    )
    print(f"best weights: {weights}" if weights.exists() else "no weights yet: resume to go on")
    return 0


def _add_weights(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser("weights", help="list and describe weights")
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    actions.add_parser("list", help="weights known by name").set_defaults(run=_weights_list, reads=())
    info = actions.add_parser("info", help="what a weights file says of itself")
    info.add_argument("weights", metavar="NAME|PATH")
    info.set_defaults(run=_weights_info, reads=())
    new = actions.add_parser(
        "import", help="make a weights file of ours from one of Matterport's Keras program"
    )
    new.add_argument("source", type=Path, metavar="SRC.h5")
    new.add_argument("target", type=Path, metavar="DST.safetensors")
    new.add_argument(
        "--exclude",
        default="",
        metavar="LAYERS",
        help="leave these random; heads: all that knows the classes",
    )
    new.add_argument("--classes", default="", metavar="LIST", help="names of the object classes, in order")
    new.add_argument("--anchor-sizes", metavar="LIST", help="sides on the five levels (8,16,32,64,128)")
    new.add_argument("--short-side", type=int, metavar="N", help="pixels that images are scaled up to (512)")
    new.add_argument("--long-side", type=int, metavar="N", help="side of the square, with --resize square")
    new.add_argument("--resize", choices=["pad64", "square", "none"], help="how images are fitted (pad64)")
    new.add_argument("--overwrite", action="store_true")
    new.set_defaults(run=_weights_import, reads=("source",))
    out = actions.add_parser("export", help="write weights of a Matterport network as a Keras file")
    out.add_argument("weights", metavar="NAME|PATH")
    out.add_argument("target", type=Path, metavar="DST.h5")
    out.add_argument("--overwrite", action="store_true")
    out.set_defaults(run=_weights_export, reads=("weights",))


def _weights_list(_: argparse.Namespace) -> int:
    from napari_deepretina.model.weights import available, read_info

    for name, path in available().items():
        info = read_info(path)
        score = info.score.get("dsb_score")
        told = f"dsb_score {score:.3f}" if score is not None else "no score"
        print(
            f"{name:20} {info.architecture.backbone:10} {told:18} {path.stat().st_size / 1e6:5.1f} MB  {path}"
        )
    return 0


def _weights_info(arguments: argparse.Namespace) -> int:
    from napari_deepretina.model.weights import find, read_info, sha256_of

    path = find(arguments.weights)
    content = {"path": str(path), "sha256": sha256_of(path), **read_info(path).model_dump(mode="json")}
    print(json.dumps(content, indent=2))
    return 0


def _weights_import(arguments: argparse.Namespace) -> int:
    from napari_deepretina.model.matterport.keras_weights import import_keras, info_of
    from napari_deepretina.model.weights import save_weights

    _may_write(arguments.target, ".safetensors", overwrite=arguments.overwrite)
    described = {k: getattr(arguments, k) for k in ("short_side", "long_side", "resize")}
    described["anchor_sizes"] = _words(arguments.anchor_sizes or "")
    imported = import_keras(
        arguments.source,
        exclude=_words(arguments.exclude),
        classes=_words(arguments.classes),
        **{k: v for k, v in described.items() if v},
    )
    info = info_of(imported, arguments.target.stem, arguments.source.name)
    save_weights(imported.network.state_dict(), info, arguments.target, half=False)
    print(f"{imported}\n{arguments.target}")
    return 0


def _weights_export(arguments: argparse.Namespace) -> int:
    from napari_deepretina.model.matterport.keras_weights import export_keras
    from napari_deepretina.model.weights import load_model

    _may_write(arguments.target, ".h5", overwrite=arguments.overwrite)
    export_keras(load_model(arguments.weights).network, arguments.target)
    print(arguments.target)
    return 0


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _may_write(target: Path, suffix: str, *, overwrite: bool) -> None:
    if target.suffix != suffix:
        raise UserError(f"{target}: end the name with {suffix}")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; pass --overwrite to replace it")


def _add_sample(commands: argparse._SubParsersAction[_Parser]) -> None:
    from napari_deepretina.data.samples import SAMPLES

    parser = commands.add_parser("sample", help="write a sample image")
    parser.add_argument("name", choices=list(SAMPLES), metavar="NAME", help=", ".join(SAMPLES))
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=".tif or .png")
    parser.set_defaults(run=_sample, reads=())


def _sample(arguments: argparse.Namespace) -> int:
    from napari_deepretina.data.files import IMAGE_SUFFIXES
    from napari_deepretina.data.samples import sample_image
    from napari_deepretina.export.tiff import write_image

    if arguments.out.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--out {arguments.out}: end the name with .tif or .png")
    write_image(sample_image(arguments.name), arguments.out)
    print(arguments.out)
    return 0
