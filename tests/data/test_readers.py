import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_deepretina.data import Subset, open_dataset
from napari_deepretina.data.files import decode_image, read_image
from napari_deepretina.data.joined import JoinedDataset
from napari_deepretina.data.split import random_split, read_split
from napari_deepretina.data.synthetic import SyntheticDataset
from napari_deepretina.errors import UserError


def encoded(array, kind="png"):
    buffer = io.BytesIO()
    if kind == "tif":
        tifffile.imwrite(buffer, array)
    else:
        Image.fromarray(array).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
    return buffer.getvalue()


def store(files, path):
    """Write {name: bytes} as a folder, or as a zip if the path says so."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


LABELS = np.array([[1, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 3]], np.uint8)
GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
KINDS = {
    "grey": GREY,
    "deep": GREY.astype(np.uint16) * 257,
    "rgb": np.stack([GREY, GREY // 2, GREY // 3], axis=-1),
    "rgba": np.stack([GREY, GREY // 2, GREY // 3, np.full_like(GREY, 255)], axis=-1),
}


@pytest.mark.parametrize("target", ["folder", "data.zip"])
def test_kaggle_layout(tmp_path, target):
    files = {}
    for name, image in KINDS.items():
        files[f"stage1_train/{name}/images/{name}.png"] = encoded(image)
        for i in (1, 2, 3):
            mask = (i == LABELS).astype(np.uint8) * 255
            files[f"stage1_train/{name}/masks/m{i}.png"] = encoded(mask)
    files["stage1_train/.DS_Store"] = b"junk"
    files["__MACOSX/rgb/images/rgb.png"] = b"junk"
    dataset, split = open_dataset(store(files, tmp_path / target))
    assert list(dataset.names) == sorted(KINDS)
    assert split is None
    for sample in (dataset[i] for i in range(len(dataset))):
        assert np.array_equal(sample.labels, LABELS)
        assert sample.labels.dtype == np.int32
        assert np.array_equal(
            sample.image, KINDS[sample.name][..., :3] if sample.image.ndim == 3 else KINDS[sample.name]
        )


@pytest.mark.parametrize("target", ["folder", "data.zip"])
def test_pairs_of_every_format(tmp_path, target):
    files = {
        "images/a.png": encoded(KINDS["rgb"]),
        "labels/a.tif": encoded(LABELS.astype(np.int32), "tif"),
        "images/b.tif": encoded(KINDS["deep"], "tif"),
        "labels/b.png": encoded(LABELS.astype(np.uint16)),
        "images/c.webp": encoded(KINDS["rgb"], "webp"),
        "labels/c.png": encoded(LABELS),
        "split.json": json.dumps({"train": ["a", "c"], "val": ["b"]}).encode(),
    }
    dataset, split = open_dataset(store(files, tmp_path / target))
    assert list(dataset.names) == ["a", "b", "c"]
    assert split is not None
    assert split.part("val") == ("b",)
    for i in range(3):
        assert np.array_equal(dataset[i].labels, LABELS)
    assert dataset[1].image.dtype == np.uint16
    assert np.array_equal(dataset[2].image, KINDS["rgb"])
    copy = pickle.loads(pickle.dumps(Subset(dataset, ["c"])))  # what a worker process gets
    assert np.array_equal(copy[0].labels, LABELS)


def test_pairs_without_partner_or_with_wrong_size_are_told(tmp_path):
    lonely = store(
        {"images/a.png": encoded(GREY), "images/b.png": encoded(GREY), "labels/a.png": encoded(LABELS)},
        tmp_path / "x",
    )
    with pytest.raises(UserError, match="'b' has no labels"):
        open_dataset(lonely)
    wrong = store({"images/a.png": encoded(GREY), "labels/a.png": encoded(LABELS[:2])}, tmp_path / "y")
    with pytest.raises(UserError, match="differ in size"):
        open_dataset(wrong)[0][0]
    coloured = store({"images/a.png": encoded(GREY), "labels/a.png": encoded(KINDS["rgb"])}, tmp_path / "z")
    with pytest.raises(UserError, match="one channel"):
        open_dataset(coloured)[0][0]


def test_places_without_annotations_are_told(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_dataset(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no annotated images"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UserError, match="neither a folder nor a zip"):
        open_dataset(tmp_path / "broken.zip")


def test_sixteen_bit_colour_keeps_its_depth():
    import imagecodecs

    deep = np.arange(36, dtype=np.uint16).reshape(3, 4, 3) * 1000
    assert np.array_equal(decode_image(imagecodecs.png_encode(deep), "x.png"), deep)


def test_palette_pictures_become_rgb(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(KINDS["rgb"]).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(path)
    assert np.array_equal(read_image(path), KINDS["rgb"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", b"", "cannot be read as an image"),
        ("a.tif", b"II*\x00rest", "cannot be read as an image"),
        ("a.png", encoded(GREY)[:45], "cannot be read as an image"),
        ("a.txt", b"words", "not an image format"),
    ],
)
def test_broken_images_are_told_by_name(name, content, says):
    with pytest.raises(UserError, match=f"{name}.*{says}"):
        decode_image(content, name)


def test_splits(tmp_path):
    path = tmp_path / "stage1_split.json"
    path.write_text('{"train": ["a", "b"], "val": ["c"]}')
    assert read_split(path).part("all") == ("a", "b", "c")
    data = store({"images/a.png": encoded(GREY), "labels/a.png": encoded(LABELS)}, tmp_path / "stage1_train")
    found = open_dataset(data)[1]
    assert found is not None
    assert found.val == ("c",)
    path.write_text('{"train": ["a"], "val": ["a"]}')
    with pytest.raises(UserError, match="in both parts"):
        read_split(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match="two lists"):
        read_split(path)
    with pytest.raises(UserError, match="no part"):
        random_split(["a", "b"]).part("test")
    with pytest.raises(UserError, match="no annotated images"):
        random_split([])
    names = [str(i) for i in range(40)]
    once, again = random_split(names), random_split(names)
    assert once == again
    assert len(once.val) == 4
    assert set(once.part("all")) == set(names)


def test_subsets_and_joins():
    one, two = SyntheticDataset(3, shape=(32, 32), count=2), SyntheticDataset(2, shape=(32, 32), seed=5)
    joined = JoinedDataset([one, two])
    assert len(joined) == 5
    assert joined[3].name == two.names[0]
    chosen = Subset(joined, [joined.names[4], joined.names[0]])
    assert chosen[1].name == joined.names[0]
    with pytest.raises(UserError, match="not in the data"):
        Subset(one, ["nobody"])
    twice = JoinedDataset([one, one])
    assert twice.names[3] == f"{one.names[0]}@2"
    assert np.array_equal(twice[3].image, one[0].image)


@pytest.mark.data
def test_real_data_in_both_layouts(stage1):
    kaggle, split = open_dataset(stage1 / "stage1_train.zip")
    pairs, inside = open_dataset(stage1 / "stage1_train_pairs.zip")
    assert len(kaggle) == len(pairs) == 664
    assert list(kaggle.names) == list(pairs.names)
    assert split is not None
    assert inside is not None
    assert split.train == inside.train
    assert (len(split.train), len(split.val)) == (596, 68)
    for i in (0, 300, 663):
        one, other = kaggle[i], pairs[i]
        assert np.array_equal(one.labels > 0, other.labels > 0)
        assert one.labels.max() == other.labels.max()
        image = one.image if one.image.ndim == 3 else np.repeat(one.image[..., None], 3, 2)
        assert np.array_equal(
            image, other.image if other.image.ndim == 3 else np.repeat(other.image[..., None], 3, 2)
        )
