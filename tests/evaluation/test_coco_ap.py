"""COCO's figures: equal to what pycocotools gives for the same files."""

import json

import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from napari_deepretina.cli import main
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation.coco_ap import FIELDS, coco_ap

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # of pycocotools' stats


def disc(y, x, radius, shape=(160, 200)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def annotation(mask, image, category, number, **more):
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0,
        "segmentation": {"size": packed["size"], "counts": packed["counts"].decode()},
        "bbox": coco_mask.toBbox(packed).tolist(), "area": int(coco_mask.area(packed)), **more,
    }  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Truth with small, middling and large objects of two categories, and predictions off in many ways."""
    rng = np.random.default_rng(3)
    true, guessed = [], []
    for image in (7, 9, 12):
        for k, (radius, y, x) in enumerate([(8, 20, 20), (12, 30, 80), (25, 110, 50), (55, 80, 140)]):
            category = 1 if k % 2 else 4
            true.append(annotation(disc(y, x, radius), image, category, len(true) + 1))
            if rng.random() < 0.9:
                moved = disc(y + rng.integers(-4, 5), x + rng.integers(-4, 5), radius + rng.integers(-2, 3))
                guessed.append(
                    annotation(moved, image, category, len(guessed) + 1, score=round(float(rng.random()), 3))
                )
        guessed.append(annotation(disc(140, 20, 6), image, 1, len(guessed) + 1, score=0.5))
    true.append(annotation(disc(140, 180, 15), 9, 1, len(true) + 1, iscrowd=1))
    images = [{"id": i, "file_name": f"{i}.png", "height": 160, "width": 200} for i in (7, 9, 12)]
    categories = [{"id": 1, "name": "cell"}, {"id": 4, "name": "debris"}]
    truth = {"images": images, "annotations": true, "categories": categories}
    predicted = {"images": images, "annotations": guessed, "categories": categories}
    for name, content in (("truth", truth), ("pred", predicted), ("results", guessed)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def by_pycocotools(folder):
    """Field by field, straight from the library."""
    known = COCO(str(folder / "truth.json"))
    found = known.loadRes(str(folder / "results.json"))
    figures = {}
    for kind, iou_type in (("boxes", "bbox"), ("masks", "segm")):
        evaluation = COCOeval(known, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        figures[kind] = dict(zip(ORDER, evaluation.stats[:6].tolist(), strict=True))
    return figures


@pytest.mark.parametrize("predictions", ["pred.json", "results.json"])
def test_figures_are_pycocotools_own(files, predictions, capsys):
    out = files / "score.json"
    command = ["evaluate", "--truth", str(files / "truth.json"), "--pred", str(files / predictions)]
    assert main([*command, "--coco", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    found = json.loads(out.read_text())
    expected = by_pycocotools(files)
    for kind, row in expected.items():
        assert set(row) == set(FIELDS)
        for name, value in row.items():
            assert found["coco"][kind][name] == pytest.approx(value, abs=1e-12), (kind, name)
        assert 0.05 < row["AP"] < 0.95
        assert row["APs"] != row["APl"]
    assert "boxes" in told
    assert "dsb_score" in found


def test_images_and_categories_are_matched_by_name(files):
    predicted = json.loads((files / "pred.json").read_text())
    truth = json.loads((files / "truth.json").read_text())
    expected = coco_ap(truth, predicted)
    number = {7: 1, 9: 2, 12: 3}
    for image in predicted["images"]:
        image["file_name"] = f"folder/{image['id']}.tif"
        image["id"] = number[image["id"]]
    for one in predicted["annotations"]:
        one["image_id"], one["category_id"] = number[one["image_id"]], {1: 2, 4: 1}[one["category_id"]]
    predicted["categories"] = [{"id": 2, "name": "cell"}, {"id": 1, "name": "debris"}]
    assert coco_ap(truth, predicted) == expected


def test_label_images_count_as_sure(tmp_path, capsys):
    labels = (disc(40, 40, 20) + 2 * disc(100, 120, 30)).astype(np.int32)
    for folder in ("t", "p"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", labels)
    command = ["evaluate", "--truth", str(tmp_path / "t"), "--pred", str(tmp_path / "p"), "--coco"]
    assert main([*command, "--json", str(tmp_path / "s.json")]) == 0
    figures = json.loads((tmp_path / "s.json").read_text())["coco"]
    assert figures["masks"]["AP"] == figures["boxes"]["AP50"] == pytest.approx(1)
    assert figures["masks"]["APs"] == -1  # there are no small ones
    capsys.readouterr()


def test_more_detections_than_coco_counts(tmp_path):
    masks = [disc(8 + 12 * (k // 12), 8 + 14 * (k % 12), 4) for k in range(140)]
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "height": 160, "width": 200}],
        "categories": [{"id": 1, "name": "nucleus"}],
        "annotations": [annotation(m, 1, 1, k + 1) for k, m in enumerate(masks)],
    }
    found = [{**a, "score": 0.9} for a in truth["annotations"]]
    assert coco_ap(truth, found)["masks"]["AP"] < 0.75
    assert coco_ap(truth, found, max_dets=1000)["masks"]["AP"] == pytest.approx(1)


def test_what_is_not_coco_is_told(files):
    truth = json.loads((files / "truth.json").read_text())
    with pytest.raises(UserError, match="no image name"):
        coco_ap(truth, {"images": [{"id": 1, "file_name": "x.png"}], "annotations": []})
    with pytest.raises(UserError, match="cannot be computed"):
        coco_ap(truth, [{"image_id": 7}])
    assert coco_ap(truth, [])["boxes"]["AP"] == 0
