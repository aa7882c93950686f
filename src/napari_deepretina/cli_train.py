"""The commands ``train`` and ``recipes``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deepretina.cli_progress import Reporter, add_loudness
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded

if TYPE_CHECKING:
    from napari_deepretina.training.run import Plan


def add_train(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its options."""
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="a TOML file, or a shipped name: coco-r101, deep-retina, deep-retina-published, fine-tune, "
        "from-scratch ('recipes list' describes them)",
    )
    _add_data(parser)
    parser.add_argument("--out", type=Path, metavar="RUN_DIR", help="the run's folder")
    parser.add_argument(
        "--weights",
        metavar="START",
        help="random, coco, imagenet, bundled, last, a known name, a run's name or folder, or a weights file "
        "(.safetensors, .h5) (default: as the recipe says)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="RUN",
        help="go on with a run: its folder, its name, or last; nothing else is needed",
    )
    parser.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps (default auto)"
    )
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
    add_loudness(parser)
    parser.set_defaults(run=_train, reads=("recipe", "data", "val", "weights", "split"))


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Options that name data."""
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="folders or zips (image/label pairs, Kaggle layout), COCO JSON or its folder, or toy-shapes; "
        "PATH@3 counts three times as often; may be repeated",
    )
    parser.add_argument(
        "--val",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="data to validate on; none trains on everything and validates on nothing "
        "(default: a part of --data)",
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
        action="extend",
        default=[],
        metavar="DATA",
        help="those of --data in which some nuclei are unlabelled: confident detections without a label "
        "count little in the loss",
    )


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """Declare the command and its actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=type(parser))
    actions.add_parser("list", help="shipped recipes, a line each").set_defaults(run=_list, reads=())
    show = actions.add_parser("show", help="a recipe with every key explained, to be saved and changed")
    show.add_argument("recipe", metavar="NAME|FILE")
    show.set_defaults(run=_show, reads=())


def _train(arguments: argparse.Namespace) -> int:
    from napari_deepretina.training.run import plan_training

    resume = _folder_to_resume(arguments)
    asked = _asked(arguments, resume=resume)
    if arguments.dry_run:
        plan = plan_training(asked)
        print("\n".join([*plan.notes, plan.forecast(arguments.device)]))
        return 0
    plan = plan_training(asked, out=arguments.out, resume=resume)
    with Reporter.of(arguments) as reporter:
        for note in plan.notes:
            reporter.say(note)
        told = _Told(reporter)
        weights = plan.run(
            arguments.out, resume=resume, device=arguments.device, devices=arguments.devices, tell=told
        )
        reporter.say(_last_word(plan, weights, told.end))
    return 0


class _Told:
    """Shows a run's events; `end` is what the last one said."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._total = 1
        self.end: dict[str, Any] = {}

    def __call__(self, event: str, step: int, values: dict[str, Any]) -> None:
        line = f"{event} {step} " + " ".join(f"{k} {_short(v)}" for k, v in values.items())
        if event == "start":
            self._total = max(1, int(values["total"]))
        elif event == "end":
            self.end = values
        if event == "train":
            self._reporter.at(step / self._total, line, f"loss {_short(values['loss'])}")
        else:
            self._reporter.say(line)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _last_word(plan: Plan, weights: Path, end: dict[str, Any]) -> str:
    """What the run leaves, in plain words; nothing from the helpers of a run in several processes."""
    if not end:
        return ""
    if not weights.exists():
        return "no weights yet: resume to go on"
    if not len(plan.val):
        return f"weights after the last step, validated on nothing: {weights}"
    if end.get("best_step") == 0 and plan.start is not None:
        return (
            f"no weights were better than those it started from (score {end['best']:.4f}): {weights} "
            f"are these; those of the last step are in {weights.with_name('last.safetensors')}"
        )
    return f"best weights (score {end['best']:.4f}, step {end['best_step']}): {weights}"


def _folder_to_resume(arguments: argparse.Namespace) -> bool:
    """Whether a run is gone on with; `arguments.out` is its folder then."""
    from napari_deepretina.model.runs import find_run

    named = arguments.resume
    if not isinstance(named, str):
        if named and arguments.out is None:
            raise UserError("say which run to resume: --resume RUN, its folder or name, or last")
        return bool(named)
    folder = expanded(named)
    if not folder.is_dir():
        if arguments.recipe is None and arguments.out is not None:  # --resume RECIPE … --out RUN
            arguments.recipe = named
            return True
        found = find_run(named)
        if found is None:
            raise UserError(f"there is no run {named!r} to resume: give its folder")
        folder = found
    if arguments.out is not None and arguments.out.resolve() != folder.resolve():
        raise UserError(f"--resume {folder} goes on in that folder: leave out --out {arguments.out}")
    arguments.out = folder
    return True


def _asked(arguments: argparse.Namespace, *, resume: bool) -> Any:
    from napari_deepretina.training.asked import Asked
    from napari_deepretina.training.recipe import shipped_recipes
    from napari_deepretina.training.resume import asked_again

    given = {
        "recipe": arguments.recipe,
        "data": tuple(arguments.data),
        "val": tuple(arguments.val),
        "weights": arguments.weights,
        "split": arguments.split,
        "overrides": tuple(arguments.set),
        "incomplete": tuple(arguments.incomplete),
    }
    if resume:
        return asked_again(arguments.out, given)
    lacking = [
        what
        for what, is_there in (
            (f"a recipe ({', '.join(shipped_recipes())}, or a file)", arguments.recipe),
            ("data (--data)", arguments.data),
            ("the run's folder (--out)", arguments.out or arguments.dry_run),
        )
        if not is_there
    ]
    if lacking:
        raise UserError(f"give {' and '.join(lacking)}")
    return Asked.model_validate(given)


def _list(_: argparse.Namespace) -> int:
    from napari_deepretina.training.recipe import load_recipe, shipped_recipes

    for name in shipped_recipes():
        print(f"{name:22} {load_recipe(name).description}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from napari_deepretina.training.recipe import explained, load_recipe

    print(explained(load_recipe(arguments.recipe)), end="")
    return 0
