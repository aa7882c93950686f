from dataclasses import replace

import numpy as np
import pytest

from napari_deepretina.data.sample import Sample
from napari_deepretina.data.synthetic import SyntheticDataset, synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.predict import Whole, predict, predict_together
from napari_deepretina.inference.segment import segment
from napari_deepretina.inference.steps import drain
from napari_deepretina.instances import RawInstances
from napari_deepretina.model.architecture import Architecture, Limits
from napari_deepretina.model.rescoring import Fellows, Rescoring, compared, evidence_of, fellows_of, learn
from napari_deepretina.model.weights import load_model, save_weights
from napari_deepretina.training.judge import describe
from napari_deepretina.training.recipe import load_recipe
from napari_deepretina.training.rescore import learn_rescoring


def detections(boxes, scores, masks):
    n = len(boxes)
    whole = RawInstances.empty((60, 80))
    return replace(
        whole, boxes=np.array(boxes, np.float32), scores=np.array(scores, np.float32), masks=masks,
        classes=np.ones(n, np.int32), views=np.zeros(n, np.int32), tiles=np.zeros(n, np.int32),
    )  # fmt: skip


def test_evidence_is_what_lies_in_mask_and_box():
    pixels = np.full((60, 80, 3), 0.1, np.float32)
    pixels[10:24, 20:48] = 0.7  # the upper half of the first box
    masks = np.zeros((2, 28, 28), np.uint8)
    masks[0, :14], masks[1] = 204, 255
    raw = detections([[20, 10, 48, 38], [60, 40, 90, 70]], [0.9, 0.5], masks)
    evidence = evidence_of(raw, pixels)
    assert evidence.dtype == np.float32
    assert evidence[0] == pytest.approx([np.log(0.9 / 0.1001), 0.8, np.log(14 * 28) / 2, 0.7, 0.6], abs=1e-3)
    # a box beyond the image's border reads the border; a mask without a rest has its whole brightness
    assert evidence[1] == pytest.approx([0, 1, np.log(30), 0.1, 0.1], abs=1e-3)
    assert evidence_of(raw[:0], pixels).shape == (0, 5)


def test_the_sure_ones_tell_what_nuclei_are_like():
    evidence = np.zeros((6, 5), np.float32)
    evidence[:, 0] = [3, 2, 1, 4, -2, -3]
    evidence[:, 2] = [1, 2, 3, 4, 90, 90]
    assert fellows_of(evidence).size == 2.5
    assert fellows_of(evidence[3:]).size == 90  # one is sure only: the three surest
    assert fellows_of(evidence[:0]) is None
    faint = compared(evidence, Fellows(2.0, 0.0, 0.001))
    assert np.isfinite(faint).all()


def a_rescoring():
    """Learnt where small things are debris, whatever the network says."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (4000, 5))
    hits = rng.random(4000) < 1 / (1 + np.exp(-6 * (inputs[:, 2] + 0.5)))
    return learn(inputs, hits, np.ones(4000)), inputs, hits


def test_what_is_learnt_is_a_probability_and_the_same_every_time():
    rescoring, inputs, hits = a_rescoring()
    assert rescoring == a_rescoring()[0]
    assert Rescoring.model_validate_json(rescoring.model_dump_json()) == rescoring
    scores = rescoring.scores(inputs.astype(np.float32), Fellows(0.0, 0.0, 1.0))
    near = (scores > 0.6) & (scores < 0.8)
    assert near.sum() > 50
    assert hits[near].mean() == pytest.approx(0.7, abs=0.1)
    assert ((scores > 0.5) == hits).mean() > 0.9
    assert len(rescoring.scores(np.zeros((0, 5), np.float32))) == 0


def test_rescored_weights_are_rescored_everywhere(nuclei_model, tmp_path):
    info = nuclei_model.info.model_copy(update={"rescoring": a_rescoring()[0]})
    save_weights(nuclei_model.network.state_dict(), info, tmp_path / "context.safetensors")
    model = load_model(tmp_path / "context.safetensors")
    assert model.info.rescoring == info.rescoring
    plain = replace(nuclei_model, info=info.model_copy(update={"rescoring": None}))
    image, _ = synthetic_nuclei((256, 300), 30, diameter=26, seed=5)
    before = drain(predict(plain, image, limits=Rescoring.limits(Limits())))
    after = drain(predict(model, image))
    assert np.array_equal(before.raw.boxes, after.raw.boxes)
    assert before.evidence is None
    assert np.array_equal(after.raw.scores, info.rescoring.scores(after.evidence))
    assert np.corrcoef(after.raw.scores, after.evidence[:, 2])[0, 1] > 0.5  # small ones are debris now
    both = drain(predict_together(model, [image, image], None, Limits()))
    assert np.allclose(both[1].raw.scores, after.raw.scores, atol=1e-3)
    # beside giants all of them are debris; for weights that do not rescore it makes no difference
    giants = Fellows(9.0, 0.5, 0.5)
    assert drain(predict(model, image, whole=Whole(fellows=giants))).raw.scores.max() < 0.2
    assert after.rescored(model, giants).raw.scores.max() < 0.2
    assert before.rescored(plain, giants) is before


def test_learning_from_images_tells_debris_by_its_fellows(nuclei_model):
    class Dusty:
        """Fields with specks a third of the nuclei's size that are no nuclei."""

        names = tuple("abcdef")

        def __len__(self):
            return 6

        def __getitem__(self, index):
            image, labels = synthetic_nuclei((300, 300), 24, diameter=30, seed=index)
            rng = np.random.default_rng(index)
            rows, columns = np.mgrid[:300, :300]
            for y, x in rng.integers(12, 288, (40, 2)):
                if not labels[max(0, y - 12) : y + 12, max(0, x - 12) : x + 12].any():
                    speck = (rows - y) ** 2 + (columns - x) ** 2 < 25
                    image[speck] = np.maximum(image[speck], 200)
            return Sample(str(index), image, labels)

    seen = []
    model = learn_rescoring(nuclei_model, Dusty(), seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
    sample = Dusty()[3]
    plain = replace(nuclei_model, info=nuclei_model.info.model_copy(update={"rescoring": None}))
    asked = {"score": 0.5, "min_area": 1, "adapt": False}
    dusty, clean = (segment(sample.image, model=m, **asked) for m in (plain, model))
    true = len(np.unique(sample.labels)) - 1
    assert dusty.count > true + 5
    assert abs(clean.count - true) <= 3
    other = nuclei_model.info.model_copy(
        update={"architecture": Architecture(backbone="matterport_resnet50")}
    )
    with pytest.raises(UserError, match="of Matterport's"):
        learn_rescoring(replace(nuclei_model, info=other), Dusty())
    with pytest.raises(UserError, match="too few to learn rescoring"):
        learn_rescoring(nuclei_model, SyntheticDataset(1, shape=(64, 64), count=3))


def test_training_that_begins_with_such_weights_keeps_their_rescoring(nuclei_model):
    recipe, data = load_recipe("fine-tune"), SyntheticDataset(1)
    told = describe(recipe, nuclei_model.network, nuclei_model.info, data)
    assert told.rescoring == nuclei_model.info.rescoring is not None
    assert describe(recipe, nuclei_model.network, None, data).rescoring is None
