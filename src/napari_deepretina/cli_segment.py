"""The command ``segment``."""

from __future__ import annotations

import argparse
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deepretina.cli_progress import Reporter, add_loudness
from napari_deepretina.errors import UserError, one_line
from napari_deepretina.files import expanded

if TYPE_CHECKING:
    from napari_deepretina.inference.settings import SegmentSettings
    from napari_deepretina.inference.sources import Source


def add_segment(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its options."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="image files, stacks, folders, globs, .zip archives, Kaggle folders or OME-Zarr",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go")
    parser.add_argument(
        "--beside",
        action="store_true",
        help="put each image's results into its own folder, called NAME_nuclei, and those of all into --out "
        "(default: the folder of the first image)",
    )
    parser.add_argument(
        "--format",
        metavar="LIST",
        help="comma-separated: labels, zarr, rle, coco, polygons, rois, geojson, features, overlay "
        "(default labels)",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="take images in sub-folders of the folders given, too"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results that an earlier run wrote there"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out images that are done; go on with one in tiles"
    )
    parser.add_argument(
        "--part",
        choices=("train", "val"),
        help="only these images of the split in or beside the input (default all)",
    )
    parser.add_argument(
        "--axes", metavar="LETTERS", help="of the images, e.g. TYX or CZYX, where the files do not tell"
    )
    parser.add_argument(
        "--series",
        type=int,
        default=None,
        metavar="N",
        help="of files with several series, scenes or appended pages: which one, counted from 0 (default 0)",
    )
    parser.add_argument(
        "--scheduler", default="", metavar="ADDRESS", help="dask.distributed cluster, tcp://host:8786"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="RUN.JSON",
        help="repeat a run: its inputs, settings and weights, unless others are given",
    )
    add_settings(parser)
    add_loudness(parser)
    parser.set_defaults(run=_segment, reads=("replay", "setting_weights", "setting_tta"))


def add_settings(parser: argparse.ArgumentParser, but: Container[str] = ()) -> None:
    """One option a field of SegmentSettings, with its default and its help.

    Parameters
    ----------
    but : fields that the command has no use for.
    """
    from typing import Literal, get_args, get_origin

    from napari_deepretina.documented import meanings
    from napari_deepretina.inference.settings import ADVISED, SegmentSettings

    for name, field in SegmentSettings.model_fields.items():
        if name in but:
            continue
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        if name in ADVISED:
            default = f" (default: what the weights advise, else {field.default})"
        else:
            default = "" if field.default is None else f" (default {field.default})"
        told = meanings(SegmentSettings).get(name, "").replace("%", "%%") + default
        option, where = "--" + name.replace("_", "-"), f"setting_{name}"
        if field.annotation is bool:
            parser.add_argument(option, dest=where, action=argparse.BooleanOptionalAction, help=told)
        else:
            metavar = None if choices else name.upper()
            parser.add_argument(option, dest=where, choices=choices, metavar=metavar, help=told)


