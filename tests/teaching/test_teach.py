"""Heads that learn from corrections: what they learn, keep, forget and refuse."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import napari_deepretina
from napari_deepretina.data.project import CORRECTIONS, Project
from napari_deepretina.errors import UserError
from napari_deepretina.evaluation import match
from napari_deepretina.inference.segment import segment
from napari_deepretina.inference.settings import SegmentSettings
from napari_deepretina.inference.steps import drain
from napari_deepretina.model.difference import save_difference
from napari_deepretina.model.weights import available, load_model, read_info, save_weights
from napari_deepretina.teaching import teach as teaching
from napari_deepretina.teaching.corrections import Corrections
from napari_deepretina.teaching.lesson import GROUND, MOST, NEAR, RIGHT, WRONG, lesson_of
from napari_deepretina.teaching.memory import keep, memory_of, recall
from napari_deepretina.teaching.session import base_of, remembered_of, target_of, teacher_of, write
from napari_deepretina.teaching.teach import Teacher
from napari_deepretina.teaching.told import Told, told_of
from napari_deepretina.training.run import split_data


def state_of(model):
    return model.network.state_dict()


def test_what_was_corrected_is_found_then(taught):
    """Of what it learnt from, and of what it did not, the taught network finds more."""
    assert taught.lessons.helped
    again = segment(taught.image, model=taught.lessons.model)
    before, after = (match(taught.truth, found.labels).counts(0.5) for found in (taught.found, again))
    assert after[0] > before[0]
    unseen = np.where(taught.truth > 12, taught.truth, 0)
    assert match(unseen, again.labels).counts(0.5)[0] >= match(unseen, taught.found.labels).counts(0.5)[0]


def test_the_same_corrections_teach_the_same(taught, nuclei_model):
    again = drain(Teacher(nuclei_model).teach([taught.material], taught.settings))
    assert again.differences.keys() == taught.lessons.differences.keys()
    for name, value in again.differences.items():
        assert value.equal(taught.lessons.differences[name])
    assert again.model.info == taught.lessons.model.info


def test_backbone_and_pyramid_stay_and_the_base_is_untouched(taught):
    fresh = load_model("nuclei-small")
    before, after = state_of(fresh), state_of(taught.lessons.model)
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    assert changed
    assert all(name.startswith(("proposals.head.", "regions.")) for name in changed)
    assert all(value.equal(before[name]) for name, value in state_of(taught.teacher.base).items())
    assert {"proposals", "regions"} == {name.split(".")[0] for name in changed}
    assert any("mask" in name for name in changed)


def test_it_does_not_go_far(taught):
    """Half way to where a hundred and fifty small steps lead: outlines and scores cannot be thrown over."""
    before = state_of(taught.teacher.base)
    for name, difference in taught.lessons.differences.items():
        if difference.ndim > 1:
            assert difference.norm() < 0.3 * before[name].norm(), name


def test_the_file_is_the_network(taught, tmp_path):
    path = write(taught.lessons, taught.teacher, tmp_path / "mine.safetensors")
    loaded = load_model(path)
    for name, value in state_of(taught.lessons.model).items():
        assert value.equal(state_of(loaded)[name]), name
    assert loaded.info.name == "mine"
    assert loaded.info.rescoring == taught.lessons.model.info.rescoring
    assert loaded.info.taught.base == "nuclei-small"
    assert (loaded.info.taught.corrections, loaded.info.taught.images) == (13, 1)
    assert path.stat().st_size < available()["nuclei-small"].stat().st_size / 2
    again = segment(taught.image, model=loaded)
    assert np.array_equal(again.labels, segment(taught.image, model=taught.lessons.model).labels)


def test_a_name_puts_it_into_the_list(taught):
    path = write(taught.lessons, taught.teacher, target_of("pale tissue"))
    try:
        assert available()["pale tissue"] == path
        assert napari_deepretina.segment(taught.image, weights="pale tissue").count > 0
        with pytest.raises(UserError, match="is there already"):
            target_of("pale tissue")
        assert target_of("pale tissue", overwrite=True) == path
    finally:
        path.unlink()


def test_weights_that_were_not_taught_are_never_replaced(tiny_weights, tmp_path):
    other = tmp_path / "mine.safetensors"
    other.write_bytes(tiny_weights.read_bytes())
    with pytest.raises(UserError, match="is there already"):
        target_of(other, overwrite=True)
    with pytest.raises(UserError, match="no name"):
        target_of("a/b")


def test_another_base_is_refused(taught, tmp_path):
    path = write(taught.lessons, taught.teacher, tmp_path / "mine.safetensors")
    told = read_info(path).taught
    wrong = taught.lessons.model.info.model_copy(
        update={"taught": told.model_copy(update={"sha256": "0" * 64})}
    )
    save_difference(taught.lessons.differences, wrong, path)
    with pytest.raises(UserError, match=r"taught on weights .nuclei-small. .* not at hand"):
        load_model(path)
    lost = {**taught.lessons.differences, "regions.box_head.fc6.weight": torch.zeros(3)}
    save_difference(lost, taught.lessons.model.info, path)
    with pytest.raises(UserError, match="does not fit"):
        load_model(path)


def test_a_whole_network_is_no_difference(taught, tmp_path):
    """As after training that began with taught weights."""
    model = taught.lessons.model
    save_weights(model.network.state_dict(), model.info, tmp_path / "whole.safetensors")
    loaded = load_model(tmp_path / "whole.safetensors")
    assert loaded.info.taught is None
    name = "regions.box_head.fc7.weight"
    assert torch.allclose(state_of(loaded)[name], state_of(model)[name], atol=1e-3)


def test_a_base_beside_the_file_will_do(taught, tmp_path, monkeypatch):
    """So that the two can be given to somebody whose program knows neither."""
    path = write(taught.lessons, taught.teacher, tmp_path / "mine.safetensors")
    (tmp_path / "nuclei-small.safetensors").write_bytes(available()["nuclei-small"].read_bytes())
    monkeypatch.setattr("napari_deepretina.model.weights.BUNDLED", tmp_path / "nowhere")
    assert load_model(path).info.name == "mine"


def test_teaching_goes_on_from_a_file(taught, tmp_path):
    path = write(taught.lessons, taught.teacher, tmp_path / "mine.safetensors")
    base = base_of(path, taught.image, SegmentSettings())
    teacher, earlier = teacher_of(base, "cpu", "float32"), list(remembered_of(path))
    assert teacher.base.info.name == "nuclei-small"
    (known,) = earlier
    assert known.key == taught.material.key
    assert known.corrections.right.tolist() == taught.corrections.right.tolist()
    assert np.array_equal(known.corrections.labels, taught.corrections.labels)
    seen, before = known.reading(known.image), taught.material.reading(taught.image)
    assert np.abs(seen - before).max() < 1e-4
    again = drain(teacher.teach(earlier, taught.settings))
    assert again.corrections == len(taught.corrections)


def test_what_is_remembered_is_a_data_set_for_training(taught, tmp_path):
    keep(taught.teacher.parts, tmp_path / "kept")
    assert Project(tmp_path / "kept").samples()["001"]["nuclei"] == 12
    train, _ = split_data([str(tmp_path / "kept")])
    assert not train[0].complete
    assert list(recall(tmp_path / "nothing")) == []


def test_what_is_remembered_may_be_damaged(taught, tmp_path):
    keep(taught.teacher.parts, tmp_path / "kept")
    told = json.loads((tmp_path / "kept" / CORRECTIONS).read_text())
    told["samples"]["001"]["right"] += [999]
    (tmp_path / "kept" / CORRECTIONS).write_text(json.dumps(told))
    (known,) = recall(tmp_path / "kept")
    assert known.corrections.right.tolist() == taught.corrections.right.tolist()
    told["samples"]["001"]["scale"] = -1
    (tmp_path / "kept" / CORRECTIONS).write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"corrections\.json"):
        list(recall(tmp_path / "kept"))


def test_an_image_is_learnt_from_once(taught, nuclei_model):
    """Corrected further, it takes the place of what was known of it; another image comes beside it."""
    teacher = Teacher(nuclei_model)
    teacher.parts = list(taught.teacher.parts)
    fewer = replace(taught.material, corrections=taught.corrections.without([0]))
    assert drain(teacher.teach([fewer], taught.settings)).corrections == 12
    other = replace(taught.material, key="other")
    lessons = drain(teacher.teach([other], taught.settings))
    assert (lessons.corrections, lessons.images) == (25, 2)
    assert "in 2 images" in str(lessons)


def test_memory_is_bounded(taught, nuclei_model, monkeypatch):
    teacher = Teacher(nuclei_model)
    one = taught.teacher.parts[0].nbytes
    monkeypatch.setattr(Teacher, "MOST_BYTES", 2.5 * one)
    parts = teacher._bounded([replace(taught.teacher.parts[0], key=str(k)) for k in range(5)])
    assert [part.key for part in parts] == ["3", "4"]
    assert one < 60e6


def test_maps_that_were_looked_at_are_bounded_and_not_computed_again(nuclei_model):
    from napari_deepretina.teaching import looked

    seen = []

    class Pyramid(torch.nn.Module):
        def forward(self, images):
            seen.append(len(images))
            return {"0": images * 2}

    memo = looked.Looked(Pyramid())
    images = [torch.full((1, 3, 64, 64), float(k)) for k in range(3)]
    for image in (images[0], images[0].clone(), images[1], images[0]):
        assert memo(image)["0"].equal(image * 2)
    assert len(seen) == 2
    looked_bytes = memo.nbytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looked, "MOST_BYTES", looked_bytes)
        memo(images[2])
        memo(images[1])
    assert memo.nbytes <= looked_bytes
    assert len(seen) == 4


def test_cancelled_it_changes_nothing(taught, nuclei_model):
    teacher = Teacher(nuclei_model)
    before = {name: value.clone() for name, value in state_of(nuclei_model).items()}
    steps = teacher.teach([taught.material], taught.settings)
    for step in steps:
        if step.text == "learning":
            break
    steps.close()
    assert teacher.parts == []
    assert all(value.equal(before[name]) for name, value in state_of(nuclei_model).items())


def test_progress_never_goes_back(taught, nuclei_model):
    done = [step.done for step in Teacher(nuclei_model).teach([taught.material], taught.settings)]
    assert done == sorted(done)
    assert done[0] >= 0
    assert done[-1] <= 1


def test_where_it_does_not_help_the_base_is_kept(taught, nuclei_model, monkeypatch):
    monkeypatch.setattr(
        teaching, "told_of", lambda found, known: Told(found=0 if len(made) % 2 else 3, **made.add())
    )

    class Made(list):
        def add(self):
            self.append(1)
            return {"missed": 1}

    made = Made()
    lessons = drain(Teacher(nuclei_model).teach([taught.material], taught.settings))
    assert not lessons.helped
    assert "did not help" in str(lessons)
    assert state_of(lessons.model) is not None
    assert not lessons.differences
    assert lessons.model.info == nuclei_model.info
    with pytest.raises(UserError, match="nothing to keep"):
        write(lessons, taught.teacher, memory_of(taught.teacher.base.path))


def test_too_few_corrections(taught, nuclei_model):
    few = replace(taught.material, corrections=taught.corrections.only([0, 1]))
    with pytest.raises(UserError, match="2 corrections are too few"):
        drain(Teacher(nuclei_model).teach([few], taught.settings))


def test_networks_that_cannot_be_taught(taught, tiny_architecture, tmp_path):
    from napari_deepretina.model.architecture import Architecture
    from napari_deepretina.model.header import WeightsInfo
    from napari_deepretina.model.network import build

    def teacher_for(architecture):
        info = WeightsInfo(name="odd", architecture=architecture)
        path = tmp_path / "odd.safetensors"
        save_weights(build(architecture, seed=0).state_dict(), info, path)
        return Teacher(load_model(path))

    with pytest.raises(UserError, match="Matterport"):
        teacher_for(
            Architecture(backbone="matterport_resnet50", body_widths=(8,) * 9, fpn_channels=8, box_units=8)
        )
    several = tiny_architecture.model_copy(update={"classes": ("round", "long")})
    with pytest.raises(UserError, match="several classes"):
        teacher_for(several)
    with pytest.raises(UserError, match="was taught itself"):
        Teacher(taught.lessons.model)


def test_the_doubtful_is_left_out(taught, nuclei_model):
    """Nothing is learnt of a nucleus that nobody decided on, nor of places that touch one."""
    labels = taught.truth.astype(np.int32)
    known = Corrections(labels, np.arange(1, 13), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    pixels = taught.material.reading(taught.image)
    lesson = lesson_of(nuclei_model, pixels, known, taught.material.scale)
    for part in (lesson.anchors, lesson.regions, lesson.masks):
        assert set(part.kind.tolist()) <= {RIGHT, NEAR, GROUND}
        assert set(part.owner[part.kind == RIGHT].tolist()) == set(range(12))
        assert (part.kind == GROUND).sum() <= MOST[GROUND]
        for owner in range(12):
            assert (part.owner == owner).sum() <= MOST[RIGHT] + MOST[NEAR] + 1
    deleted = Corrections(labels * 0, np.zeros(0, np.int64), np.zeros(0, np.int64),
                          known.boxes_of(np.arange(1, 4)))  # fmt: skip
    lesson = lesson_of(nuclei_model, pixels, deleted, taught.material.scale)
    assert set(lesson.regions.kind.tolist()) <= {WRONG, GROUND}
    assert set(lesson.regions.owner.tolist()) <= {-1, 0, 1, 2}
    assert not len(lesson.masks)


def test_a_lesson_of_many_nuclei_is_bounded(taught, nuclei_model, monkeypatch):
    from napari_deepretina.teaching import lesson

    monkeypatch.setattr(lesson, "TOGETHER", 40)
    pixels, every = taught.material.reading(taught.image), np.arange(1, taught.truth.max() + 1)
    known = Corrections(
        taught.truth.astype(np.int32), every, np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    )
    learnt = lesson_of(nuclei_model, pixels, known, taught.material.scale)
    for part in (learnt.anchors, learnt.regions, learnt.masks):
        for kind in (RIGHT, NEAR):
            assert (part.kind == kind).sum() <= 40
        assert set(part.owner[part.kind == RIGHT].tolist()) == set(range(len(every)))


def test_lessons_that_hold_nothing_are_refused(taught, nuclei_model):
    from napari_deepretina.teaching.learning import learn

    part = taught.teacher.parts[0].lesson
    nothing = torch.zeros(0, dtype=torch.long)
    empty = replace(
        part, anchors=part.anchors[nothing], regions=part.regions[nothing], masks=part.masks[nothing]
    )
    with pytest.raises(UserError, match="nothing to learn"):
        drain(learn(nuclei_model.network, [empty]))


def test_large_images_are_learnt_from_in_parts(taught, nuclei_model, monkeypatch):
    monkeypatch.setattr(teaching, "WHOLE", 100)
    monkeypatch.setattr(teaching, "WINDOW", 200 * taught.material.scale)
    teacher = Teacher(nuclei_model)
    parts = [teacher._part(taught.material, *part) for part in teacher._windows(taught.material)]
    assert 1 < len(parts) <= teaching.WINDOWS
    assert all(max(part.image.shape[:2]) <= 200 for part in parts)
    assert sum(len(part.corrections) for part in parts) >= 10


def test_told_counts_what_is_found_missed_and_there_again(taught):
    found = taught.found.instances
    known = Corrections(
        taught.truth.astype(np.int32),
        np.arange(1, taught.truth.max() + 1),
        np.zeros(0, np.int64),
        found.tight_boxes()[:2].astype(np.float32),
    )
    told = told_of(found, known)
    hits, _, missed = match(taught.truth, taught.found.labels).counts(0.5)
    assert (told.found, told.missed, told.extra) == (hits, missed, 2)
    assert told.mean_iou > 0.5


@pytest.mark.parametrize(
    ("one", "other", "worse"),
    [
        (Told(3, 1, 0, 0.8), Told(4, 0, 0, 0.8), True),
        (Told(4, 0, 1, 0.8), Told(4, 0, 0, 0.8), True),
        (Told(4, 0, 0, 0.7), Told(4, 0, 0, 0.8), True),
        (Told(4, 0, 0, 0.79), Told(4, 0, 0, 0.8), False),
        (Told(4, 0, 0, 0.6), Told(3, 1, 0, 0.9), False),
    ],
)
def test_what_is_worse(one, other, worse):
    assert one.worse_than(other) is worse
