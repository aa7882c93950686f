"""From what a person asks for to a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from napari_deepretina.data import Dataset, Subset, open_dataset
from napari_deepretina.data.hook import Hook
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.project import is_partly_labelled
from napari_deepretina.data.split import Split, random_split, read_split
from napari_deepretina.errors import UserError
from napari_deepretina.files import exists, refuse_inputs
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.lock import refuse_if_in_use
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import Network
from napari_deepretina.training.asked import NOTHING, RECORD, Asked, weighted
from napari_deepretina.training.check import check_data
from napari_deepretina.training.events import Tell
from napari_deepretina.training.fit import fit
from napari_deepretina.training.forecast import forecast
from napari_deepretina.training.machine import Machine, in_one_line
from napari_deepretina.training.recipe import Recipe, load_recipe
from napari_deepretina.training.resume import changes_since, recorded_start
from napari_deepretina.training.start import starting_point

T = TypeVar("T")
Source = str | Dataset
"""A data set, or where one lies."""

WRITTEN = (
    "recipe.toml", "weights.safetensors", "last.safetensors", "events.jsonl", RECORD, "sample/image.tif",
    "sample/labels.tif",
)  # fmt: skip
"""What a run writes into its folder, beside checkpoints and TensorBoard's files."""


@dataclass(frozen=True)
class Plan:
    """All that a run is made of; from `plan_training`.

    Attributes
    ----------
    recipe : what to do; its architecture and weights are those that training really starts from.
    train, val : data to learn from and data to judge by, which may be empty.
    start : network to start from, with its description; None for random weights.
    asked : what the run's folder remembers, for resuming.
    hook : one's own augmentation, see `napari_deepretina.data.hook`.
    notes : what a person should know before it starts.
    """

    recipe: Recipe
    train: Dataset
    val: Dataset
    start: tuple[Network, WeightsInfo] | None = None
    asked: Asked | None = None
    hook: Hook | None = None
    notes: tuple[str, ...] = ()

    def forecast(self, device: str = "auto") -> str:
        """What the run would do and take, as text; may be asked once, for it trains the start a little."""
        network = self.start[0] if self.start else None
        with in_one_line():
            return forecast(self.recipe, self.train, self.val, network, resolve_device(device))

    def run(
        self,
        out: Path,
        *,
        resume: bool = False,
        device: str = "auto",
        devices: int = 1,
        tell: Tell | None = None,
    ) -> Path:
        """Train; see `napari_deepretina.training.fit.fit`. Path of the weights."""
        return fit(self, out, resume=resume, machine=Machine.of(device, devices), tell=tell)


def train(
    recipe: str,
    data: Source | Sequence[Source],
    out: str | Path,
    *,
    val: Source | Sequence[Source] = (),
    weights: str | None = None,
    changes: Sequence[str] = (),
    augment: Hook | None = None,
    device: str = "auto",
) -> Path:
    """Train a network, as ``napari-deepretina train`` does.

    Parameters
    ----------
    recipe : name of a recipe in the package, or a TOML file.
    data, val : one or several data sets: paths, or objects with ``names``, ``__len__`` and ``__getitem__``
        that answer a `Sample` (see `napari_deepretina.data.Dataset`). Without `val` a part of `data` is held
        out; ``none`` trains on all of it.
    out : the run's folder.
    weights : where to start; by default as the recipe says.
    changes : of the recipe, ``STAGE.KEY=VALUE``.
    augment : one's own augmentation: ``(image, labels) -> (image, labels)``, an albumentations transform, or
        an imgaug augmenter; called with each crop after the recipe's own.
    device : ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns
    -------
    Path of the best weights; of the last, where there is nothing to validate on.

    Raises
    ------
    UserError
        If recipe, data, weights or folder cannot work, with all problems that can be known.
    """
    sets, held = _several(data), _several(val)
    asked = Asked(
        recipe=recipe,
        data=tuple(d for d in sets if isinstance(d, str)),
        val=tuple(d for d in held if isinstance(d, str)),
        weights=weights,
        overrides=tuple(changes),
    )
    plan = plan_training(asked, out=Path(out), sets=(sets, held))
    return replace(plan, hook=augment).run(Path(out), device=device)