def chosen_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of `add_settings` that were given."""
    given = {k.removeprefix("setting_"): v for k, v in vars(arguments).items() if k.startswith("setting_")}
    return {name: value for name, value in given.items() if value is not None}


def _segment(arguments: argparse.Namespace) -> int:
    with Reporter.of(arguments) as reporter:
        reporter.at(0, beside="loading PyTorch and the weights")  # that takes seconds, the first time many
        skipped, done = _segmented(arguments, reporter)
    if skipped:
        _tell_skipped(skipped, done)
    return 0


def _segmented(arguments: argparse.Namespace, reporter: Reporter) -> tuple[dict[str, str], int]:
    """Messages of the images that were skipped, by place, and how many are done."""
    from napari_deepretina.inference.batch import segment_files
    from napari_deepretina.inference.results import FORMATS, Places
    from napari_deepretina.inference.settings import make_settings

    asked = _recorded(arguments.replay) if arguments.replay else {"settings": {}}
    asked["settings"] |= chosen_settings(arguments)
    for name, value in (
        ("part", arguments.part),
        ("axes", arguments.axes),
        ("series", arguments.series),
        ("formats", arguments.format),
    ):
        asked[name] = value or asked.get(name)
    _keep_paths(asked["settings"])
    asked["inputs"] = [_lasting(text) for text in arguments.inputs] or asked.get("inputs", [])
    for name in ("beside", "recursive"):
        asked[name] = getattr(arguments, name) or asked.get(name, False)
    if not asked["inputs"]:
        raise UserError("give images to segment, or --replay with the run.json of an earlier run")
    if arguments.overwrite and arguments.resume:
        raise UserError("--overwrite replaces what --resume would keep: give one of them")
    formats = [f for f in (asked["formats"] or "labels").split(",") if f]
    if wrong := [f for f in formats if f not in FORMATS]:
        raise UserError(f"--format {','.join(wrong)} is not known; choose from {', '.join(FORMATS)}")
    notes: list[str] = []
    sources = _sources(asked, notes)
    out = arguments.out or (sources[0].folder if asked["beside"] else None)
    if out is None:
        raise UserError("give --out DIR, where results go, or --beside")
    settings = _with_regions(make_settings(**asked.pop("settings")))
    steps = segment_files(
        sources,
        Places(out, formats, asked["beside"]),
        settings,
        standing="overwrite" if arguments.overwrite else "resume" if arguments.resume else "refuse",
        scheduler=arguments.scheduler,
        asked=asked,
    )
    for note in notes:
        reporter.say(note)
    result = reporter.drain(steps)
    for note in result.notes:
        reporter.say(note)
    return result.skipped, len(result.done)


def _keep_paths(settings: dict[str, Any]) -> None:
    """Paths among the settings made good from any folder; names stay."""
    from napari_deepretina.model.weights import available

    weights, tta = settings.get("weights"), settings.get("tta")
    if isinstance(weights, str) and weights not in available() and expanded(weights).exists():
        settings["weights"] = _lasting(weights)
    if isinstance(tta, str) and tta.lower().endswith(".json"):
        settings["tta"] = _lasting(tta)


def _with_regions(settings: SegmentSettings) -> SegmentSettings:
    """The same with the regions of a file read, so that run.json holds them; a folder of files is kept."""
    from napari_deepretina.inference.asked import regions_for

    where = settings.regions
    if not isinstance(where, str):
        return settings
    found = _lasting(where) if expanded(where).is_dir() else regions_for(where, "")
    return settings.model_copy(update={"regions": found})


def _tell_skipped(skipped: dict[str, str], done: int) -> None:
    """All errors once more at the end, where they are seen."""
    print(f"{len(skipped)} were skipped:")
    for where, reason in skipped.items():
        print(one_line(f"  {where}: {reason}"))
    first = next(iter(skipped.values()))
    total = len(skipped) + done
    raise UserError(
        f"the image was skipped: {first}"
        if total == 1
        else f"{len(skipped)} of {total} images were skipped, the others are done: {first}"
    )


def _lasting(text: str) -> str:
    """An input as run.json keeps it: good from any folder."""
    return str(expanded(text).absolute())


def _sources(asked: dict[str, Any], notes: list[str]) -> list[Source]:
    from napari_deepretina.data.picture import Wanted
    from napari_deepretina.inference.sources import Looking, find_sources

    axes = (asked["axes"] or "").upper().replace("S", "C")  # samples of a pixel are channels, as in TIFF
    if (asked["series"] or 0) < 0:
        raise UserError(f"--series {asked['series']}: series are counted from 0")
    looking = Looking(asked["part"], asked["recursive"], Wanted(axes, asked["series"] or 0))
    return find_sources(asked["inputs"], looking, notes)


def _recorded(path: Path) -> dict[str, Any]:
    """What a run.json, or the metadata of a labels layer, tells of a run.

    Raises
    ------
    UserError
        If it is neither, or its weights are not at hand any more.
    """
    from napari_deepretina.inference.asked import RunRecord
    from napari_deepretina.intake import read_json, typed
    from napari_deepretina.model.weights import DEFAULT, beside, find, sha256_of

    told = "a run.json written by 'segment'"
    run = typed(RunRecord, read_json(path, told), str(path))
    weights = str(run.settings.get("weights", DEFAULT))
    if run.weights is None:
        raise UserError(f"{path} does not tell which weights were used: give {told}")
    there = find(weights)
    if (other := run.weights.specialist) and other != getattr(beside(there), "sha256", ""):
        raise UserError(
            f"{path} was made with another network for tissue (SHA-256 {other[:12]}…) than goes with "
            f"{weights!r}; give --weights with the files of that time"
        )
    if sha256_of(there) != run.weights.sha256:
        raise UserError(
            f"{path} was made with other weights (SHA-256 {run.weights.sha256[:12]}…) than {weights!r} is; "
            "give --weights with that file"
        )
    kept = run.model_dump(include={"inputs", "part", "axes", "series", "formats", "beside", "recursive"})
    settings = {k: v for k, v in run.settings.items() if k not in run.advised}  # as the weights advise
    return {k: v for k, v in kept.items() if v} | {"settings": {**settings, "precision": run.precision}}
