import json

import numpy as np
import pytest
import torch
from PIL import Image

from napari_deepretina.data.augment import random_crop
from napari_deepretina.data.augmentation import DEEP_RETINA, Augmentation
from napari_deepretina.data.crops import CropStream, Decoded, target_of
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.kinds import kind_of
from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.sample import Sample, Subset
from napari_deepretina.data.samplers import balanced, round_of
from napari_deepretina.data.shapes import ShapesDataset
from napari_deepretina.data.synthetic import SyntheticDataset, synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.instances import Instances
from napari_deepretina.model.architecture import Architecture


class Sizes:
    """Images of given sizes with given numbers of one-pixel nuclei."""

    def __init__(self, sizes, counts):
        self._sizes, self._counts = sizes, counts
        self.names = [f"{id(self)}-{i}" for i in range(len(sizes))]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        labels = np.zeros(self._sizes[index], np.int32)
        labels.ravel()[: self._counts[index]] = np.arange(1, self._counts[index] + 1)
        return Sample(self.names[index], labels, labels)


class InMemory(list):
    """Samples as a data set."""


def dark_or_bright(bright):
    labels = np.zeros((8, 8), np.int32)
    labels[2:5, 2:5] = 1
    return Sample("one", np.where((labels > 0) == bright, 200, 20).astype(np.uint8), labels)


def test_kinds_of_images():
    stained, labels = synthetic_nuclei((64, 64), 5, diameter=12, kind="tissue", seed=0)
    assert kind_of(Sample("a", stained, labels)) == "stained tissue"
    grey = np.repeat(stained[..., :1], 3, axis=2)
    assert kind_of(Sample("a", grey, labels)) == "dark on bright"
    assert kind_of(Sample("a", 255 - grey, labels)) == "bright on dark"
    assert kind_of(Sample("a", grey, np.zeros_like(labels))) == "bright on dark"


def test_hues_turn_and_greys_stay():
    stained, labels = synthetic_nuclei((64, 64), 5, diameter=12, kind="tissue", seed=0)
    still = dict.fromkeys(
        ("rotation", "brightness", "contrast", "colour", "grey", "invert", "noise", "blur"), 0
    )
    settings = Augmentation(**still, gamma=1, scale=(1, 1), aspect=1, flips=False, hue=180)
    plain = settings.model_copy(update={"hue": 0.0})
    turned = 0
    for seed in range(8):
        (a, _), (b, _) = (
            random_crop(stained / np.float32(255), labels, 64, 1.0, s, np.random.default_rng(seed))
            for s in (settings, plain)
        )
        turned += not torch.equal(a, b)
        inside = (a > -0.49).all(0) & (a < 1.49).all(0)
        assert torch.allclose(a.sum(0)[inside], b.sum(0)[inside], atol=1e-4)
    assert 0 < turned < 8
    grey = np.repeat(stained[..., :1], 3, axis=2) / np.float32(255)
    views = [random_crop(grey, labels, 64, 1.0, s, np.random.default_rng(1))[0] for s in (settings, plain)]
    assert torch.equal(*views)


def test_copies_balance_groups_as_the_original_does():
    # 334 images of the commonest size, 16 of another: 334 // 16 copies of each of those
    assert balanced(["a"] * 334 + ["b"] * 16).tolist() == [1] * 334 + [20] * 16
    assert balanced([]).tolist() == []


def test_rounds():
    dataset = Sizes([(8, 8)] * 4 + [(8, 9)] * 2 + [(9, 9)], [1, 1, 1, 1, 2, 3, 0])
    assert round_of(dataset, "each").tolist() == list(range(7))
    assert np.bincount(round_of(dataset, "size")).tolist() == [1, 1, 1, 1, 2, 2, 4]
    assert np.bincount(round_of(dataset, "nuclei")).tolist() == [1, 1, 1, 1, 2, 2, 4]
    kinds = [dark_or_bright(True)] * 9 + [dark_or_bright(False)]
    assert np.bincount(round_of(InMemory(kinds), "kind")).tolist() == [1] * 9 + [3]
    joined = JoinedDataset([Sizes([(8, 8)] * 2, [1, 1]), Sizes([(8, 8)], [1])], [1, 3])
    assert np.bincount(round_of(joined, "each")).tolist() == [1, 1, 3]


