"""Tiles give what the whole image gives: nuclei on seams whole and once."""

import time

import numpy as np
import pytest

from napari_deepretina.data.reading import NOTHING, Reading
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.matching import match
from napari_deepretina.inference import tiles as tiles_module
from napari_deepretina.inference.engine import threads
from napari_deepretina.inference.plan import make_plan
from napari_deepretina.inference.segment import segment, segment_steps, strict_limits
from napari_deepretina.inference.settings import make_settings
from napari_deepretina.inference.steps import drain
from napari_deepretina.inference.tiles import is_empty, needs_tiles, predict_tiled, tiles_of
from napari_deepretina.postprocess import postprocess

IMAGE, TRUTH = synthetic_nuclei((400, 420), 80, diameter=24, seed=11)
AS_IT_IS = {"diameter": 28.4}
"""The diameter that the network knows: this small image is not enlarged, which only takes time."""


def tiled(model, image, side, origin=(0, 0)):
    chosen = make_settings().postprocessing(model.info)
    options = {"side": side, "origin": origin, "limits": strict_limits(chosen), **AS_IT_IS}
    with threads(model) as engine:
        prediction = drain(predict_tiled(model, image, engine=engine, **options))
    return postprocess(prediction.raw, chosen).to_labels(), prediction


@pytest.mark.parametrize("shape", [(100, 100), (999, 1500), (64, 5000)])
@pytest.mark.parametrize("side", [64, 300])
def test_cores_cover_an_image_once(shape, side):
    rng = np.random.default_rng(0)
    for _ in range(4):
        origin = tuple(rng.integers(0, side, 2).tolist())
        seen = np.zeros(shape, int)
        for tile in tiles_of(shape, side, 40, origin):
            y0, x0, y1, x1 = tile.core
            seen[y0:y1, x0:x1] += 1
            top, left, bottom, right = tile.window
            assert top <= y0 < y1 <= bottom <= shape[0]
            assert left <= x0 < x1 <= right <= shape[1]
            assert y0 - top == 40 or top == 0
            assert bottom - y1 == 40 or bottom == shape[0]
        assert (seen == 1).all()


@pytest.mark.slow
def test_sixty_four_random_tilings_find_what_the_whole_image_holds(nuclei_model):
    """At most 0.5 % of the nuclei differ, and none is cut at a seam."""
    image, _ = synthetic_nuclei((180, 200), 17, diameter=24, seed=11)
    whole = segment(image, model=nuclei_model, **AS_IT_IS).labels
    rng = np.random.default_rng(7)
    differ = total = 0
    worst = 1.0
    for _ in range(64):
        side = int(rng.integers(120, 240))
        origin = tuple(rng.integers(0, side, 2).tolist())
        labels, _ = tiled(nuclei_model, image, side, origin)
        matched = match(whole, labels)
        hits = matched.hits(0.7)
        differ += len(matched.true_ids) + len(matched.pred_ids) - 2 * len(hits)
        total += len(matched.true_ids)
        touched = seam_nuclei(whole, side, origin)
        on_seams = np.isin(matched.true_ids[matched.pairs[:, 0]], touched) & (matched.iou > 0.5)
        worst = min([worst, *matched.iou[on_seams].tolist()])
        assert set(touched) - set(hits[:, 0].tolist()) == set() or differ / total < 0.01
    assert differ <= 0.005 * total, (differ, total)
    assert worst > 0.8


def seam_nuclei(labels, side, origin):
    """Ids of nuclei that lie on a seam."""
    found = set()
    for tile in tiles_of(labels.shape, side, 0, origin):
        y0, x0, y1, x1 = tile.core
        for edge in (labels[y1 - 1, x0:x1], labels[y0:y1, x1 - 1]):
            found |= set(np.unique(edge[edge > 0]).tolist())
    return found


