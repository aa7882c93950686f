"""Broken and lying input for every reader: read, or refused in a `UserError`, in little memory and time.

The test suite tries some inputs for each reader (tests/test_fuzz.py), always the same ones. A longer search:

    python -m tests.fuzz --minutes 20 [--only NAME ...]

prints how many inputs each reader got, and what it found, if anything, with the smallest input for it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.instances import Instances

MEMORY = 3 * 2**30
"""Bytes that reading may take beyond what the process has: inputs are small, and so is what they hold."""
SECONDS = 30
GREY, LABELS = synthetic_nuclei((40, 48), 4, diameter=14, seed=1)
RGB = np.stack([GREY, GREY // 2, 255 - GREY], axis=2).astype(np.uint8)
FOUND = Instances.from_labels(LABELS)


# ---- good files ----


def tiffs():
    stack = np.stack([GREY] * 3).astype(np.uint16)
    yield "plain.tif", tiff(GREY)
    yield "rgb.tif", tiff(RGB, photometric="rgb", compression="lzw")
    yield "tiled.ome.tif", tiff(stack, ome=True, metadata={"axes": "ZYX"}, tile=(16, 16), compression="zlib")
    yield "big.tif", tiff(stack, bigtiff=True, rowsperstrip=8, photometric="minisblack")
    yield "imagej.tif", tiff(stack, imagej=True, resolution=(3, 3), metadata={"unit": "um"})
    palette = np.arange(768, dtype=np.uint16).reshape(3, 256)
    yield "palette.tif", tiff(GREY.astype(np.uint8), photometric="palette", colormap=palette)
    yield "real.tif", tiff(GREY.astype(np.float32) / 255, predictor=3, compression="zstd")


def tiff(image, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def pictures():
    modes = {
        "grey.png": "L", "rgb.png": "RGB", "rgba.png": "RGBA", "palette.png": "P", "a.jpg": "RGB",
        "a.gif": "P", "a.bmp": "RGB", "a.webp": "RGB", "cmyk.jpg": "CMYK",
    }  # fmt: skip
    for name, mode in modes.items():
        buffer = io.BytesIO()
        kind = {"jpg": "jpeg"}.get(name.split(".")[1], name.split(".")[1])
        Image.fromarray(RGB).convert(mode).save(buffer, kind)
        yield name, buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(GREY.astype(np.uint16) * 200).save(buffer, "png")
    yield "deep.png", buffer.getvalue()


def archives():
    pairs, kaggle = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(pairs, "w") as archive:
        archive.writestr("images/a.tif", tiff(GREY))
        archive.writestr("labels/a.tif", tiff(LABELS.astype(np.uint16)))
        archive.writestr("split.json", json.dumps({"train": ["a"], "val": []}))
    yield "pairs.zip", pairs.getvalue()
    with zipfile.ZipFile(kaggle, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, picture in (
            ("a/images/a.png", RGB),
            ("a/masks/1.png", (LABELS == 1).astype(np.uint8) * 255),
        ):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "png")
            archive.writestr(place, buffer.getvalue())
    yield "kaggle.zip", kaggle.getvalue()


def coco():
    from napari_deepretina.export.coco import coco_content

    yield coco_content([("a.tif", FOUND)])
    yield coco_content([("a.tif", FOUND)], polygons=True)
    content = coco_content([("a.tif", FOUND)])
    content["annotations"][0]["segmentation"] = {"size": [40, 48], "counts": "`0d0lj1"}
    yield content


def geojson():
    from napari_deepretina.export.geojson import geojson_content

    yield geojson_content(FOUND)


def views():
    yield [{"flip_lr": True, "quarter_turns": 1, "height_ratio": 1.5}, {}]


def run_records():
    from napari_deepretina.inference.settings import SegmentSettings

    yield {
        "settings": SegmentSettings().model_dump(mode="json"), "weights": {"sha256": "0" * 64},
        "inputs": ["a.tif"], "part": "val", "formats": "labels",
        "images": {"a": {"nuclei": 3}}, "skipped": {},
    }  # fmt: skip


def samples():
    told = {"from": "a", "nuclei": 4, "shape": [40, 48], "time": 1}
    yield {"samples": {"a": told, "b": told}}


def splits():
    yield {"train": ["a", "b"], "val": ["c"]}


def journal_lines():
    from napari_deepretina.inference.journal import Entry, Record

    record = Record("a", [Entry("a", FOUND, "a.tif")], {"area": [1.5]}, {"image": "a"}, {"nuclei": 4})
    yield json.loads(record.line())


def run_events():
    yield {"event": "start", "time": 1.0, "step": 0, "total": 9, "device": "cpu"}
    yield {"event": "validation", "time": 2.0, "step": 3, "loss": 1.0, "dsb_score": 0.5}


def asked_records():
    from napari_deepretina.model.architecture import Architecture
    from napari_deepretina.model.header import WeightsInfo

    info = WeightsInfo(name="x", architecture=Architecture()).model_dump(mode="json")
    yield {
        "asked": {"recipe": "fine-tune", "data": ["d"]},
        "info": info,
        "train": {"images": 3, "names": "00"},
    }


def settings_values():
    from napari_deepretina.inference.settings import SegmentSettings

    yield SegmentSettings().model_dump(mode="json")


@functools.cache
def tables():
    from napari_deepretina.export.rle_csv import write_rle_csv

    with tempfile.TemporaryDirectory() as folder:
        for with_shape in (False, True):
            write_rle_csv(
                [("a", FOUND), ("b", FOUND)], Path(folder, f"{with_shape}.csv"), with_shape=with_shape
            )
        return [(f"{b}.csv", Path(folder, f"{b}.csv").read_bytes()) for b in (False, True)]


@functools.cache
def tiny():
    from napari_deepretina.model.architecture import Architecture

    return Architecture(
        backbone="resnet18", width=1 / 16, fpn_channels=8, box_units=8, mask_convs=1, mask_channels=8,
        short_side=64,
    )  # fmt: skip


@functools.cache
def weights():
    from napari_deepretina.model.header import WeightsInfo
    from napari_deepretina.model.network import build
    from napari_deepretina.model.weights import save_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.safetensors")
        save_weights(build(tiny(), seed=0).state_dict(), WeightsInfo(name="tiny", architecture=tiny()), path)
        return [("tiny.safetensors", path.read_bytes())]


@functools.cache
def headers():
    from napari_deepretina.model.header import WeightsInfo
    from napari_deepretina.model.rescoring import Rescoring

    five = (0.1, 0.2, 0.3, 0.4, 0.5)
    rescoring = Rescoring(mean=five, spread=five, hidden=((*five, 0.0),) * 2, output=(1.0, 1.0, 0.0))
    advice = {"score": 0.4, "min_area": 5.0}
    told = WeightsInfo(name="tiny", architecture=tiny(), postprocess=advice, rescoring=rescoring)
    return [told.model_dump(mode="json")]


@functools.cache
def keras_files():
    from napari_deepretina.model.architecture import Architecture
    from napari_deepretina.model.matterport.keras_weights import export_keras
    from napari_deepretina.model.matterport.network import MatterportRCNN

    narrow = Architecture(
        backbone="matterport_resnet50", body_widths=(4, 4, 8, 4, 8, 4, 8, 4, 8), fpn_channels=8,
        rpn_channels=8, box_units=8, mask_channels=8,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        export_keras(MatterportRCNN(narrow), Path(folder, "a.h5"))
        return [("a.h5", Path(folder, "a.h5").read_bytes())]


@functools.cache
def recipes():
    from napari_deepretina.training.recipe import load_recipe, shipped_recipes, to_toml

    return [(f"{name}.toml", to_toml(load_recipe(name)).encode()) for name in shipped_recipes()]


@functools.cache
def checkpoint():
    """A state as training keeps it, of a tiny network."""
    from napari_deepretina.model.network import build
    from napari_deepretina.training.fit import optimizer_of
    from napari_deepretina.training.recipe import load_recipe

    network = build(tiny(), seed=0)
    optimizer = optimizer_of(load_recipe("fine-tune").stages[0], network).state_dict()
    weights = network.state_dict()
    plain = {"updates": 3, "step": 2, "best": 0.5, "best_step": 1}
    return {"network": weights, "average": weights, "optimizer": optimizer, **plain}


@functools.cache
def checkpoints():
    from napari_deepretina.training.checkpoint import save_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(checkpoint(), Path(folder, "a.ckpt"))
        return [("a.ckpt", Path(folder, "a.ckpt").read_bytes())]


def states():
    yield {k: v for k, v in checkpoint().items() if k not in ("network", "average")}


@functools.cache
def documents():
    from napari_deepretina.document import Document, store
    from napari_deepretina.postprocess import PostprocessSettings

    with tempfile.TemporaryDirectory() as folder:
        store.save(Document(LABELS.copy(), PostprocessSettings(), {}), Path(folder, "a.nuclei"))
        return [("a.nuclei", Path(folder, "a.nuclei").read_bytes())]


@functools.cache
def document_facts():
    from napari_deepretina.document import store

    content = documents()[0][1]
    frame = next(store._frames(content[len(store.MAGIC) :]))
    return [json.loads(frame["meta"].tobytes())]


@functools.cache
def tile_files():
    from napari_deepretina.inference.tile_store import TileStore
    from napari_deepretina.instances import RawInstances

    none = np.zeros(3, np.int64)
    raw = RawInstances(
        boxes=np.tile(np.float32([1, 2, 20, 22]), (3, 1)), scores=np.ones(3, np.float32), classes=none + 1,
        masks=np.ones((3, 28, 28), np.float16), views=none, tiles=none, shape=(40, 48), view_count=1,
        thinned=0.0, fading=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        TileStore(Path(folder), "key").write(1, raw)
        return [("000001.npz", Path(folder, "key", "000001.npz").read_bytes())]


def zarr_parts():
    """(name inside the folder, content) of each file of an OME-Zarr."""
    return [(f"zarr:{name}", content) for name, content in _zarr().items()]


@functools.cache
def _zarr():
    from napari_deepretina.export.tiff import write_labels_zarr

    with tempfile.TemporaryDirectory() as folder:
        write_labels_zarr(LABELS, Path(folder, "a.zarr"))
        return {
            p.relative_to(Path(folder, "a.zarr")).as_posix(): p.read_bytes()
            for p in sorted(Path(folder, "a.zarr").rglob("*"))
            if p.is_file()
        }


# ---- readers ----


def read_image(path):
    from napari_deepretina.data import picture
    from napari_deepretina.data.channels import check_image
    from napari_deepretina.data.files import decode_labels
    from napari_deepretina.data.reading import readings

    for lazy_from in (picture.LAZY_BYTES, 0):
        picture.LAZY_BYTES, before = lazy_from, picture.LAZY_BYTES
        try:
            found = picture.read_picture(path)
            plane = found.plane((0,) * len(found.extent))
            check_image(plane)
            plane = np.asarray(plane)
            readings(plane)[0](plane)
        except UserError:
            continue
        finally:
            picture.LAZY_BYTES = before
    with contextlib.suppress(UserError):
        decode_labels(path.read_bytes(), path.name)


def read_dataset(path):
    from napari_deepretina.data.open import open_dataset

    dataset, _ = open_dataset(path)
    for number in range(min(3, len(dataset))):
        with contextlib.suppress(UserError):
            _ = dataset[number]


def read_coco(path):
    from napari_deepretina.data.coco import read_coco

    for instances in read_coco(path).values():
        instances.to_labels()


def read_table(path):
    from napari_deepretina.data.rle_csv import decode_objects, read_rle_csv, read_shapes

    strings, shapes = read_rle_csv(path), read_shapes(path)
    for name, mine in strings.items():
        with contextlib.suppress(UserError):
            decode_objects(mine, shapes.get(name, (40, 48)), name)


def read_regions(path):
    from napari_deepretina.data.regions import names_at, read_regions

    points = np.array([3.0, 20.0])
    names_at(read_regions(path), points, points, points)


def read_views(path):
    from napari_deepretina.inference.views import resolve_views

    resolve_views(str(path))


def read_run(path):
    from napari_deepretina.cli_segment import _recorded
    from napari_deepretina.inference.asked import RunRecord
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.intake import read_json, typed

    with contextlib.suppress(UserError):
        _recorded(path)
    make_settings(**typed(RunRecord, read_json(path), "it").settings)


def read_settings(path):
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.intake import read_json

    told = read_json(path)
    if isinstance(told, dict):
        make_settings(**told)


def read_manifest(path):
    from napari_deepretina.data.project import MANIFEST, Project

    shutil.copyfile(path, path.with_name(MANIFEST))
    for told in Project(path.parent).samples().values():
        f"{told['nuclei']} {told['shape']}"


def read_split(path):
    from napari_deepretina.data.split import read_split

    read_split(path)


def read_journal(path):
    from napari_deepretina.inference.journal import Journal, hidden, reviewed

    folder = hidden(path.parent)
    folder.mkdir(exist_ok=True)
    (folder / "done.jsonl").write_bytes(b"key\n" + path.read_bytes() + b"\n")
    journal = Journal(path.parent, "key")
    reviewed(journal.read())
    for record in journal.stored().values():
        for entry in record.entries:
            entry.instances.to_labels()


def read_events(path):
    from napari_deepretina.training.watch import RunWatch

    (path.parent / "events.jsonl").write_bytes(path.read_bytes() + b"\n")
    (path.parent / "pid").write_bytes(path.read_bytes())
    watch = RunWatch(path.parent)
    watch.poll()
    watch.seconds_left()


def read_asked(path):
    from napari_deepretina.training.asked import RECORD, read_record
    from napari_deepretina.training.resume import asked_again, recorded_start

    shutil.copyfile(path, path.with_name(RECORD))
    with contextlib.suppress(UserError):
        read_record(path.parent)
    with contextlib.suppress(UserError):
        asked_again(path.parent, {})
    recorded_start(path.parent)


def read_recipe(path):
    from napari_deepretina.training.recipe import explained, load_recipe, to_toml

    recipe = load_recipe(str(path), ["seed=3"])
    to_toml(recipe), explained(recipe)


def read_weights(path):
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.model.weights import load_model

    info = load_model(path).info
    make_settings().postprocessing(info)
    if info.rescoring:
        info.rescoring.scores(np.ones((4, 5), np.float32))


def read_header(path):
    """JSON as the header of weights that fit it, or not."""
    content = weights()[0][1]
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {"napari-deepretina": path.read_text("utf-8")}
    packed = json.dumps(header).encode()
    made = path.with_suffix(".safetensors")
    made.write_bytes(struct.pack("<Q", len(packed)) + packed + content[8 + length :])
    read_weights(made)


def read_keras(path):
    from napari_deepretina.model.matterport.keras_weights import import_keras
    from napari_deepretina.model.weights import read_info

    read_info(path)
    import_keras(path)


def read_checkpoint(path):
    from napari_deepretina.model.network import build
    from napari_deepretina.training.average import Average
    from napari_deepretina.training.checkpoint import load_checkpoint
    from napari_deepretina.training.fit import State, _restore, optimizer_of
    from napari_deepretina.training.recipe import load_recipe

    recipe, network = load_recipe("fine-tune"), build(tiny(), seed=0)
    stage = recipe.stages[0]
    state = State(network, Average(network, stage.ema), optimizer_of(stage, network))
    _restore(state, recipe, load_checkpoint(path))


def read_state(path):
    """JSON as what a checkpoint holds beside the network."""
    from napari_deepretina.training.checkpoint import save_checkpoint

    told = json.loads(path.read_text("utf-8"))
    whole = {"network": checkpoint()["network"], "average": checkpoint()["average"]}
    save_checkpoint({**whole, **told} if isinstance(told, dict) else told, path.with_suffix(".ckpt"))
    read_checkpoint(path.with_suffix(".ckpt"))


def read_document(path):
    from napari_deepretina.document import store

    document, _ = store.load(path)
    document.table({})


def read_document_facts(path):
    """JSON as what a document with a right checksum tells of itself."""
    from napari_deepretina.document import store

    content = documents()[0][1]
    frame = next(store._frames(content[len(store.MAGIC) :]))
    frame["meta"] = np.frombuffer(path.read_bytes(), np.uint8)
    made = path.with_suffix(".nuclei")
    made.write_bytes(store.MAGIC + store._frame(frame))
    read_document(made)


def read_steps(path):
    """Anything as the npz of a document, with a right checksum."""
    from napari_deepretina.document import store

    packed = path.read_bytes()
    made = path.with_suffix(".nuclei")
    made.write_bytes(store.MAGIC + store._HEAD.pack(len(packed), zlib.crc32(packed)) + packed)
    read_document(made)


def frames():
    from napari_deepretina.document import store

    return [("a.npz", documents()[0][1][len(store.MAGIC) + store._HEAD.size :])]


def read_tiles(path):
    from napari_deepretina.inference.tile_store import TileStore

    for raw in TileStore(path.parent.parent, path.parent.name).read().values():
        assert len(raw.scores) == len(raw.masks)


def read_zarr(path):
    from napari_deepretina.data.ome_zarr import is_ome_zarr, open_ome_zarr

    folder = path.parent / "a.zarr"
    for name, content in _zarr().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shutil.copyfile(path, folder / path.name.removeprefix("zarr:").replace("|", "/"))
    if is_ome_zarr(folder):
        picture = open_ome_zarr(folder)
        np.asarray(picture.plane((0,) * len(picture.extent)))


BYTES = {
    "tiff": (tiffs, read_image),
    "pictures": (pictures, read_image),
    "archives": (archives, read_dataset),
    "zarr": (zarr_parts, read_zarr),
    "run lengths": (tables, read_table),
    "recipes": (recipes, read_recipe),
    "weights": (weights, read_weights),
    "keras": (keras_files, read_keras),
    "checkpoints": (checkpoints, read_checkpoint),
    "documents": (documents, read_document),
    "steps of documents": (frames, read_steps),
    "tiles": (tile_files, read_tiles),
}
VALUES = {
    "coco": (coco, read_coco),
    "regions": (geojson, read_regions),
    "views": (views, read_views),
    "run.json": (run_records, read_run),
    "settings": (settings_values, read_settings),
    "manifest": (samples, read_manifest),
    "split": (splits, read_split),
    "journal": (journal_lines, read_journal),
    "events": (run_events, read_events),
    "run of a training": (asked_records, read_asked),
    "header of weights": (headers, read_header),
    "state of checkpoints": (states, read_state),
    "facts of documents": (document_facts, read_document_facts),
}
READERS = {**BYTES, **VALUES}


# ---- what is done to good files ----

NUMBERS = [
    0,
    1,
    -1,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
]
PACKED = sorted(
    {
        struct.pack(order + kind, n & (2 ** (8 * size) - 1))
        for n in NUMBERS
        for order in "<>"
        for kind, size in (("B", 1), ("H", 2), ("I", 4), ("Q", 8))
    }
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(NUMBERS),
    st.sampled_from(["a" * 300, "1" * 5000, "../../x", "\x1b[2J", "\ud800", "nan", "é/\n", "~nobody"]),
    st.sampled_from([[], {}, [[]], [0] * 3000, {"a": {}}, 10**400, 1e308]),
)  # fmt: skip
EDITS = st.tuples(
    st.sampled_from(["set", "set", "set", "insert", "delete", "copy", "cut"]),
    st.integers(0, 2**20),
    st.one_of(st.sampled_from(PACKED), st.binary(min_size=1, max_size=12)),
    st.integers(1, 64),
)


def edited(content, edits):
    """Bytes with some changed; places count from the head or, where odd, from the tail."""
    changed = bytearray(content)
    for kind, place, payload, count in edits:
        if not changed:
            break
        at = (place // 2) % len(changed)
        at = len(changed) - 1 - at if place % 2 else at
        if kind == "set":
            changed[at : at + len(payload)] = payload
        elif kind == "insert":
            changed[at:at] = payload
        elif kind == "delete":
            del changed[at : at + count]
        elif kind == "copy":
            changed[at:at] = changed[at : at + count] * 2
        else:
            del changed[at:]
    return bytes(changed)


def places_in(value, path=()):
    """Paths to everything in JSON, the whole of it first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*path, key))


