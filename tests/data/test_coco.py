"""COCO as COCO is: nested objects, crowds, gaps in the ids, the years and their parts, and its own scores."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from napari_deepretina.cli import main
from napari_deepretina.data.augmentation import Augmentation
from napari_deepretina.data.coco_dataset import CocoDataset
from napari_deepretina.data.coco_truth import coco_truth
from napari_deepretina.data.crops import CropStream, Decoded, target_of
from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.sample import Sample
from napari_deepretina.evaluation.coco_ap import ap_by_class, coco_ap
from napari_deepretina.export.coco import coco_content
from napari_deepretina.instances import Instances, RawInstances
from napari_deepretina.model.architecture import Architecture
from napari_deepretina.model.header import WeightsInfo
from napari_deepretina.model.network import build
from napari_deepretina.model.targets import mask_targets
from napari_deepretina.model.weights import save_weights
from napari_deepretina.postprocess import PostprocessSettings, postprocess

CATEGORIES = [{"id": 3, "name": "person"}, {"id": 17, "name": "car"}]
STILL = Augmentation(
    scale=(1, 1), aspect=1, rotation=0, flips=False, gamma=1, brightness=0, contrast=0, colour=0, grey=0,
    invert=0, noise=0, blur=0, centred=0,
)  # fmt: skip


def rectangle(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(number, image, category, box, crowd=0):
    x0, y0, x1, y1 = box
    shape = rectangle(*box)
    if crowd:
        mask = np.zeros((64, 96), bool)
        mask[y0:y1, x0:x1] = True
        counts = coco_content([("", Instances.from_labels(mask.astype(np.int32)))])["annotations"][0]
        shape = counts["segmentation"]
    return {
        "id": number, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": crowd,
        "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
    }  # fmt: skip


def triangle(number, image):
    """A person with slanted sides, whose area and box are what the file says."""
    shape = [[52.3, 60.8, 58.9, 30.2, 61.4, 61.1]]
    return {
        "id": number, "image_id": image, "category_id": 3, "segmentation": shape, "iscrowd": 0,
        "bbox": [52.3, 30.2, 9.1, 30.9], "area": 132.7,
    }  # fmt: skip


def write_part(root, part, images, folder=None, first=1, *, slanted=False):
    """A part of COCO's layout: images with a car wholly inside a person, and a crowd."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / (folder or part)).mkdir(exist_ok=True)
    rng = np.random.default_rng(len(part))
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    for k in range(images):
        number = first + 7 * k  # gaps
        name = f"COCO_{part}_{number:012d}.png"
        pixels = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        pixels[8:56, 10:50] += 100
        Image.fromarray(pixels).save(root / (folder or part) / name)
        content["images"].append({"id": number, "file_name": name, "height": 64, "width": 96})
        content["annotations"] += [
            annotation(10 * number + 1, number, 3, (10, 8, 50, 56)),
            annotation(10 * number + 2, number, 17, (20, 20, 40, 40)),
            annotation(10 * number + 3, number, 3, (62, 10, 90, 50), crowd=1),
        ]
        content["annotations"] += [triangle(10 * number + 4, number)] if slanted else []
    (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return content


def test_nested_objects_stay_whole_and_crowds_stand_apart(tmp_path):
    write_part(tmp_path, "val2017", 1)
    dataset = CocoDataset(tmp_path / "annotations" / "instances_val2017.json")
    assert dataset.class_names == ("person", "car")
    sample = dataset[0]
    assert sample.stack.shape == (2, 64, 96)
    areas = {sample.class_of(i): int((sample.stack == i).sum()) for i in (1, 2)}
    assert areas == {1: 40 * 48, 2: 20 * 20}
    assert (sample.crowds > 0).sum() == 28 * 40
    architecture = Architecture(short_side=64, classes=dataset.class_names)
    stream = CropStream(Decoded(dataset, architecture), size=64, augmentation=STILL, seed=0, length=8)
    targets = [stream.crop(k)[1] for k in range(8)]
    nested = [t for t in targets if len(t.boxes) == 2]
    assert nested
    for target in nested:
        person, car = (int(torch.nonzero(target.classes == c)[0]) for c in (1, 2))
        boxes = target.boxes[[person, person]]
        ids = target.ids[[person, car]]
        whole, inside = mask_targets(target.labels, ids, boxes, 28)
        assert whole.min() == 1  # the person, car included
        assert 0.1 < float(inside.mean()) < 0.5
    crowded = [t for t in targets if len(t.crowds)]
    assert crowded
    assert all(((t.crowds >= 0) & (t.crowds <= 64)).all() for t in crowded)


def test_nothing_in_a_crowd_is_learnt_as_background(tiny_architecture):
    network = build(tiny_architecture, seed=0).train()
    labels = np.zeros((64, 64), np.int32)
    labels[4:20, 4:20] = 1
    crowds = np.zeros((64, 64), np.int32)
    crowds[30:62, 30:62] = 1
    targets = [target_of(labels), target_of(labels, crowds=crowds)]
    box = targets[1].crowds[0]
    drawn = []
    original = network.proposals.fg_bg_sampler

    class Watched:
        chances = ()

        def __call__(self, seen):
            original.chances = self.chances
            drawn.append(original(seen)[1])
            return original(seen)

    network.proposals.fg_bg_sampler = Watched()
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    network(images, targets)
    features, batch = network._features(images)
    anchors = network.proposals.anchor_generator(batch, list(features.values()))
    inside = []
    for negatives, ours in zip(drawn[0], anchors, strict=True):
        chosen = ours[negatives.bool()]
        centre = (chosen[:, :2] + chosen[:, 2:]) / 2
        inside.append(int(((centre > box[:2]) & (centre < box[2:])).all(dim=1).sum()))
    assert inside[0] > 20
    assert inside[1] == 0
    regions = [torch.tensor([[32.0, 32, 60, 60], [0, 40, 20, 60]])] * 2
    chances = [t.chance() for t in targets]
    network.set_sampling(8, 0.5)
    counts = [len(r) for r in network.regions._sample(regions, targets, chances)[0]]
    assert counts == [3, 2]


@pytest.mark.parametrize("years", ["2017", "2014", "both", "minival"])
def test_coco_folders_of_both_years(tmp_path, years):
    if years in ("2014", "both", "minival"):
        write_part(tmp_path, "train2014", 3)
        write_part(tmp_path, "val2014", 3, first=100)
    if years == "minival":
        write_part(tmp_path, "minival2014", 1, folder="val2014", first=200)
        write_part(tmp_path, "valminusminival2014", 2, folder="val2014", first=300)
    if years in ("2017", "both"):
        write_part(tmp_path, "train2017", 4)
        write_part(tmp_path, "val2017", 2, first=100)
    dataset, split = open_dataset(tmp_path)
    expected = {"2017": (4, 2), "2014": (3, 3), "both": (4, 2), "minival": (5, 1)}[years]
    assert (len(split.train), len(split.val)) == expected
    newest = "2014" if years in ("2014", "minival") else "2017"
    assert all(newest in name for name in dataset.names)
    assert [dataset[i].labels.max() for i in range(len(dataset))] == [2] * sum(expected)


def guesses(rng, instances, classes):
    """Detections near some objects, with scores, some wrong, some of another class."""
    found = []
    for k in range(len(instances)):
        x0, y0, x1, y1 = instances.boxes[k].tolist()
        dx, dy = rng.integers(-3, 4, 2).tolist()
        box = (max(0, x0 + dx), max(0, y0 + dy), min(96, x1 + dx), min(64, y1 + dy))
        label = int(classes[k]) if rng.random() < 0.8 else int(rng.integers(1, 3))
        found.append((box, label, float(rng.random())))
    found.append(((1, 1, 9, 9), 1, float(rng.random())))
    found.append(((63, 12, 85, 44), 1, float(rng.random())))  # in the crowd
    found.append(((63, 12, 85, 44), 2, float(rng.random())))  # which is not one of cars
    found.append(((52, 30, 61, 61), 1, float(rng.random())))
    return found


def as_instances(found):
    boxes = np.array([f[0] for f in found], np.int64)
    masks = tuple(np.ones((b[3] - b[1], b[2] - b[0]), bool) for b in boxes.tolist())
    scores = np.array([f[2] for f in found], np.float32)
    return Instances(boxes, masks, scores, np.array([f[1] for f in found], np.int32), (64, 96))


def test_ap_in_all_and_by_class_is_pycocotools(tmp_path):
    content = write_part(tmp_path, "val2017", 6, slanted=True)
    dataset = CocoDataset(tmp_path / "annotations" / "instances_val2017.json")
    rng = np.random.default_rng(0)
    found = []
    for k in range(6):
        whole = dataset[k]
        truth = Instances.from_labels(whole.stack[0]), Instances.from_labels(whole.stack[1])
        objects = [i[j : j + 1] for i in truth for j in range(len(i))]
        boxes = Instances(
            np.concatenate([o.boxes for o in objects]), tuple(m for o in objects for m in o.masks),
            np.ones(3, np.float32), np.ones(3, np.int32), (64, 96),
        )  # fmt: skip
        found.append(as_instances(guesses(rng, boxes, (1, 1, 2))))
    ours = coco_content((("", i) for i in found), dataset.class_names)["annotations"]
    names = [i["file_name"].removesuffix(".png") for i in content["images"]]
    theirs = [
        {
            "image_id": content["images"][names.index(dataset.names[a["image_id"] - 1])]["id"],
            "category_id": CATEGORIES[a["category_id"] - 1]["id"],
            **{k: a[k] for k in ("segmentation", "bbox", "score")},
        }
        for a in ours
    ]
    known = COCO()
    known.dataset = content
    known.createIndex()
    truth = coco_truth(dataset, range(6), dataset.class_names)
    figures, classes = coco_ap(truth, ours), ap_by_class(truth, ours)
    for kind, iou_type in (("boxes", "bbox"), ("masks", "segm")):
        evaluation = COCOeval(known, known.loadRes([dict(a) for a in theirs]), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        told = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats[:6], strict=True))
        assert figures[kind] == pytest.approx(told)
        for place, category in enumerate(CATEGORIES):
            precision = evaluation.eval["precision"][:, :, place, 0, -1]
            assert classes[category["name"]][kind] == pytest.approx(precision[precision > -1].mean())
    assert 0.05 < figures["masks"]["AP"] < 0.95


