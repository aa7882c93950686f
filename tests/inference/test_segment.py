from dataclasses import replace

import numpy as np
import pytest
import torch

import napari_deepretina
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation import match
from napari_deepretina.inference import predict as predict_module
from napari_deepretina.inference.card import Room
from napari_deepretina.inference.device import describe_device, resolve_device
from napari_deepretina.inference.plan import make_plan
from napari_deepretina.inference.planes import layout_of, take_plane, take_stack
from napari_deepretina.inference.predict import predict
from napari_deepretina.inference.segment import segment, segment_steps, segment_together
from napari_deepretina.inference.settings import SegmentSettings, make_settings
from napari_deepretina.inference.steps import drain
from napari_deepretina.inference.views import PRESETS, resolve_views
from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.regions import Detections
from napari_deepretina.model.weights import LoadedModel, find, read_info

SHAPES = [(1, 1), (100, 300), (256, 256), (512, 512), (513, 700), (1024, 1024), (3, 2000)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("diameter", [None, 10, 64])
def test_plans_cover_the_image_in_multiples_of_64(shape, diameter):
    plan = make_plan(shape, Architecture(), trained_diameter=32, diameter=diameter)
    for full, scaled, side in zip(plan.padded, plan.scaled, shape, strict=True):
        assert full % 64 == 0
        assert 0 <= full - scaled < 64
        assert scaled == max(1, round(side * plan.scale))
    if diameter:
        assert plan.scale == 32 / diameter
    else:  # up to 512 pixels, twice the size at most
        assert plan.scale == min(2, max(1, 512 / min(shape)))


def test_plans_tell_weights_apart():
    plan = make_plan((9, 9), Architecture(), trained_diameter=32)
    assert plan.fingerprint("a") == plan.fingerprint("a") != plan.fingerprint("b")
    for bad in (0, -3, float("nan"), 1):
        with pytest.raises(UserError, match="diameter"):
            make_plan((9, 9), Architecture(), trained_diameter=32, diameter=bad)


FIELD = synthetic_nuclei((200, 240), 20, diameter=30, seed=11)


def test_labels_and_instances_agree_with_each_other_and_with_the_truth(nuclei_model):
    image, truth = FIELD
    result = segment(image, model=nuclei_model)
    labels, instances = result
    assert labels.dtype == np.int32
    assert labels.shape == image.shape
    assert labels.max() == len(instances)
    assert np.array_equal(labels, instances.to_labels())
    assert match(truth, labels).counts(0.5)[0] >= 0.85 * truth.max()
    assert result.provenance()["weights"]["sha256"] == nuclei_model.sha256
    assert set(result.seconds) == {"network", "postprocess"}


def test_the_public_call_needs_nothing_but_an_image():
    labels, instances = napari_deepretina.segment(FIELD[0], score=0.9)
    assert labels.max() == len(instances) > 5
    assert (instances.scores >= 0.9).all()


def test_masks_that_would_be_thrown_away_are_not_drawn(nuclei_model):
    """Those under the thresholds; weights that rescore have floors of their own, whatever is asked."""
    plain = replace(nuclei_model, info=nuclei_model.info.model_copy(update={"rescoring": None}))
    chosen = SegmentSettings(score=0.6)
    for model in (plain, nuclei_model):
        spared, loose = (
            drain(segment_steps(FIELD[0], model, chosen, tunable=tunable)) for tunable in (False, True)
        )
        assert len(spared.prediction.raw) < len(loose.prediction.raw) or model is nuclei_model
        assert np.array_equal(spared.labels, loose.labels)


@pytest.mark.parametrize("tta", ["flips", "flips-rotations", "deep-retina"])
@pytest.mark.parametrize("method", ["corrected", "original"])
def test_several_views_agree_on_the_nuclei(nuclei_model, tta, method):
    image, truth = FIELD
    result = segment(image, model=nuclei_model, tta=tta, method=method, score=0.6)
    assert match(truth, result.labels).counts(0.5)[0] >= 0.8 * truth.max()
    views = len(PRESETS[tta])
    assert result.prediction.raw.view_count == views
    assert set(result.prediction.raw.views.tolist()) == set(range(views))
    assert result.instances.votes.max() == views
    assert result.instances.votes.min() >= (views // 2 + 1 if method == "corrected" else -(-views // 3))


def test_views_of_the_same_pixels_are_looked_at_once(nuclei_model):
    views = PRESETS["deep-retina"]
    raw = segment(FIELD[0], model=nuclei_model, tta=views, score=0.6).prediction.raw
    same = [raw[raw.views == v] for v in (8, 9)]
    assert np.array_equal(same[0].boxes, same[1].boxes)
    shifted = segment(FIELD[0], model=nuclei_model, tta=views[8:10], channel_shift_seed=1).prediction.raw
    assert not np.array_equal(shifted[shifted.views == 0].scores, shifted[shifted.views == 1].scores)
    again = segment(FIELD[0], model=nuclei_model, tta=views[8:10], channel_shift_seed=1).prediction.raw
    assert np.array_equal(shifted.scores, again.scores)
    assert shifted.fingerprint == again.fingerprint != raw.fingerprint


def test_views_done_so_far_are_kept(nuclei_model, monkeypatch):
    monkeypatch.setattr("napari_deepretina.inference.predict.MEGAPIXELS_AT_ONCE", 0.01)
    views = resolve_views("flips")
    partials = []
    for step in predict(nuclei_model, FIELD[0], views=views):
        if step.partial is not None:
            so_far = step.partial()
            if not partials or so_far.raw.view_count != partials[-1].raw.view_count:
                partials.append(so_far)
    assert [p.raw.view_count for p in partials] == [1, 2, 3]
    assert [set(p.raw.views.tolist()) for p in partials] == [{0}, {0, 1}, {0, 1, 2}]
    steps = segment_steps(FIELD[0], nuclei_model, SegmentSettings(tta="flips"))
    partial = next(step.partial for step in steps if step.partial is not None)()
    assert len(partial.instances) > 5
    assert "1 of 4 views" in partial.provenance()["notes"][-1]


def test_running_twice_gives_the_same(nuclei_model):
    once, again = (segment(FIELD[0], model=nuclei_model) for _ in range(2))
    assert np.array_equal(once.labels, again.labels)
    assert once.prediction.raw.fingerprint == again.prediction.raw.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i.astype(np.uint16) * 257,
        lambda i: i / 255.0,
        lambda i: i.astype(np.float32) * 1e-4 - 7,
        lambda i: np.stack([i] * 3, axis=-1),
        lambda i: np.stack([i, i, i, np.full_like(i, 255)], axis=-1),
        lambda i: i[..., None],
        lambda i: i.astype(np.int64) * 10**6,
        lambda i: np.asfortranarray(i),
        lambda i: i[::-1][::-1],
    ],
    ids=["uint16", "float64", "tiny floats", "rgb", "rgba", "one channel", "int64", "fortran", "view"],
)
def test_dtype_and_layout_do_not_matter(nuclei_model, change):
    expected = segment(FIELD[0], model=nuclei_model).labels
    found = segment(change(FIELD[0]), model=nuclei_model).labels
    tp, fp, fn = match(expected, found).counts(0.9)
    assert tp >= 0.95 * (tp + fp + fn)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 1), np.uint8),
        np.zeros((64, 5)),
        np.full((70, 70), 9.5),
        np.full((70, 70), np.nan),
        np.zeros((70, 70), bool),
    ],
    ids=["1x1", "thin", "constant", "nan", "bool"],
)
def test_nothing_to_see_gives_no_nuclei(nuclei_model, image):
    labels, instances = segment(image, model=nuclei_model)
    assert labels.shape == image.shape
    assert len(instances) == 0