def changed_at(value, path, new):
    """JSON in which what stands at a path is another value; `...` takes it away."""
    if not path:
        return None if new is ... else new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = changed_at(value[path[0]], path[1:], new)
    return copy


@st.composite
def broken_bytes(draw, make):
    name, content = draw(st.sampled_from(list(make())))
    return name.replace("/", "|"), edited(content, draw(st.lists(EDITS, min_size=1, max_size=5)))


@st.composite
def broken_values(draw, make):
    value = draw(st.sampled_from(list(make())))
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(value))
        new = draw(st.one_of(LEAVES, st.just(...)))
        value = changed_at(value, draw(st.sampled_from(places)), new)
    return "x.json", json.dumps(value, ensure_ascii=True).encode()


def broken(name):
    """Strategy for the inputs of a reader: (name of a file, content)."""
    make = READERS[name][0]
    return broken_bytes(make) if name in BYTES else broken_values(make)


# ---- trying ----


WATCHED = False
"""Whether the process may be ended where not even a signal gets through: what hangs is told then."""


class TooLong(BaseException):
    """Reading took too much time."""


def _late(*_):
    raise TooLong(f"more than {SECONDS} s")


@contextlib.contextmanager
def bounded():
    """Little memory and time beyond what is in use; threads of decoders want some address space, too."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    handler = signal.signal(signal.SIGALRM, _late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(name, file_name, content, folder):
    """Let a reader have an input; whatever it raises but UserError is a finding."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / file_name
    path.write_bytes(content)
    if WATCHED:
        faulthandler.dump_traceback_later(SECONDS + 5, exit=True)
    with bounded(), warnings.catch_warnings(), contextlib.suppress(UserError):
        warnings.simplefilter("ignore")
        try:
            READERS[name][1](path)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # what they hold would count as in use next time
            raise