def plan_training(
    asked: Asked,
    *,
    out: Path | None = None,
    resume: bool = False,
    sets: tuple[Sequence[Source], Sequence[Source]] | None = None,
) -> Plan:
    """Check everything that can be known before training.

    Parameters
    ----------
    asked : recipe, data, weights and changes.
    out, resume : given, the folder is checked as well.
    sets : data to train on and to validate on, where they are not only paths.

    Raises
    ------
    UserError
        If recipe, data, weights or folder cannot work; all problems that can be known are told together.
    """
    problems: list[str] = []
    recipe = _told_together(problems, lambda: load_recipe(asked.recipe, asked.overrides))
    data, val = sets or (asked.data, asked.val)
    parts = _told_together(problems, lambda: split_data(data, asked.split, asked.incomplete, val))
    if out is not None:
        _told_together(problems, lambda: _folder_is_fit(out, resume))
    notes = [] if parts is None else _told_together(problems, lambda: check_data(*parts)) or []
    if recipe is None or parts is None or problems:
        raise UserError("; ".join(problems))
    names = class_names(parts[0])
    given = asked.weights or recipe.weights
    start = recorded_start(out) if resume and out is not None else None
    if start is not None and start[0].architecture.classes != names:
        told = [", ".join(c) for c in (start[0].architecture.classes, names)]
        raise UserError(
            f"the run tells {told[0]} apart, the data {told[1]}: resume with data of the same classes"
        )
    if start is None:
        start = starting_point(given, recipe, names, parts[0])
        if start is not None and start[1].specialist is not None:
            notes.append(
                f"most images show stained tissue or unstained cells: training starts from {start[1].name}"
            )
    architecture = start[0].architecture if start else recipe.architecture
    architecture = architecture.model_copy(update={"classes": names})
    recipe = recipe.model_copy(update={"architecture": architecture, "weights": given})
    if resume and out is not None:
        notes += changes_since(out, recipe, asked, parts)
    return Plan(recipe, *parts, start, asked.lasting(), notes=tuple(notes))


def _several(data: Source | Sequence[Source]) -> list[Source]:
    single = isinstance(data, str) or hasattr(data, "names")
    return [data] if single else list(data)  # type: ignore[list-item, arg-type]


def _told_together(problems: list[str], work: Callable[[], T]) -> T | None:
    """The work's answer; None and one more problem, if a person must mend something."""
    try:
        return work()
    except UserError as error:
        problems.append(str(error))
        return None


def _folder_is_fit(out: Path, resume: bool) -> None:
    last = out / "checkpoints" / "last.ckpt"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder (--out)")
    refuse_if_in_use(out)
    if resume and not last.exists():
        raise UserError(f"nothing to resume: {last} does not exist")
    if not resume and last.exists():
        raise UserError(
            f"{out} holds a run already: go on with it (--resume), or choose another folder (--out)"
        )
    for name in WRITTEN:
        refuse_inputs(out / name)
        if exists(out / name) and not exists(out / "events.jsonl"):
            raise UserError(
                f"{out / name} is there already and was not written by a run: it is not replaced, "
                "choose another folder (--out)"
            )


def split_data(
    data: Sequence[Source],
    split: str | None = None,
    incomplete: Sequence[str] = (),
    val: Sequence[Source] = (),
) -> tuple[Dataset, Dataset]:
    """Training and validation images of one or several data sets.

    Each set is split by the file given, else by the split in or beside it, else at random
    (one tenth held out, the same ones each time). ``PATH@3`` takes a set three times as often.
    Sets that are named in `incomplete` as well, and what teaching remembers, have unlabelled nuclei: see
    `Sample.complete`.

    Parameters
    ----------
    val : sets to validate on, whole or, where they have a split, its validation part; `data` is then trained
        on whole, but for the validation part of its own split. ``none`` trains on all and validates on
        nothing.
    """
    known = [_weighted(d)[0] for d in data if isinstance(d, str)]
    if strangers := [path for path in incomplete if path not in known]:
        raise UserError(
            f"{strangers[0]} is said to have unlabelled nuclei but is not among the data: "
            f"{', '.join(map(str, known))}"
        )
    if not data:
        raise UserError("give data to train on (--data)")
    train: list[Dataset] = []
    held: list[Dataset] = []
    weights: list[int] = []
    given = read_split(split) if split else None
    whole = tuple(val) == (NOTHING,)
    for source in data:
        path, weight = _weighted(source)
        dataset, found = open_dataset(path) if isinstance(path, str) else (path, None)
        every = Split(tuple(dataset.names), (), "all")
        found = every if whole else given or found or (every if val else random_split(dataset.names))
        partly = path in incomplete or (isinstance(path, str) and is_partly_labelled(path))
        train.append(Subset(dataset, found.train, complete=not partly))
        weights.append(weight)
        if not val:
            held.append(Subset(dataset, found.val))
    for source in () if whole else val:
        path, _ = _weighted(source)
        dataset, found = open_dataset(path) if isinstance(path, str) else (path, None)
        held.append(Subset(dataset, found.val if found else tuple(dataset.names)))
    if not any(len(part) for part in train) or not (whole or any(len(part) for part in held)):
        raise UserError("the split leaves no images to train on, or none to validate on")
    title = ", ".join(_title(d) for d in data)
    joined = JoinedDataset(train, weights, title)
    return joined, JoinedDataset(held, class_names=joined.class_names)


def _title(source: Source) -> str:
    return Path(source).name if isinstance(source, str) else getattr(source, "title", type(source).__name__)


def _weighted(source: Source) -> tuple[Source, int]:
    return weighted(source) if isinstance(source, str) else (source, 1)


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the classes that a data set tells apart; one, unless it says otherwise."""
    return tuple(getattr(dataset, "class_names", ("nucleus",)))
