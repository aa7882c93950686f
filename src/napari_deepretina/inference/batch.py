"""Many images: decoded ahead of the network, each result written as soon as it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_deepretina.data.channels import check_image
from napari_deepretina.data.picture import Picture
from napari_deepretina.errors import UserError
from napari_deepretina.files import protected, remove, sweep_parts, write_text
from napari_deepretina.heap import Trim
from napari_deepretina.inference.asked import RunRecord, for_image
from napari_deepretina.inference.device import resolve_device
from napari_deepretina.inference.engine import NO_MEMORY, Engine, cluster, threads
from napari_deepretina.inference.journal import NOT_OURS, Journal, Ledger, Record, key_of, reviewed
from napari_deepretina.inference.plan import Plan, make_plan
from napari_deepretina.inference.results import RUN, Places, outcome_of, write_joint, write_one
from napari_deepretina.inference.segment import (
    Segmentation,
    empty_segmentation,
    segment_steps,
    select_channel,
)
from napari_deepretina.inference.settings import ADVISED, SegmentSettings
from napari_deepretina.inference.sources import Source
from napari_deepretina.inference.stacks import StackSegmentation, segment_stack_steps, whole_images
from napari_deepretina.inference.steps import Progress, Steps
from napari_deepretina.inference.tiles import needs_tiles
from napari_deepretina.intake import read_json, typed
from napari_deepretina.lock import sole_use
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.weights import LoadedModel, load_model

Done = Segmentation | StackSegmentation
_Read = tuple[Source, Picture | None, float]
"""A source, what was read of it, and when that began."""


@dataclass
class BatchResult:
    """What came of a batch: records of the images done, by name, and messages of those skipped."""

    done: dict[str, Record] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a person should know besides."""
    before: int = 0
    """Images that an earlier run had done already."""


def segment_files(
    sources: Sequence[Source],
    places: Places,
    settings: SegmentSettings,
    *,
    standing: str = "refuse",
    scheduler: str = "",
    asked: dict[str, Any] | None = None,
) -> Steps[BatchResult]:
    """Segment images and stacks; one that cannot be read or segmented is skipped.

    In steps, one an image; what is done when it is cancelled can be resumed. Writes ``<name>.tif`` (labels),
    ``<name>.zarr`` (zarr), ``<name>_rois.zip`` (rois), ``<name>_overlay.png`` (overlay), ``submission.csv``
    (rle), ``instances.json`` (coco), ``polygons.json`` (polygons), ``features.csv`` (features), and always
    ``summary.csv`` and ``run.json``.

    No input is ever written to, and only files that an earlier run into the same folder wrote are replaced.

    Parameters
    ----------
    standing : what to do where results are there already: ``refuse``, ``overwrite``, or ``resume``, which
        leaves out the images that are done, and goes on with an image in tiles that was interrupted.
    scheduler : address of a dask.distributed cluster that does the work.
    asked : more for run.json, so that the run can be repeated: see `replay`.

    Raises
    ------
    UserError
        If files stand in the way, the folder cannot be written to, or the weights, the device or the cluster
        cannot be used.
    """
    if problem := _in_the_way(places, sources, Ledger(places.out), standing):
        raise UserError(problem)  # before anything is made
    model = _model(settings, scheduler)
    with protected(*(s.path for s in sources)), sole_use(places.hidden, of=places.out):
        sweep_parts(places.out)
        ledger = Ledger(places.out)
        if problem := _in_the_way(places, sources, ledger, standing):
            raise UserError(problem)
        journal = Journal(places.out, key_of(model.identity, model.info, settings))
        result = BatchResult()
        result.done = _done_before(journal, standing, sources, places, result.notes)
        ledger.claim([*places.joint(), *places.always()])
        if standing != "resume" or not result.done:
            journal.begin(result.done.values())
        result.before = len(result.done)
        if result.before:
            yield Progress(0.0, f"{result.before} of {len(sources)} images were done before")
        run = _Run(places, settings, model, journal, ledger, result, len(sources))
        with _engine(model, settings, scheduler) as engine:
            yield from run.go([s for s in sources if s.name not in result.done], engine)
        order = {s.name: k for k, s in enumerate(sources)}
        records = sorted(result.done.values(), key=lambda r: order[r.name])
        result.written += write_joint(records, places, model.info.architecture.classes)
        more = {**(asked or {}), "skipped": result.skipped}
        _write_run(places, settings, model.info, run.told(), records, more)
        remove(places.hidden / "tiles")
    return result


def _model(settings: SegmentSettings, scheduler: str) -> LoadedModel:
    """The weights that are asked for; a cluster's workers have devices of their own."""
    if scheduler:
        return load_model(settings.weights)
    return load_model(settings.weights, resolve_device(settings.device), settings.precision)