def test_a_stream_goes_through_its_positions_once_a_round():
    dataset = SyntheticDataset(3, shape=(64, 64), count=3)
    seen = []

    class Watched(Decoded):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    stream = CropStream(
        Watched(dataset, Architecture(short_side=64)), size=64, augmentation=Augmentation(), seed=0,
        length=10, positions=np.array([0, 1, 1, 2, 2]),
    )  # fmt: skip
    for k in range(10):
        stream.crop(k)
    assert sorted(seen[:5]) == sorted(seen[5:]) == [0, 1, 1, 2, 2]


IMAGE, LABELS = synthetic_nuclei((150, 210), 25, diameter=22, seed=4)


def crop(seed, **values):
    settings = Augmentation(**{**DEEP_RETINA, "channel_shift": 0, **values})
    pixels = np.repeat(LABELS[..., None] > 0, 3, axis=2).astype(np.float32)
    return random_crop(pixels, LABELS, 128, 1.0, settings, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(6))
def test_the_originals_chain_moves_image_and_labels_together(seed):
    view, ids = crop(seed)
    inside = view[0].numpy() > 0.5
    assert (inside == (ids > 0)).mean() > 0.97
    assert len(np.unique(ids)) > 3


def test_the_originals_scale_and_corner():
    least = 128 / 150
    for seed in range(20):
        _, ids = crop(seed, rotation=0, flips=False, aspect=1, enlarge=least, zoom=1, corner="top-left")
        expected = LABELS[((np.arange(128) + 0.5) / least).astype(int)][
            :, ((np.arange(128) + 0.5) / least).astype(int)
        ]
        assert (ids == expected).mean() > 0.97
    corners = {
        crop(s, rotation=0, flips=False, aspect=1, enlarge=least, zoom=1)[1].tobytes() for s in range(9)
    }
    assert len(corners) > 3


def test_a_small_rotation_brings_in_zeros_not_the_neighbourhood():
    full = np.ones((300, 300), np.int32)
    settings = Augmentation(**{**DEEP_RETINA, "rotation": 45, "channel_shift": 0, "flips": False})
    holes = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        _, ids = random_crop(np.ones((300, 300, 3), np.float32), full, 128, 1, settings, rng)
        holes.append((ids == 0).mean())
    assert sum(h == 0 for h in holes) > 2
    assert sum(h > 0.01 for h in holes) > 2


def test_channels_shift_by_grey_levels_within_the_range():
    image = np.random.default_rng(0).uniform(0.2, 0.8, (128, 128, 3)).astype(np.float32)
    labels = np.zeros((128, 128), np.int32)
    still = {**DEEP_RETINA, "rotation": 0, "flips": False, "aspect": 1, "enlarge": 1, "zoom": 1}
    plain, _ = random_crop(
        image, labels, 128, 1, Augmentation(**{**still, "channel_shift": 0}), np.random.default_rng(1)
    )
    moved, _ = random_crop(image, labels, 128, 1, Augmentation(**still), np.random.default_rng(1))
    difference = (moved - plain).numpy()
    assert 0 < np.abs(difference).max() <= 15 / 255 + 1e-6
    assert moved.min() >= plain.min()
    assert moved.max() <= plain.max()