def test_large_images_are_cut_by_themselves(nuclei_model):
    image, truth = synthetic_nuclei((900, 1300), 350, diameter=26, seed=3)
    settings = make_settings(tile=256)
    plan = make_plan(image.shape, nuclei_model.info.architecture, trained_diameter=30)
    assert needs_tiles(plan, 256)
    assert not needs_tiles(plan, 1024)
    told = []
    steps = segment_steps(image, nuclei_model, settings)
    unfinished = None
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result = end.value
            break
        told.append(step.text)
        if step.text.startswith("tile 3 of") and unfinished is None:
            unfinished = step.partial()
    assert any(t.startswith("tile 3 of") for t in told)
    assert any("tiles" in n for n in result.prediction.notes)
    # what was there before the last tile is a part of the whole
    assert 0 < len(unfinished.instances) < len(result.instances)
    assert any("cancelled at tile" in n for n in unfinished.prediction.notes)
    hits = match(truth, result.labels).hits(0.5)
    assert len(hits) > 0.95 * truth.max()
    assert result.labels.dtype == np.int32
    assert len(np.unique(result.labels)) - 1 == len(result.instances)


class Lazy:
    """An array on disk, as zarr gives it: cut by slices only."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.largest = 0

    def __getitem__(self, cut):
        assert all(isinstance(c, slice) for c in cut)
        piece = self.array[cut]
        if all(c.step is None for c in cut):
            self.largest = max(self.largest, piece.size)
        return piece

    def __array__(self, *_, **__):
        raise AssertionError("the whole image was read")


def test_a_lazy_image_is_read_tile_by_tile(nuclei_model):
    image, _ = synthetic_nuclei((900, 1300), 190, diameter=26, seed=5)
    lazy = Lazy(image)
    found = segment(lazy, model=nuclei_model, tile=256)
    assert np.array_equal(found.labels, segment(image, model=nuclei_model, tile=256).labels)
    assert 0 < lazy.largest < 0.6 * image.size


def test_empty_tiles_are_skipped_and_nothing_is_dreamt_into_them(nuclei_model):
    rng = np.random.default_rng(0)
    image = rng.poisson(20, (1300, 1300)).astype(np.uint16)
    field, truth = synthetic_nuclei((300, 300), 30, diameter=26, seed=2)
    image[500:800, 500:800] += field.astype(np.uint16) * 20
    found = segment(image, model=nuclei_model, tile=256)
    (note,) = (n for n in found.prediction.notes if "tiles" in n)
    assert int(note.split(", ")[1].split()[0]) > 5
    outside = found.labels.copy()
    outside[490:810, 490:810] = 0
    assert not outside.any()
    assert len(match(truth, found.labels[500:800, 500:800]).hits(0.5)) > 0.9 * truth.max()
    reading = Reading((20.0,), (5000.0,))
    assert is_empty(image[:200, :200], reading)
    assert not is_empty(image[500:700, 500:700], reading)
    assert is_empty(np.zeros((5, 5, 3), np.uint8), NOTHING)


def test_views_and_tiles_go_together(nuclei_model):
    image, truth = synthetic_nuclei((900, 900), 150, diameter=26, seed=4)
    found = segment(image, model=nuclei_model, tile=256, tta="flips")
    assert found.prediction.raw.view_count == 4
    assert len(match(truth, found.labels).hits(0.5)) > 0.95 * truth.max()


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_is_segmented_from_the_command_line(tmp_path, version, capsys):
    import json

    import tifffile
    import zarr

    from napari_deepretina.cli import main

    image, truth = synthetic_nuclei((900, 1300), 200, diameter=26, seed=4)
    folder = tmp_path / "slide.ome.zarr"
    data = np.stack([image, image // 2])[None, :, None]
    root = zarr.open_group(str(folder), mode="w", zarr_format=version)
    root.create_array("0", shape=data.shape, chunks=(1, 1, 1, 256, 256), dtype=data.dtype)[:] = data
    told = {"axes": [{"name": n} for n in "tczyx"], "datasets": [{"path": "0"}]}
    root.attrs.update({"multiscales": [told]} if version == 2 else {"ome": {"multiscales": [told]}})
    out = tmp_path / "out"
    command = [
        "segment", str(folder), "--out", str(out), "--channel", "0", "--tile", "256", "--device", "cpu",
        "--weights", "nuclei-small",
    ]  # fmt: skip
    assert main(command) == 0
    labels = tifffile.imread(out / "slide.tif")
    assert labels.shape == image.shape
    assert len(match(truth, labels).hits(0.5)) > 0.95 * truth.max()
    assert "tiles" in json.loads((out / "run.json").read_text())["notes"][0]


def test_an_interrupted_run_goes_on_where_it_stopped(nuclei_model, tmp_path):
    options = {"side": 128, "keep": tmp_path / "tiles"}
    options |= AS_IT_IS
    whole = drain(predict_tiled(nuclei_model, IMAGE, side=128, **AS_IT_IS))
    steps = predict_tiled(nuclei_model, IMAGE, **options)
    finished = []
    while len(finished) < 2:
        step = next(steps)
        finished += [step.patch()] if step.patch else []
    steps.close()
    kept = sorted((tmp_path / "tiles").glob("*/*.npz"))
    assert len(kept) == 2
    kept[1].write_bytes(kept[1].read_bytes()[:100])  # a damaged one is done again
    again = drain(predict_tiled(nuclei_model, IMAGE, **options))
    assert "1 tiles were done before" in again.notes
    for name in ("boxes", "scores", "masks", "tiles"):
        assert np.array_equal(getattr(again.raw, name), getattr(whole.raw, name))
    assert not list((tmp_path / "tiles").iterdir())
    # another image, or other settings, never meet its tiles
    next(s for s in predict_tiled(nuclei_model, IMAGE, **options) if s.patch)
    other = drain(predict_tiled(nuclei_model, IMAGE[::-1], **options))
    assert not any("done before" in n for n in other.notes)


def test_tiles_on_several_threads_give_the_same(nuclei_model):
    with threads(nuclei_model) as engine:
        side_by_side = drain(predict_tiled(nuclei_model, IMAGE, side=256, engine=engine, **AS_IT_IS))
    alone = drain(predict_tiled(nuclei_model, IMAGE, side=256, **AS_IT_IS))
    assert np.array_equal(side_by_side.raw.tiles, alone.raw.tiles)
    assert np.allclose(side_by_side.raw.boxes, alone.raw.boxes, atol=1e-3)
    assert np.abs(side_by_side.raw.masks.astype(int) - alone.raw.masks).max() <= 1


@pytest.mark.parametrize("side", [256, 1001])
def test_ids_stay_unique_above_65535_and_a_million(tmp_path, side):
    """More nuclei than 16 bits hold, and than a million: from the instances to the file."""
    import tifffile

    from napari_deepretina.export.tiff import write_labels
    from napari_deepretina.instances import Instances

    y, x = (v.ravel() for v in np.mgrid[:side, :side])
    dot = np.ones((1, 1), bool)
    many = Instances.drawn(np.stack([x, y, x + 1, y + 1], axis=1), (dot,) * len(x), (side, side))
    labels = many.to_labels()
    assert labels.dtype == np.int32
    assert np.array_equal(labels.ravel(), np.arange(1, side**2 + 1))
    write_labels(many, tmp_path / "many.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "many.tif"), labels)


@pytest.mark.parametrize("damage", ["empty", "cut", "part", "text", "shapes", "values"])
def test_a_damaged_tile_is_looked_at_again(tmp_path, damage):
    from napari_deepretina.inference.tile_store import TileStore
    from napari_deepretina.instances import RawInstances

    store = TileStore(tmp_path, "key")
    raw = RawInstances.empty((40, 50))
    store.write(1, raw)
    store.write(2, raw)
    path = store.folder / "000002.npz"
    whole = path.read_bytes()
    if damage in ("shapes", "values"):
        with np.load(path) as content:
            arrays = dict(content)
        arrays["boxes"] = np.zeros((3, 4), np.float32) if damage == "shapes" else arrays["boxes"]
        if damage == "values":
            arrays |= {"boxes": np.full((1, 4), np.nan, np.float32), "scores": np.ones(1, np.float32)}
            arrays |= {"masks": np.zeros((1, 28, 28), np.float16)}
            arrays |= {name: np.zeros(1, np.int32) for name in ("classes", "views", "tiles")}
        np.savez_compressed(path, **arrays)
    elif damage == "part":
        path.rename(store.folder / "000002.npz.123.part.npz")
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello"}[damage])
    assert set(store.read()) == {1}


def test_the_next_tile_is_read_while_the_network_looks_at_one():
    begun = []

    def tiles_to_read():
        for k in range(3):
            begun.append(k)
            yield k
        raise UserError("the disk is gone")

    ahead = tiles_module._ahead(tiles_to_read())
    assert next(ahead) == 0
    end = time.monotonic() + 10
    while len(begun) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert begun == [0, 1]  # without being asked, and no further
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(UserError, match="the disk is gone"):
        next(ahead)
    left = tiles_module._ahead(iter([1, 2, 3]))
    assert next(left) == 1
    left.close()