def _engine(model: LoadedModel, settings: SegmentSettings, scheduler: str) -> AbstractContextManager[Engine]:
    """What does the work: a cluster, or threads of this process."""
    if scheduler:
        return cluster(model, scheduler, settings.device, settings.precision)
    return threads(model)


def _done_before(
    journal: Journal, standing: str, sources: Sequence[Source], places: Places, notes: list[str]
) -> dict[str, Record]:
    """Records of images that are left as they are: all that are done, or those that a person worked on."""
    if standing == "resume":
        return _unchanged(_still_there(journal.read(), sources, places), sources, notes)
    if standing != "overwrite":
        return {}
    kept = _still_there(reviewed(journal.stored()), sources, places)
    if count := len(kept):
        many = f"{count} images were" if count > 1 else "1 image was"
        notes.append(f"{many} corrected by a person and {'are' if count > 1 else 'is'} kept")
    return kept


def _in_the_way(places: Places, sources: Sequence[Source], ledger: Ledger, standing: str) -> str:
    """Why the run can't begin, for the files that stand where results go; empty if it can."""
    there = places.standing(sources)
    if standing == "refuse" and there:
        if other := ledger.foreign(there):
            return f"{other[0]} is there already and {NOT_OURS}"
        return (
            f"{len(there)} results are there already, e.g. {there[0]}; choose another folder, "
            "keep them (--resume), or replace them (--overwrite)"
        )
    if other := ledger.foreign([*places.joint(), *places.always()]):
        return f"{other[0]} is there already and {NOT_OURS}"
    return ""


@dataclass
class _Run:
    """A batch under way."""

    places: Places
    settings: SegmentSettings
    model: LoadedModel
    journal: Journal
    ledger: Ledger
    result: BatchResult
    count: int
    last: Done | None = None
    trim: Trim = field(default_factory=Trim)

    def go(self, sources: Sequence[Source], engine: Engine) -> Steps[None]:
        """All images: small ones together, large ones and stacks by themselves."""
        large: list[tuple[Source, Picture]] = []
        for group, answers in engine.map(_whole_images, self._batches(sources, large, engine.batch)):
            if isinstance(answers, UserError):
                for source, _, _ in group:
                    yield self._skip(source, answers)
                continue
            for (source, picture, begun), answer in zip(group, answers, strict=True):
                assert picture is not None
                yield self._keep(source, picture, answer, begun)
            while large:
                yield from self._large(*large.pop(0), engine)
        while large:
            yield from self._large(*large.pop(0), engine)

    def _batches(
        self, sources: Sequence[Source], large: list[tuple[Source, Picture]], most: Callable[[float], int]
    ) -> Iterator[tuple[list[_Read], tuple[SegmentSettings, list[Any]] | UserError]]:
        """Small images in groups of one size; what is not small goes to `large`."""
        group: list[_Read] = []
        pixels: list[Any] = []
        alike: Any = None
        for source in sources:
            begun = time.perf_counter()
            try:
                if other := self.ledger.foreign(self.places.of(source).values()):
                    raise UserError(f"{other[0]} is there already and {NOT_OURS}")
                picture = source.read()
                settings = self._settings(source, picture)
                plan = self._plan(picture, settings)
            except UserError as error:
                yield [(source, None, begun)], error
                continue
            except MemoryError:
                yield [(source, None, begun)], UserError(f"{source.where}: {NO_MEMORY}")
                continue
            if plan is None:
                large.append((source, picture))
                if len(large) > 1:  # let it be done before more are read
                    yield [], (self.settings, [])
                continue
            if pixels and ((plan.padded, settings) != alike or len(pixels) >= most(plan.megapixels)):
                yield group, (alike[1], pixels)
                group, pixels = [], []
            alike = plan.padded, settings
            group.append((source, picture, begun))
            pixels.append(np.asarray(picture.plane()))
        if pixels:
            yield group, (alike[1], pixels)

    def _settings(self, source: Source, picture: Picture) -> SegmentSettings:
        """What the settings mean for one image; UserError if it has no such channel or regions."""
        return for_image(
            self.settings, names=picture.channels, channels=picture.channel_count, image=source.name
        )

    def _plan(self, picture: Picture, settings: SegmentSettings) -> Plan | None:
        """How a small image will be laid out; None if it is large or a stack. UserError if it is neither."""
        for_one = picture.plane((0,) * len(picture.extent))
        shape = check_image(select_channel(for_one, settings.channel))
        info = self.model.info
        plan = make_plan(
            shape, info.architecture, trained_diameter=info.diameter, diameter=self.settings.diameter
        )
        alone = picture.extent or settings.regions or needs_tiles(plan, settings.tile)
        return None if alone else plan

    def _large(self, source: Source, picture: Picture, engine: Engine) -> Steps[None]:
        begun = time.perf_counter()
        try:
            steps: Steps[Any]
            settings = self._settings(source, picture)
            if picture.extent:
                steps = segment_stack_steps(picture, self.model, settings, engine=engine)
            else:
                keep = self.places.hidden / "tiles"
                steps = segment_steps(picture.plane(), self.model, settings, engine=engine, keep=keep)
            while True:
                try:
                    yield Progress(self._done(next(steps).done), "")
                except StopIteration as end:
                    answer = end.value
                    break
        except UserError as error:
            yield self._skip(source, error)
            return
        yield self._keep(source, picture, answer, begun)

    def _keep(self, source: Source, picture: Picture, answer: Done, begun: float) -> Progress:
        try:
            outcome = outcome_of(answer, picture)
            record, paths = write_one(source, picture, outcome, self.places, self.ledger)
        except UserError as error:
            return self._skip(source, error)
        seconds = round(time.perf_counter() - begun, 3)
        record.told["seconds"] = seconds
        self.journal.add(record)
        self.result.done[source.name] = record
        self.result.written += paths
        self.last = answer
        self.trim()
        told = f"{source.name}: {record.told['nuclei']} nuclei, {seconds:.1f} s"
        return self._tell(" · ".join([told, *record.told.get("notes", [])]))

    def told(self) -> dict[str, Any]:
        """What one of the images says of how it was made, of this run or the one before."""
        told = self.last.provenance() if self.last else _earlier(self.places.out / RUN)
        if told:
            return told
        # a crash came between the last image and that file
        return empty_segmentation((64, 64), self.model, self.settings).provenance()

    def _skip(self, source: Source, error: UserError) -> Progress:
        self.result.skipped[source.where] = str(error)
        return self._tell(f"{source.name}: skipped, {error}")

    def _tell(self, text: str) -> Progress:
        number = len(self.result.done) + len(self.result.skipped)
        return Progress(self._done(0), f"[{number}/{self.count}] {text}", lambda: self.result)

    def _done(self, within: float) -> float:
        return (len(self.result.done) + len(self.result.skipped) + within) / max(1, self.count)