def test_bool_images_and_nan_holes_are_survived(nuclei_model):
    image, truth = FIELD
    tp, _, _ = match(truth, segment(truth > 0, model=nuclei_model).labels).counts(0.5)
    assert tp >= 0.5 * truth.max()
    holes = image.astype(np.float32)
    holes[:20, :20] = np.nan
    assert match(truth, segment(holes, model=nuclei_model).labels).counts(0.5)[0] >= 0.7 * truth.max()


def test_a_chosen_channel(nuclei_model):
    image, _ = FIELD
    many = np.stack([np.zeros_like(image), image, image // 2, image // 3, image, image], axis=-1)
    expected = segment(image, model=nuclei_model).labels
    assert np.array_equal(segment(many, model=nuclei_model, channel=1).labels, expected)
    with pytest.raises(UserError, match="6 channels; choose one"):
        segment(many, model=nuclei_model)
    with pytest.raises(UserError, match="channel 6 was asked for"):
        segment(many, model=nuclei_model, channel=6)


def test_the_expected_diameter_rescales(nuclei_model):
    small, truth = synthetic_nuclei((300, 300), 60, diameter=9, seed=2)
    guided = segment(small, model=nuclei_model, diameter=9)
    assert guided.prediction.plan.scale == pytest.approx(nuclei_model.info.diameter / 9)
    assert match(truth, guided.labels).counts(0.5)[0] >= 0.6 * truth.max()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"score": 3}, "score=3"),
        ({"scoore": 0.5}, "scoore"),
        ({"tta": "all"}, "choose none, flips"),
        ({"weights": "/nowhere.safetensors"}, "no weights"),
        ({"device": "tpu"}, "unknown device"),
        ({"diameter": -1}, "diameter"),
        ({"score": 2, "nms": -1}, "score=2.*nms=-1"),
    ],
)
def test_wrong_settings_are_told_by_name(settings, says):
    with pytest.raises(UserError, match=says):
        segment(FIELD[0], **settings)