def test_pasted_nuclei_are_whole_new_and_keep_their_class():
    image, labels = synthetic_nuclei((128, 128), 6, diameter=20, kind="tissue")
    settings = Augmentation(paste=1.0, stain=0.2, scale=(1, 1), rotation=0)
    class_of = np.array([0, *([1, 2] * 10)])[: labels.max() + 1]
    copies = 0
    for seed in range(6):
        view, ids = random_crop(
            image / np.float32(255), labels, 128, 1.0, settings, np.random.default_rng(seed)
        )
        target = target_of(ids, class_of)
        copies += (ids > labels.max()).any()
        for label, kind in zip(target.ids.tolist(), target.classes.tolist(), strict=True):
            original = np.unique(ids[target.labels.numpy() == label])
            assert len(original) == 1
            assert class_of[original[0] % len(class_of)] == kind
        assert view.isfinite().all()
    assert copies >= 4


def test_toy_shapes_have_three_classes():
    dataset, _ = open_dataset("toy-shapes")
    assert dataset.class_names == ("circle", "square", "triangle")
    seen = set()
    for sample in (dataset[i] for i in range(10)):
        assert set(sample.classes) == set(np.unique(sample.labels[sample.labels > 0]).tolist())
        seen |= set(sample.classes.values())
    assert seen == {1, 2, 3}
    assert np.array_equal(dataset[3].image, ShapesDataset()[3].image)


def test_coco_files_are_learnt_from(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    images = []
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "images" / name)
        labels = np.zeros((20, 30), np.int32)
        labels[2:8, 3:9], labels[10:15, 10:20] = 1, 2
        found = Instances.from_labels(labels)
        object.__setattr__(found, "classes", np.array([1, 2], np.int32))
        images.append((name, found))
    write_coco(images, tmp_path / "i.json", ("cell", "debris"))
    dataset, _ = open_dataset(tmp_path / "i.json")
    assert list(dataset.names) == ["a", "b"]
    assert dataset.class_names == ("cell", "debris")
    assert dataset[1].classes == {1: 1, 2: 2}
    assert np.array_equal(dataset[0].labels > 0, labels > 0)
    assert Subset(dataset, ["b"]).class_names == dataset.class_names
    content = json.loads((tmp_path / "i.json").read_text())
    content["images"][0]["file_name"] = "gone.png"
    (tmp_path / "i.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"gone\.png"):
        open_dataset(tmp_path / "i.json")


def test_sets_with_other_classes_are_learnt_from_as_far_as_they_tell():
    joined = JoinedDataset([ShapesDataset(2), SyntheticDataset(2, shape=(64, 64), count=3)])
    assert joined.class_names == ("circle", "square", "triangle", "nucleus")
    shapes, nuclei = joined[0], joined[2]
    assert shapes.annotated == {1, 2, 3}
    assert nuclei.annotated == {4}
    assert set(nuclei.classes.values()) == {4}
    architecture = Architecture(short_side=64, classes=joined.class_names)
    stream = CropStream(Decoded(joined, architecture), size=64, augmentation=Augmentation(), seed=0, length=4)
    active = {tuple(stream.crop(k)[1].active.tolist()) for k in range(4)}
    assert active == {(True, True, True, True, False), (True, False, False, False, True)}
    assert JoinedDataset([ShapesDataset(2)])[0].annotated is None


def test_a_coco_folder_is_read_with_its_own_split(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train2017", 3), ("val2017", 2)):
        (tmp_path / part).mkdir()
        images = []
        for k in range(count):
            _, labels = synthetic_nuclei((48, 64), 4, diameter=14, seed=k)
            name = f"{part}-{k}.png"
            pixels = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name)
            images.append((name, Instances.from_labels(labels)))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        path = tmp_path / "annotations" / f"instances_{part}.json"
        write_coco(images, path, ("person", "dog"))
        content = json.loads(path.read_text())
        content["annotations"][0]["iscrowd"] = 1
        path.write_text(json.dumps(content))
    dataset, split = open_dataset(tmp_path)
    assert [len(split.train), len(split.val), len(dataset)] == [3, 2, 5]
    assert dataset.class_names == ("person", "dog")
    _, labels = synthetic_nuclei((48, 64), 4, diameter=14, seed=0)
    assert len(np.unique(dataset[0].labels)) == len(np.unique(labels)) - 1  # the crowd is left out
