"""The command ``weights``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from napari_deepretina.errors import UserError


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=type(parser))
    actions.add_parser("list", help="weights known by name").set_defaults(run=_list, reads=())
    info = actions.add_parser("info", help="what a weights file says of itself")
    info.add_argument("weights", metavar="NAME|PATH|last")
    info.set_defaults(run=_info, reads=())
    fetch = actions.add_parser("fetch", help="fetch the weights that Matterport published, to start from")
    fetch.add_argument("which", choices=["coco", "imagenet"], metavar="coco|imagenet")
    fetch.add_argument("--quiet", action="store_true", help="print nothing but errors")
    fetch.set_defaults(run=_fetch, reads=())
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
    new.set_defaults(run=_import, reads=("source",))
    out = actions.add_parser("export", help="write weights of a Matterport network as a Keras file")
    out.add_argument("weights", metavar="NAME|PATH|last")
    out.add_argument("target", type=Path, metavar="DST.h5")
    out.add_argument("--overwrite", action="store_true")
    out.set_defaults(run=_export, reads=("weights",))


def _list(_: argparse.Namespace) -> int:
    from napari_deepretina.model.weights import available, read_info

    for name, path in available().items():
        info = read_info(path)
        score = info.score.get("dsb_score")
        told = f"dsb_score {score:.3f}" if score is not None else "no score"
        if (other := info.differs_from) is not None:
            told = f"{'taught' if info.taught else 'tissue'}, {other.base}"
        print(
            f"{name:20} {info.architecture.backbone:10} {told:18} {path.stat().st_size / 1e6:5.1f} MB  {path}"
        )
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from napari_deepretina.model.weights import beside, find, read_info, sha256_of

    path = find(arguments.weights)
    content = {"path": str(path), "sha256": sha256_of(path), **read_info(path).model_dump(mode="json")}
    if (special := beside(path, content["sha256"])) is not None:
        content["beside"] = {"path": str(special.path), "sha256": special.sha256}
    print(json.dumps(content, indent=2))
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    import sys

    from napari_deepretina.model.published import MATTERPORT, fetch

    quiet = arguments.quiet or not sys.stderr.isatty()
    path = fetch(MATTERPORT[arguments.which], quiet=quiet)
    if not arguments.quiet:
        print(path)
    return 0


def _import(arguments: argparse.Namespace) -> int:
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


def _export(arguments: argparse.Namespace) -> int:
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