@pytest.mark.parametrize(
    "image", [np.zeros((0, 3)), np.zeros(3), np.zeros((2, 2, 9)), np.zeros((2, 2), complex)]
)
def test_what_is_no_image_is_told(nuclei_model, image):
    with pytest.raises(UserError):
        segment(image, model=nuclei_model)


def test_own_choices_win_over_the_weights_advice():
    info = WeightsInfo(name="x", architecture=Architecture(), postprocess={"score": 0.7, "nms": 0.2})
    assert SegmentSettings().postprocessing(info).score == 0.7
    chosen = make_settings(score=0.4).postprocessing(info)
    assert (chosen.score, chosen.nms) == (0.4, 0.2)


def test_progress_rises_and_closing_cancels(nuclei_model):
    steps = segment_steps(FIELD[0], nuclei_model, SegmentSettings())
    seen = [next(steps).done for _ in range(3)]
    assert seen == sorted(seen)
    steps.close()
    assert len(segment(FIELD[0], model=nuclei_model).instances) > 5


class Overfull:
    """A network whose device has room for small batches only, or for none."""

    def __init__(self, room):
        self.room, self.where, self.tried = room, None, []

    def for_inference(self, dtype):
        return self

    def to(self, where):
        self.where = where
        return self

    def detect(self, batch, limits, windows):
        self.tried.append((self.where.type, limits.masks_at_once))
        yield 0.5
        if self.where.type == "cuda" and limits.masks_at_once > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        empty = torch.zeros((0,))
        return [
            Detections(empty.view(0, 4), empty, empty.long(), torch.zeros((0, 28, 28), dtype=torch.uint8))
        ]


@pytest.mark.parametrize(("room", "ends_on", "notes"), [(999, "cuda", 0), (20, "cuda", 1), (0, "cpu", 2)])
def test_out_of_memory_falls_back_and_says_so(monkeypatch, room, ends_on, notes):
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(predict_module, "room_on", lambda _: Room(None))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    network = Overfull(room)
    cuda = torch.device("cuda", 0)
    model = LoadedModel(network, WeightsInfo(name="x", architecture=Architecture()), None, "", cuda)
    prediction = drain(predict(model, np.random.default_rng(0).random((40, 40)), limits=Limits()))
    assert prediction.device.type == ends_on
    assert len(prediction.notes) == notes
    assert all("ran out of memory" in n for n in prediction.notes)
    assert network.where == cuda  # the next image starts on the chosen device again


def test_other_errors_are_not_taken_for_lack_of_memory():
    class Broken(Overfull):
        def detect(self, batch, limits, windows):
            yield 0.1
            raise RuntimeError("a bug")

    model = LoadedModel(
        Broken(0), WeightsInfo(name="x", architecture=Architecture()), None, "", torch.device("cpu")
    )
    with pytest.raises(RuntimeError, match="a bug"):
        drain(predict(model, np.eye(40)))


