"""No command and no export can write to an input, however its path is spelt."""

import ast
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_deepretina
from napari_deepretina.cli import main
from napari_deepretina.data.ours import made_here
from napari_deepretina.data.project import Project
from napari_deepretina.data.synthetic import SyntheticDataset, synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.export.coco import write_coco
from napari_deepretina.export.features import write_features
from napari_deepretina.export.rle_csv import write_rle_csv
from napari_deepretina.export.rois import write_rois
from napari_deepretina.export.tiff import write_image, write_labels, write_labels_zarr
from napari_deepretina.files import appended, moved, protected, remove, write_text, written_whole
from napari_deepretina.inference.sources import find_sources
from napari_deepretina.instances import Instances

IMAGE, LABELS = synthetic_nuclei((64, 72), 5, diameter=20, seed=3)
FOUND = Instances.from_labels(LABELS)


def state(folder):
    """Content of every file below a folder, and where every link points."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root, name)
            if path.is_symlink():
                found[str(path)] = os.readlink(path)
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def unchanged(before, folder):
    after = state(folder)
    return {k: after.get(k) for k in before} == before


# ---- one guard, and no way around it ----

DOOR = "files.py"
BY_MODULE = {
    "rename",
    "rmtree",
    "copyfile",
    "copy",
    "copy2",
    "copytree",
    "move",
    "replace",
    "remove",
    "unlink",
}
BY_PATH = {"write_text", "write_bytes", "unlink", "touch", "rmdir", "symlink_to", "rename"}
BESIDE = {"part", "whole", "rest"}
"""What files are called that are written beside their place, and renamed by the door."""


def writes_of(tree):
    """Calls in a module that change files without going through the door."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        words = [ast.unparse(a) for a in node.args]
        if owner in BESIDE:
            continue
        if owner in ("os", "shutil"):
            found = name in BY_MODULE and not BESIDE & set(words)
        elif name == "open":
            found = bool(words) and words[0][:1] in "'\"" and bool(set("wax+") & set(words[0]))
        else:
            found = name in BY_PATH
        if found:
            yield ast.unparse(node)


def test_nothing_is_written_but_through_the_door():
    package = Path(napari_deepretina.__file__).parent
    for module in package.rglob("*.py"):
        if module != package / DOOR:
            assert list(writes_of(ast.parse(module.read_text("utf-8")))) == [], module


def test_the_search_for_other_doors_finds_them():
    code = "os.replace(a, b)\nPath(x).write_text('')\nshutil.rmtree(y)\np.open('w')\np.unlink()"
    assert len(list(writes_of(ast.parse(code)))) == 5


# ---- and one for what is read ----

READING = {
    "intake.py": "the door",
    "data/files.py": "archives, and images that are decoded at once",
    "data/picture.py": "TIFF files, read part by part",
    "data/ome_zarr.py": "Zarr, read part by part",
    "data/ours.py": "asks only whether a file is one of ours; any fault is a no",
    "model/weights.py": "safetensors",
    "model/matterport/keras_shapes.py": "HDF5",
    "model/matterport/keras_weights.py": "HDF5",
    "model/published.py": "joins what was downloaded",
    "training/checkpoint.py": "checkpoints",
    "training/recipe.py": "recipes of the package; a person's come through the door",
    "training/watch.py": "events of a run that grow while they are read",
    "heap.py": "limits of a container",
    "_widgets/dock.py": "pages of the package",
    "_widgets/safe_import.py": "what is loaded into this process",
}
"""Modules that read for themselves, and what: each of them makes a UserError of every fault."""
READS = {"read_text", "read_bytes", "loads", "load", "ZipFile", "TiffFile", "safe_open", "open_array", "File"}
OWN = {"files", "store", "presets", "tomllib", "part"}