def test_classes_do_not_compete():
    boxes = np.array([[10, 10, 40, 40], [10, 10, 40, 40], [11, 10, 41, 40]], np.float32)
    raw = RawInstances(
        boxes, np.array([0.9, 0.8, 0.7], np.float32), np.full((3, 28, 28), 255, np.uint8),
        np.array([1, 2, 1], np.int32), np.zeros(3, np.int32), np.zeros(3, np.int32), (64, 64),
    )  # fmt: skip
    found = postprocess(raw, PostprocessSettings(score=0.5, nms=0.3))
    assert found.classes.tolist() == [1, 2]
    assert found.areas.tolist() == [900, 900]
    written = coco_content([("a.png", found)], ("person", "car"))["annotations"]
    assert [a["area"] for a in written] == [900, 900]


@pytest.fixture
def shapes_weights(tmp_path, tiny_architecture):
    architecture = tiny_architecture.model_copy(update={"classes": ("person", "car")})
    save_weights(
        build(architecture, seed=0).state_dict(),
        WeightsInfo(name="t", architecture=architecture, diameter=20),
        tmp_path / "two.safetensors",
    )
    return tmp_path / "two.safetensors"


def test_weights_are_evaluated_from_the_command_line(tmp_path, capsys, shapes_weights, tiny_weights):
    write_part(tmp_path / "coco", "train2017", 1)
    write_part(tmp_path / "coco", "val2017", 3, first=50)
    common = ["evaluate", "--data", str(tmp_path / "coco"), "--device", "cpu"]
    out = tmp_path / "f.json"
    assert main([*common, "--weights", str(shapes_weights), "--limit", "2", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert "2 images" in told
    assert all(word in told for word in ("boxes", "masks", "AP50", "person", "car"))
    figures = json.loads(out.read_text())
    assert set(figures["by_class"]) == {"person", "car"}
    assert main([*common, "--weights", str(tiny_weights)]) == 2
    assert "tell nucleus apart, the data person, car" in capsys.readouterr().err
    assert main(["evaluate", "--data", "x"]) == 2
    assert "give --data and --weights together" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    assert "--truth and --pred" in capsys.readouterr().err


def test_training_shows_images_at_the_scale_of_inference():
    from napari_deepretina.inference.plan import make_plan

    for resize, shape in (("square", (600, 1000)), ("square", (300, 2000)), ("pad64", (300, 500))):
        architecture = Architecture(
            backbone="matterport_resnet50", short_side=800, long_side=1024, resize=resize
        )
        assert architecture.usual_scale(shape) == make_plan(shape, architecture, trained_diameter=32).scale


def test_decoded_images_stay_within_their_bound():
    class Many:
        names = tuple(map(str, range(40)))
        read = 0

        def __len__(self):
            return 40

        def __getitem__(self, index):
            self.read += 1
            labels = np.zeros((100, 100), np.int32)
            labels[10:20, 10:20] = 1
            return Sample(str(index), np.full((100, 100), index, np.uint8), labels)

    one = 100 * 100 * (3 * 2 + 4)
    many = Many()
    images = Decoded(many, Architecture(short_side=64), cache_gb=5.5 * one / 1e9)
    for k in range(40):
        _ = images[k]
    assert many.read == 40
    assert sum(t.nbytes for t in images._kept.values()) == 5 * one
    for k in range(35, 40):
        _ = images[k]
    assert many.read == 40
    _ = images[0]
    assert many.read == 41