def test_devices_are_resolved_and_described(monkeypatch):
    assert resolve_device("cpu").type == "cpu"
    assert "CPU" in describe_device(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    for choice in ("cuda", "cuda:1", "mps"):
        with pytest.raises(UserError, match="not available"):
            resolve_device(choice)
    for choice in ("gpu", "cuda:x", "cpu2", ""):
        with pytest.raises(UserError, match="unknown device"):
            resolve_device(choice)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda", 1)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="sees 2 CUDA devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("shape", "rgb", "channel", "step", "index", "axes"),
    [
        ((20, 30), False, None, (0, 0), (None, None), (0, 1)),
        ((20, 30, 3), True, None, (0, 0), (None, None, None), (0, 1)),
        ((20, 30, 4), True, 2, (0, 0), (None, None, 2), (0, 1)),
        ((50, 20, 30), False, None, (7, 1, 1), (7, None, None), (1, 2)),
        ((3, 20, 30), False, None, (2, 0, 0), (2, None, None), (1, 2)),
        ((3, 20, 30), False, 1, (2, 0, 0), (1, None, None), (1, 2)),
        ((20, 30, 5), False, None, (9, 9, 4), (None, None, 0), (0, 1)),
        ((9, 20, 30, 5), False, 4, (99, 0, 0, 0), (8, None, None, 4), (1, 2)),
    ],
)
def test_planes(shape, rgb, channel, step, index, axes):
    data = np.arange(np.prod(shape)).reshape(shape)
    plane = take_plane(data, layout_of(shape, rgb=rgb), step=step, channel=channel)
    assert plane.index == index
    assert plane.axes == axes
    assert np.array_equal(plane.image, data[tuple(slice(None) if i is None else i for i in index)])


def test_channel_choices():
    def numbers(shape, rgb=False):
        return [c for _, c in layout_of(shape, rgb=rgb).channel_choices()]

    assert numbers((9, 9, 3), rgb=True) == [None, 0, 1, 2]
    assert numbers((3, 90, 90)) == [None, 0, 1, 2]
    assert numbers((90, 90, 2)) == [0, 1]
    assert layout_of((50, 90, 90), rgb=False).channel_choices() == [("as shown", None)]
    assert layout_of((2, 90, 90), rgb=False).channel_choices(["DAPI", "actin"])[1:] == [
        ("DAPI", 0),
        ("actin", 1),
    ]
    with pytest.raises(UserError, match="two axes"):
        layout_of((4,), rgb=False)
    with pytest.raises(UserError, match="no channel 5"):
        take_plane(np.zeros((3, 40, 40)), layout_of((3, 40, 40), rgb=False), step=(0, 0, 0), channel=5)


@pytest.mark.parametrize(
    ("shape", "names", "channels", "unsure", "planes"),
    [
        ((5, 90, 90), (), None, 0, (0,)),
        ((5, 90, 90), ("axis -3", "axis -2", "axis -1"), None, 0, (0,)),
        ((5, 90, 90), ("c", "y", "x"), 0, None, ()),
        ((5, 90, 90), ("z", "y", "x"), None, None, (0,)),
        ((9, 90, 90), (), None, None, (0,)),
        ((7, 3, 90, 90), ("t", "channel", "y", "x"), 1, None, (0,)),
        ((90, 90, 3), ("y", "x", "c"), 2, None, ()),
        ((90, 90, 3), (), 2, None, ()),
        ((4, 90, 90, 3), ("z", "", "", ""), 3, None, (0,)),
    ],
)
def test_axes_are_what_the_layer_says_and_unsure_where_nothing_does(shape, names, channels, unsure, planes):
    layout = layout_of(shape, rgb=False, names=names)
    assert (layout.channels, layout.unsure, layout.plane_axes) == (channels, unsure, planes)
    assert (shape[layout.y], shape[layout.x]) == (90, 90)
    if unsure is not None:
        assert layout.told("channels").plane_axes == ()
        assert layout.told("planes").either is None