def search(name, examples, folder, chosen=None):
    """Try inputs on a reader; how many were tried. Raises what hypothesis found, with the smallest input."""
    tried = 0

    @settings(
        max_examples=examples, derandomize=chosen is None, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), print_blob=False,
        phases=[Phase.generate, Phase.shrink] if chosen is not None else [Phase.generate],
    )  # fmt: skip
    @given(broken(name))
    def tries(given_input):
        nonlocal tried
        tried += 1
        attempt(name, *given_input, folder)

    if chosen is not None:
        tries = seed(chosen)(tries)
    tries()
    return tried


def _stretch(name, folder, chosen, sent):
    """A stretch of the search, in a process of its own."""
    global WATCHED
    WATCHED = True
    with os.fdopen(sent, "w") as out:
        try:
            tried, told = search(name, 150, folder, chosen), ""
        except BaseException:
            tried, told = 0, traceback.format_exc()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        json.dump([tried, told, peak], out)


def main():
    """Search for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS))
    arguments = parser.parse_args()
    import logging

    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    end = time.monotonic() + 60 * arguments.minutes
    counts, findings, peak, rounds = dict.fromkeys(arguments.only, 0), [], 0.0, 0
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < end:
            for name in arguments.only:
                received, sent = os.pipe()
                chosen = random.SystemRandom().randrange(2**32)
                child = os.fork()
                if not child:
                    os.close(received)
                    _stretch(name, Path(scratch, "x"), chosen, sent)
                    os._exit(0)
                os.close(sent)
                with os.fdopen(received) as told:
                    text = told.read()
                _, status = os.waitpid(child, 0)
                if text:
                    tried, trouble, most = json.loads(text)
                    counts[name] += tried
                    peak = max(peak, most)
                else:
                    trouble = (
                        f"the interpreter ended with status {status} on {os.listdir(Path(scratch, 'x'))}"
                    )
                    shutil.copytree(Path(scratch, "x"), Path(tempfile.gettempdir(), f"fuzz-crash-{chosen}"))
                if trouble:
                    findings.append(name)
                    print(f"---- {name}, seed {chosen}\n{trouble}", flush=True)
                if time.monotonic() > end:
                    break
            rounds += 1
    print(json.dumps(counts, indent=1))
    print(f"{sum(counts.values()):,} inputs, {len(findings)} findings, at most {peak:.0f} MB in use")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