def reads_of(tree):
    """Calls in a module that read files, or make values of what they hold, without going through the door."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, ast.unparse(node.func.value)
            words = [ast.unparse(a) for a in node.args]
            reading = name == "open" and words and words[0][:2] in ("'r", '"r')
            writing = words[1:2] in (["'w'"], ['"w"'])
            if (reading or (name in READS and not writing)) and owner not in OWN:
                yield ast.unparse(node)


def test_nothing_is_read_but_through_the_door():
    package = Path(napari_deepretina.__file__).parent
    behind = {}
    for module in package.rglob("*.py"):
        if found := list(reads_of(ast.parse(module.read_text("utf-8")))):
            behind[module.relative_to(package).as_posix()] = found
    assert set(behind) == set(READING), {k: v for k, v in behind.items() if k not in READING}


def test_the_search_for_readers_finds_them():
    code = "p.read_text()\njson.loads(x)\nnp.load(f)\nh5py.File(p, 'r')\nq.open('rb')\nh5py.File(p, 'w')"
    assert len(list(reads_of(ast.parse(code)))) == 5


# ---- spellings ----


def plain(path):
    return path


def linked(path):
    link = path.parent.parent / "link" / path.name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(path)
    return link


def by_folder_link(path):
    link = path.parent.parent / "folder-link"
    link.symlink_to(path.parent)
    return link / path.name


def roundabout(path):
    return path.parent / ".." / path.parent.name / path.name


def relative(path):
    return Path(os.path.relpath(path))


def hard_linked(path):
    link = path.parent.parent / "hard" / path.name
    link.parent.mkdir(exist_ok=True)
    os.link(path, link)
    return link


SPELLINGS = [plain, linked, by_folder_link, roundabout, relative, hard_linked]

WRITERS = {
    "tif": lambda p: write_labels(LABELS, p),
    "tif from instances": lambda p: write_labels(FOUND, p),
    "tif with pixel size": lambda p: write_labels(LABELS, p, pixel_size=(0.5, 0.5)),
    "tif picture": lambda p: write_image(IMAGE, p),
    "png": lambda p: (
        write_image(IMAGE, p.with_suffix(".png")) if p.suffix == ".png" else write_image(IMAGE, p)
    ),
    "zarr": lambda p: write_labels_zarr(LABELS, p),
    "csv": lambda p: write_rle_csv([("a", FOUND)], p),
    "json": lambda p: write_coco([("a", FOUND)], p),
    "features": lambda p: write_features([("a", {"label": [1]})], p),
    "zip": lambda p: write_rois(FOUND, p),
    "text": lambda p: write_text(p, "x"),
    "line": lambda p: appended(p),
    "removal": remove,
    "rename": lambda p: moved(p.parent / "other", p),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_writer_reaches_an_input(tmp_path, writer, spelling):
    (tmp_path / "in").mkdir()
    image = tmp_path / "in" / "image.tif"
    tifffile.imwrite(image, IMAGE)
    target = spelling(image)
    before = state(tmp_path)
    with protected(image), pytest.raises(UserError, match="is an input"):
        writer(target)
    assert state(tmp_path) == before


def test_an_input_named_by_a_link_keeps_link_and_file(tmp_path):
    (tmp_path / "in").mkdir()
    image = tmp_path / "in" / "image.tif"
    image.write_bytes(b"pixels")
    link = linked(image)
    for target in (image, link):
        with protected(link), pytest.raises(UserError, match="is an input"):
            write_text(target, "x")
    assert link.is_symlink()
    assert image.read_bytes() == b"pixels"


def test_folders_that_hold_inputs_are_not_replaced(tmp_path):
    image = tmp_path / "a.zarr" / "deep" / "image.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"pixels")
    with protected(image):
        for folder in (tmp_path / "a.zarr", image.parent):
            with pytest.raises(UserError, match="holds inputs"):
                write_labels_zarr(LABELS, folder)
            with pytest.raises(UserError, match="holds inputs"):
                remove(folder)
        write_text(image.parent / "new.txt", "beside an input is fine")
    assert image.read_bytes() == b"pixels"
    write_text(image, "afterwards it is a file like any other")


def test_nothing_is_written_into_a_zarr_that_is_an_input(tmp_path):
    source = tmp_path / "s.zarr"
    write_labels_zarr(LABELS, source)
    before = state(tmp_path)
    with protected(source):
        for target in (source, source / "0", source / "new.csv", source / "a" / "b.csv"):
            with pytest.raises(UserError, match="input"):
                write_text(target, "x")
    assert state(tmp_path) == before


def test_protection_is_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("kept")
    with protected(path):
        with protected(path):
            pass
        with pytest.raises(UserError):
            write_text(path, "x")
    with written_whole(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


# ---- commands ----


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(2):
        tifffile.imwrite(folder / f"im{i}.tif", synthetic_nuclei((64, 72), 5, diameter=20, seed=i)[0])
    Image.fromarray(IMAGE).save(folder / "im2.png")
    return folder


@pytest.fixture
def small(tiny_weights):
    return ["--weights", str(tiny_weights), "--device", "cpu", "--score", "0.9"]


ALL = "labels,rle,coco,polygons,rois,features,overlay,zarr"
OUTS = {
    "same": lambda f: f,
    "with dots": lambda f: f / ".." / f.name,
    "by a link": lambda f: by_folder_link(f / "x").parent,
    "relative": lambda f: Path(os.path.relpath(f)),
}


@pytest.mark.parametrize("out", OUTS.values(), ids=OUTS)
def test_results_into_the_folder_of_the_images(images, small, out):
    before = state(images)
    command = ["segment", str(images), "--out", str(out(images)), "--format", ALL, *small]
    for more in ([], ["--resume"], ["--overwrite"]):
        assert main([*command, *more]) == 0
        assert unchanged(before, images)
    new = {p.name for p in images.iterdir()} - {"im0.tif", "im1.tif", "im2.png"}
    expected = {f"im{i}_nuclei.{s}" for i in range(3) for s in ("tif", "zip", "png", "zarr")}
    joint = {"submission.csv", "instances.json", "polygons.json", "features.csv", "summary.csv", "run.json"}
    assert new == expected | joint | {".napari-deepretina"}
    assert [s.name for s in find_sources([str(images)])] == ["im0", "im1", "im2"]


def test_results_beside_are_never_images_later(images, small, capsys):
    assert main(["segment", str(images), "--beside", "--format", "labels,overlay,rois,zarr", *small]) == 0
    every = sorted(str(p) for p in images.glob("*") if p.suffix in (".tif", ".png", ".zip", ".zarr"))
    notes = []
    found = find_sources(every, notes=notes)
    assert [s.name for s in found] == ["im0", "im1", "im2"]
    assert sum("its ROIs were written" in note for note in notes) == 3
    assert "9 files written by an earlier run left out" in notes[-1]
    with pytest.raises(UserError, match="written by an earlier run"):
        find_sources([str(images / "im0_nuclei.tif")])
    # an image of a person's that only looks so is one
    tifffile.imwrite(images / "im9_nuclei.tif", IMAGE)
    assert not made_here(images / "im9_nuclei.tif")
    assert "im9_nuclei" in [s.name for s in find_sources([str(images)])]


def test_a_persons_file_with_the_name_of_a_result_stays(images, small, capsys):
    tifffile.imwrite(images / "im0_nuclei.tif", LABELS)
    Path(images / "other").mkdir()
    shutil.move(images / "im0_nuclei.tif", images / "other" / "im0.tif")
    before = state(images)
    for mode in (["--resume"], ["--overwrite"]):
        assert main(["segment", str(images), "--out", str(images / "other"), *mode, *small]) == 2
        assert "was not written by an earlier run" in capsys.readouterr().err
        assert unchanged(before, images)
    assert (images / "other" / "im1.tif").exists()  # the others are done
    assert main(["segment", str(images), "--out", str(images / "other"), *small]) == 2


@pytest.mark.parametrize("name", ["summary.csv", "run.json", "submission.csv"])
def test_joint_files_of_a_person_stay(images, tmp_path, small, name, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    for mode in ([], ["--resume"], ["--overwrite"]):
        command = ["segment", str(images), "--out", str(out), "--format", "labels,rle", *mode, *small]
        assert main(command) == 2
        assert "was not written by an earlier run" in capsys.readouterr().err
    assert (out / name).read_text() == "mine"
    assert not (out / "im0.tif").exists()


def test_a_run_is_not_replayed_over_itself(images, tmp_path, small, capsys):
    out = tmp_path / "out"
    assert main(["segment", str(images), "--out", str(out), *small]) == 0
    told = (out / "run.json").read_text()
    for mode in (["--overwrite"], ["--resume"]):
        assert main(["segment", "--replay", str(out / "run.json"), "--out", str(out), *mode, *small]) == 2
        assert "is an input" in capsys.readouterr().err
    assert (out / "run.json").read_text() == told


def test_a_zarr_is_not_replaced_by_its_labels(tmp_path, small):
    source = tmp_path / "s.zarr"
    write_labels_zarr(IMAGE.astype(np.int32), source)
    told = json.loads((source / "zarr.json").read_text())
    del told["attributes"]["ome"]["image-label"]
    (source / "zarr.json").write_text(json.dumps(told))
    before = state(source)
    command = ["segment", str(source), "--format", "zarr,labels", "--overwrite", *small]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert main([*command, "--beside"]) == 0
    assert (tmp_path / "s_nuclei.zarr").is_dir()
    assert main([*command, "--out", str(source)]) == 2
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "s.zarr").symlink_to(source)
    assert main([*command, "--out", str(tmp_path / "links")]) == 2
    assert state(source) == before


def test_archives_stay(images, tmp_path, small):
    archive = Path(shutil.make_archive(str(tmp_path / "im0_rois"), "zip", images))
    link = tmp_path / "out" / "im0_rois.zip"
    link.parent.mkdir()
    link.symlink_to(archive)
    before = state(tmp_path)
    command = ["segment", str(archive), "--out", str(link.parent), "--format", "rois", "--overwrite", *small]
    assert main(command) == 2
    assert unchanged(before, tmp_path)


def pairs(folder, count=3):
    for sub in ("images", "labels"):
        (folder / sub).mkdir(parents=True)
    for sample in (SyntheticDataset(count, shape=(64, 64), count=4)[i] for i in range(count)):
        tifffile.imwrite(folder / "images" / f"{sample.name}.tif", sample.image)
        tifffile.imwrite(folder / "labels" / f"{sample.name}.tif", sample.labels)
    return folder


def test_labels_of_a_person_are_not_replaced(tmp_path, small, capsys):
    """Results into the folder of the truth."""
    data = pairs(tmp_path / "set")
    before = state(data)
    for mode in ([], ["--resume"], ["--overwrite"]):
        for out in (data / "labels", data / "images"):
            main(["segment", str(data), "--out", str(out), *mode, *small])
            assert unchanged(before, data)


OTHERS = {
    "evaluate over the truth": lambda d, p: [
        "evaluate", "--truth", d / "labels", "--pred", d / "labels",
        "--json", p(d / "labels" / "synthetic-0-0000.tif"),
    ],
    "train over its recipe": lambda d, p: ["train", d / "recipe.toml", "--data", d, "--out", d],
    "train over its data": lambda d, p: ["train", "fine-tune", "--data", d, "--out", d / "images"],
    "inspect over its image": lambda d, p: ["inspect", p(d / "steps.png"), "--out", d],
    "import over its source": lambda d, p: [
        "weights", "import", d / "k.safetensors", p(d / "k.safetensors"), "--overwrite"
    ],
    "export over its source": lambda d, p: ["weights", "export", d / "k.h5", p(d / "k.h5"), "--overwrite"],
}  # fmt: skip


@pytest.mark.parametrize("command", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("spelling", [plain, linked, hard_linked])
def test_no_other_command_writes_to_an_input(tmp_path, command, spelling, tiny_weights, capsys):
    data = pairs(tmp_path / "set")
    package = Path(napari_deepretina.__file__).parent
    shutil.copy(package / "training" / "recipes" / "fine-tune.toml", data / "recipe.toml")
    shutil.copy(data / "recipe.toml", data / "images" / "recipe.toml")
    Image.fromarray(IMAGE).save(data / "steps.png")
    shutil.copy(tiny_weights, data / "k.h5")
    shutil.copy(tiny_weights, data / "k.safetensors")
    words = [*map(str, command(data, spelling))]
    before = state(tmp_path)
    assert main(words) == 2
    assert unchanged(before, tmp_path)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_training_samples_do_not_replace_the_image_they_come_from(tmp_path):
    project = Project(tmp_path)
    name = project.add("a", IMAGE, LABELS)
    with protected(tmp_path / "images" / f"{name}.tif"), pytest.raises(UserError, match="is an input"):
        project.add("a", IMAGE[:40], LABELS[:40], replace=name)
    assert tifffile.imread(tmp_path / "images" / f"{name}.tif").shape == IMAGE.shape