def _whole_images(model: LoadedModel, item: tuple[SegmentSettings, list[Any]]) -> list[Segmentation]:
    settings, images = item
    return whole_images(settings, model, images)


def _still_there(records: dict[str, Record], sources: Sequence[Source], places: Places) -> dict[str, Record]:
    """Records whose files nobody took away."""
    kept = {}
    for source in sources:
        record = records.get(source.name)
        whole = {f: p for f, p in places.of(source).items() if f in ("labels", "zarr")}
        planes = [e.name.removeprefix(source.name) for e in record.entries] if record else []
        files = [*whole.values(), *(p for s in planes for p in places.of(source, s).values())]
        if record and all(p.exists() for p in files):
            kept[source.name] = record
    return kept


def _unchanged(records: dict[str, Record], sources: Sequence[Source], notes: list[str]) -> dict[str, Record]:
    """Records without those whose image is another one now, unless a person corrected them."""
    stamps = {s.name: s.stamp() for s in sources}
    others = [n for n, r in records.items() if r.told.get("stamp", stamps[n]) != stamps[n]]
    corrected = reviewed({n: records[n] for n in others})
    for name in corrected:
        notes.append(f"{name} was corrected by a person and its image is another one now: it is kept")
    anew = [n for n in others if n not in corrected]
    if anew:
        many = f"{len(anew)} images are" if len(anew) > 1 else f"{anew[0]} is"
        notes.append(f"{many} done anew: replaced since the run before")
    return {n: r for n, r in records.items() if n not in anew}


def _write_run(
    places: Places,
    settings: SegmentSettings,
    info: WeightsInfo,
    told: dict[str, Any],
    records: Sequence[Record],
    more: dict[str, Any],
) -> None:
    """Versions, weights, settings, device, what was asked for, and what came of each image.

    Parameters
    ----------
    info : of the weights that were asked for.
    told : what one of the images says of how it was made.
    """
    run = {k: v for k, v in told.items() if k not in ("seconds", "scale", "stack")}
    asked = settings.model_dump(mode="json")
    as_asked = ("device", "precision", "channel", "intensity", "specialist", "regions")
    of_one = {k: v for k, v in run["settings"].items() if k not in as_asked}
    chosen = settings.postprocessing(info).model_dump(mode="json")  # a specialist has advice of its own
    run |= {"settings": asked | of_one | chosen, **more, "images": {r.name: r.told for r in records}}
    run["advised"] = [name for name in ADVISED if name not in settings.model_fields_set]
    write_text(places.out / RUN, json.dumps(run, indent=2))


def _earlier(path: Path) -> dict[str, Any]:
    """What the run said that did all the work before this one."""
    try:
        return typed(RunRecord, read_json(path), str(path)).model_dump()
    except UserError:
        return {}