def test_rows_and_columns_must_come_last():
    with pytest.raises(UserError, match="must come last"):
        layout_of((90, 90, 30), rgb=False, names=("y", "x", "z"))


@pytest.mark.parametrize("names", [("c", "z", "y", "x"), ("z", "c", "y", "x"), ("z", "y", "x", "c")])
def test_stacks_of_a_channel_are_the_same_in_every_order(names):
    data = np.random.default_rng(0).integers(0, 255, (2, 6, 20, 30))  # c, z, y, x
    order = ["czyx".index(n) for n in names]
    moved = data.transpose(order)
    layout = layout_of(moved.shape, rgb=False, names=names)
    stack = take_stack(moved, layout, step=(0,) * 4, along=names.index("z"), channel=1)
    assert stack.picture.axes == "ZYX"
    assert np.array_equal(np.asarray(stack.picture.pixels), data[1])


def test_small_nuclei_are_looked_at_once_more_enlarged(nuclei_model):
    image, truth = synthetic_nuclei((520, 560), 260, diameter=13, seed=2)
    plain, adapted = (segment(image, model=nuclei_model, adapt=a) for a in (False, True))
    assert (plain.prediction.plan.scale, plain.prediction.notes) == (0.6, [])
    assert 0.8 < adapted.prediction.plan.scale <= 1.2
    assert "nuclei are small" in adapted.prediction.notes[0]
    hits = [len(match(truth, found.labels).hits(0.7)) for found in (plain, adapted)]
    assert hits[1] > hits[0]
    # in batches and in tiles the same
    together = segment_together([image, image[::-1]], nuclei_model, SegmentSettings())
    assert [t.prediction.plan.scale for t in together] == pytest.approx(
        [adapted.prediction.plan.scale] * 2, rel=0.05
    )
    tiled = segment(image, model=nuclei_model, tile=256)
    assert tiled.prediction.plan.scale == pytest.approx(adapted.prediction.plan.scale, rel=0.15)
    assert len(match(truth, tiled.labels).hits(0.7)) > hits[0]
    # what is kept for tuning besides changes nothing
    tunable = drain(segment_steps(image, nuclei_model, SegmentSettings(), tunable=True))
    assert tunable.prediction.plan.scale == adapted.prediction.plan.scale
    assert np.array_equal(tunable.labels, adapted.labels)
    # a person's word counts; nuclei of the usual size are looked at once
    assert segment(image, model=nuclei_model, diameter=28.4).prediction.plan.scale == pytest.approx(0.6)
    assert segment(FIELD[0], model=nuclei_model).prediction.notes == []


def test_large_nuclei_are_looked_at_once_more_reduced(nuclei_model):
    image, truth = synthetic_nuclei((1024, 1100), 14, diameter=190, seed=2)
    plain, adapted = (segment(image, model=nuclei_model, adapt=a) for a in (False, True))
    assert (plain.prediction.plan.scale, plain.prediction.notes) == (0.6, [])
    assert 0.1 < adapted.prediction.plan.scale < 0.3
    assert "nuclei are large: looked again at" in adapted.prediction.notes[0]
    hits = [len(match(truth, found.labels).hits(0.7)) for found in (plain, adapted)]
    assert hits[1] >= hits[0]
    tiled = segment(image, model=nuclei_model, tile=512)
    assert tiled.prediction.plan.scale < 0.4
    assert "nuclei are large" in tiled.prediction.notes[0]


@pytest.mark.parametrize("name", ["nuclei", "nuclei-small"])
def test_bundled_weights_find_nuclei_and_say_what_they_are(name):
    image, truth = synthetic_nuclei((512, 520), 120, diameter=28, seed=6)
    found = segment(image, weights=name, device="cpu")
    assert len(match(truth, found.labels).hits(0.5)) >= 0.93 * truth.max()
    scale = {"nuclei": 1.0, "nuclei-small": 0.6}[name]
    assert found.prediction.plan.scale == scale
    info = read_info(find(name))
    assert info.architecture.usual_scale((256, 300)) == pytest.approx(2 * scale, abs=0.01)
    assert info.score["dsb_score"] > 0.6
    assert found.settings.score == info.postprocess["score"]
    assert find(name).stat().st_size < 33e6
