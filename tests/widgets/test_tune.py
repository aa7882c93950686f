"""Tune and review, driven as a person drives them."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton

from napari_deepretina._widgets import presets
from napari_deepretina._widgets.own_labels import RAW
from napari_deepretina._widgets.placing import camera_of
from napari_deepretina._widgets.result_layers import work_on
from napari_deepretina._widgets.segment import SegmentWidget
from napari_deepretina._widgets.tools_layer import TOOLS
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.errors import UserError
from napari_deepretina.inference.segment import segment
from napari_deepretina.instances import relabel_sequential

IMAGE, TRUTH = synthetic_nuclei((160, 192), 14, diameter=30, seed=3)


class Tuned:
    """Segmented nuclei with the Tune widget over them."""

    def __init__(self, panel, qtbot, result):
        self.panel, self.qtbot, self.viewer = panel, qtbot, panel.viewer
        self.image = panel.viewer.add_image(IMAGE, name="cells", scale=(0.5, 0.5))
        # The network ran once for all tests: put its result in as the widget does.
        from napari_deepretina._widgets.result_layers import Run, show

        placed = {"scale": (0.5, 0.5)}
        self.layer = show(
            self.viewer, result, Run("cells", self.image, placed, (), {"index": [None, None], "settings": {}})
        )
        self.dock, self.widget = panel.viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
        self.review = self.widget.review

    @property
    def view(self):
        return self.layer.metadata[RAW]

    @property
    def document(self):
        return self.view.document

    @property
    def labels(self):
        return np.asarray(self.layer.data)

    def set(self, **values):
        for name, value in values.items():
            self.widget.controls[name].value = value

    def rest(self):
        self.qtbot.waitUntil(lambda: not self.view.rest.isActive(), timeout=5000)

    def press(self, name):
        self.qtbot.mouseClick(self.widget.findChild(QPushButton, name), Qt.MouseButton.LeftButton)

    def told(self):
        return self.widget.box.status.text()

    def draw(self, tool, *corners):
        """As a person does: the tool's button, then a shape, which acts when the mouse is released."""
        kind = "rectangle" if tool == "again" else "line"
        self.press(tool)
        tools = self.viewer.layers[TOOLS]
        assert self.viewer.layers.selection.active is tools
        assert tools.mode == f"add_{kind}"
        tools.add(np.array(corners, float), shape_type=kind)
        self.review._guarded(self.review._finish_tool)
        assert self.viewer.layers.selection.active is self.layer
        assert len(tools.data) == 0


@pytest.fixture(scope="module")
def results(nuclei_model):
    from napari_deepretina.inference.segment import segment_steps
    from napari_deepretina.inference.settings import SegmentSettings
    from napari_deepretina.inference.steps import drain

    settings = (SegmentSettings(score=0.6, tta=tta) for tta in ("none", "flips"))
    return [drain(segment_steps(IMAGE, nuclei_model, s, tunable=True)) for s in settings]


@pytest.fixture
def tuned(panel, qtbot, results):
    return Tuned(panel, qtbot, results[0])


@pytest.fixture
def many(panel, qtbot, results):
    return Tuned(panel, qtbot, results[1])


def test_labels_follow_the_sliders_and_keep_their_ids(tuned):
    before = tuned.labels.copy()
    tuned.set(score=0.98)
    fewer = tuned.labels.copy()
    assert 0 < len(np.unique(fewer)) < len(np.unique(before))
    for label in np.unique(fewer[fewer > 0]):
        assert (before[fewer == label] == label).mean() > 0.9
    tuned.set(dilation=3)
    assert (tuned.labels > 0).sum() > (fewer > 0).sum()
    tuned.set(dilation=0, score=0.6)
    assert np.array_equal(tuned.labels, before)
    tuned.set(min_area=10_000)
    assert tuned.labels.max() == 0
    tuned.press("reset")
    assert np.array_equal(tuned.labels, before)


def test_features_and_table_catch_up(tuned):
    tuned.set(score=0.9)
    tuned.rest()
    table = tuned.layer.features
    ids = np.unique(tuned.labels[tuned.labels > 0])
    assert table["index"].tolist() == ids.tolist()
    known = ["index", "state", "source", "score", "votes", "class", "area"]
    assert list(table.columns)[: len(known)] == known
    tuned.qtbot.waitUntil(lambda: tuned.view._measuring is None, timeout=10_000)
    table = tuned.layer.features
    assert table["mean_intensity"].tolist() == pytest.approx([IMAGE[tuned.labels == i].mean() for i in ids])
    assert sorted(tuned.review.table.labels) == ids.tolist()
    assert tuned.layer.metadata["napari-deepretina"]["settings"]["score"] == 0.9
    tuned.review.table.horizontalHeader().sectionClicked.emit(0)  # and it stays sorted
    tuned.review.refresh()
    assert tuned.review.table.labels.tolist() == ids.tolist()


def test_views_can_be_tuned(many):
    assert many.widget.controls["views"].max == 4
    counts = {}
    for votes in (1, 4):
        many.set(votes=votes)
        counts[votes] = (many.labels > 0).sum()
    assert counts[4] < counts[1]
    many.set(views=1)
    assert many.labels.max() > 8
    many.set(method="original")
    assert many.labels.max() > 8


def test_with_one_view_its_sliders_rest(tuned):
    assert not tuned.widget.controls["votes"].enabled
    assert not tuned.widget.controls["merge_iou"].enabled


def test_painted_nuclei_outlive_the_sliders(tuned, monkeypatch):
    painted = 500
    tuned.layer.data_setitem(tuple(np.mgrid[:6, :6].reshape(2, -1)), painted)
    tuned.view.sync()
    assert tuned.document.nuclei[painted].state == "drawn"
    tuned.set(score=0.95)
    tuned.set(score=0.3, min_area=4)
    assert (tuned.labels == painted).sum() == 36
    tuned.rest()
    asked = []
    answer = lambda _, layer: asked.append((layer.name, work_on(layer))) or "cancel"  # noqa: E731
    monkeypatch.setattr("napari_deepretina._widgets.segment.ask_about_edits", answer)
    tuned.panel.widget.run()
    assert asked == [("cells nuclei", "1 drawn")]


def test_presets_are_saved_loaded_and_become_segments_defaults(tuned):
    tuned.set(score=0.77, dilation=2)
    tuned.widget.save_preset("my cells")
    assert presets.load("my cells").dilation == 2
    tuned.press("reset")
    assert tuned.widget.settings().dilation == 0
    tuned.widget.preset.value = "my cells"
    assert tuned.widget.settings().score == 0.77
    tuned.press("use_as_default")
    values = tuned.panel.widget.settings()
    assert (values["score"], values["dilation"]) == (0.77, 2)
    fresh = SegmentWidget(tuned.viewer)
    tuned.qtbot.addWidget(fresh)
    assert fresh.settings()["dilation"] == 2
    with pytest.raises(UserError, match="cannot be the name"):
        presets.save("a/b", tuned.widget.settings())
    (presets.folder() / "bad.json").write_text("{}}")
    with pytest.raises(UserError, match="cannot be read"):
        presets.load("bad")
    for file in presets.folder().iterdir():
        file.unlink()


def test_settings_of_one_view_do_not_blind_segment_to_the_others(tuned):
    assert (tuned.widget.settings().views, tuned.widget.settings().votes) == (0, 0)
    tuned.press("use_as_default")
    values = tuned.panel.widget.settings()
    assert (values["views"], values["votes"]) == (0, 0)
    for file in presets.folder().iterdir():
        file.unlink()


def test_views_and_votes_chosen_by_hand_are_kept(many):
    assert (many.widget.settings().views, many.widget.settings().votes) == (0, 0)
    many.set(views=3, votes=1)
    assert (many.widget.settings().views, many.widget.settings().votes) == (3, 1)


def test_the_score_is_live_and_the_best_is_found(tuned):
    tuned.press("find_best")
    assert "Choose a truth layer" in tuned.told()
    tuned.viewer.add_labels(TRUTH, name="truth")
    tuned.viewer.add_labels(TRUTH[:50], name="small")
    tuned.widget.truth.value = "small"
    assert "the truth is (50, 192)" in tuned.widget.score_label.text()
    tuned.widget.truth.value = "truth"
    tuned.set(score=0.99, mask_threshold=0.9)
    tuned.rest()

    def score():
        return float(tuned.widget.score_label.text().split(",")[0].split()[1])

    poor = score()
    tuned.press("find_best")
    tuned.qtbot.waitUntil(lambda: "Best score found" in tuned.told(), timeout=60_000)
    tuned.rest()
    assert score() > poor
    assert f"{score():.3f}" in tuned.told()


def test_a_click_tells_about_a_nucleus(tuned):
    y, x = np.argwhere(tuned.labels == 4)[30]

    class Click:
        position = (y * 0.5, x * 0.5)
        view_direction = None
        dims_displayed = (0, 1)

    for callback in tuned.layer.mouse_drag_callbacks:
        callback(tuned.layer, Click)
    row = tuned.review.table.row(4)
    assert tuned.review.told.text().startswith(f"Nucleus 4: score {row['score']:.2f}, ")
    assert f"{(tuned.labels == 4).sum()} pixels" in tuned.review.told.text()
    assert tuned.document.chosen == tuned.layer.selected_label == 4
    Click.position = (0.0, 0.0)
    assert tuned.labels[0, 0] == 0
    for callback in tuned.layer.mouse_drag_callbacks:
        callback(tuned.layer, Click)
    assert tuned.document.chosen == 0


def test_strokes_of_the_brush_are_steps(tuned, qtbot):
    """As napari's mouse modes paint: with its own brush, several dabs one stroke."""
    before, new = tuned.labels.copy(), tuned.layer.selected_label
    assert new == tuned.document.last_id + 1
    with tuned.layer.block_history():
        for x in (3, 8, 12):
            tuned.layer.paint((4, x), new)
    qtbot.waitUntil(lambda: tuned.document.is_present(new), timeout=2000)
    assert tuned.document.nuclei[new].state == "drawn"
    assert tuned.document.nuclei[new].score is None
    assert tuned.document.chosen == 0
    tuned.layer.fill((4, 8), new + 5)
    tuned.press("undo")
    assert tuned.document.area(new) == (tuned.labels == new).sum() > 0
    tuned.press("undo")
    assert np.array_equal(tuned.labels, before)
    assert tuned.widget.review.undo() is None
    gone = int(tuned.document.present[0])
    tuned.document.delete(gone)
    tuned.layer.paint((4, 8), gone)  # a deleted nucleus' id goes to nobody else
    tuned.view.sync()
    assert not tuned.document.is_present(gone)
    assert tuned.labels[4, 8] == tuned.document.last_id
    assert tuned.layer.selected_label == tuned.document.chosen == tuned.labels[4, 8]


def test_going_through_the_doubtful_ones(tuned):
    order = tuned.review.table.labels.tolist()
    tuned.press("next")
    assert tuned.layer.selected_label == order[0]
    inside = np.argwhere(tuned.labels == order[0])
    assert camera_of(tuned.viewer).center[-2:] == pytest.approx(inside.mean(axis=0) / 2)
    tuned.press("next")
    tuned.press("previous")
    assert tuned.layer.selected_label == order[0]
    tuned.press("accept")
    assert tuned.layer.selected_label == order[1]
    tuned.press("delete")
    assert not (tuned.labels == order[1]).any()
    assert tuned.review.table.row(order[0])["state"] == "accepted"
    tuned.set(score=0.99, min_area=5000)
    assert (tuned.labels == order[0]).any()
    tuned.set(score=0.3, min_area=4)
    assert not (tuned.labels == order[1]).any()
    tuned.review.choose(order[0])
    tuned.press("release")
    tuned.set(score=0.99, min_area=5000)
    assert not (tuned.labels == order[0]).any()


def test_every_step_can_be_undone(tuned):
    before = tuned.labels.copy()
    tuned.press("next")
    tuned.press("accept")
    tuned.press("delete")
    tuned.press("undo")
    assert np.array_equal(tuned.labels, before)
    assert tuned.document.reviewed()[0] == 1
    tuned.press("undo")
    assert not tuned.document.is_changed()
    tuned.press("redo")
    tuned.press("redo")
    assert tuned.document.reviewed() == (1, len(np.unique(before)) - 2)


def centre(labels, label):
    return np.argwhere(labels == label).mean(axis=0)


def alone_under_a_line(labels, reach=30):
    """A nucleus that an upright line through its centre cuts without touching another one."""
    for label in range(3, labels.max() + 1):
        y, x = np.round(centre(labels, label)).astype(int)
        column = labels[y - reach : y + reach, x - 1 : x + 2] if y >= reach else labels[:0]
        if len(column) == 2 * reach and set(np.unique(column)) == {0, label}:
            return label
    raise AssertionError("no nucleus stands alone")


def test_merge_and_split_under_a_line(tuned):
    before = tuned.labels.copy()
    a, b = centre(before, 1), centre(before, 2)
    tuned.draw("merge", a, a + 1)
    assert "at least two nuclei" in tuned.told()
    tuned.draw("merge", a, b)
    assert (tuned.labels[before == 2] == 1).all()
    assert tuned.document.chosen == 1
    tuned.press("undo")
    assert np.array_equal(tuned.labels, before)
    label = alone_under_a_line(before)
    middle = centre(before, label)
    tuned.draw("split", middle - (30, 0), middle + (30, 0))
    pieces = np.unique(tuned.labels[before == label])
    assert len(pieces) == 2
    assert pieces.max() > before.max()
    tuned.set(score=0.5)
    assert len(np.unique(tuned.labels[before == label])) == 2


def test_looking_again_inside_a_box(tuned, qtbot):
    before = tuned.labels.copy()
    tuned.draw("again", (2, 2), (2, 5), (5, 5), (5, 2))
    assert "box is too small" in tuned.told()
    ys, xs = np.nonzero(before == 3)
    y0, x0, y1, x1 = max(0, ys.min() - 20), max(0, xs.min() - 20), ys.max() + 20, xs.max() + 20
    tuned.review.scale.value = 1
    tuned.draw("again", (y0, x0), (y0, x1), (y1, x1), (y1, x0))
    qtbot.waitUntil(lambda: "found in the box" in tuned.told(), timeout=60_000)
    assert not (tuned.labels == 3).any()
    new = tuned.labels[before == 3]
    assert (new > before.max()).mean() > 0.6
    outside = np.ones_like(before, bool)
    outside[y0 : y1 + 2, x0 : x1 + 2] = False
    assert np.array_equal(tuned.labels[outside], before[outside])
    tuned.press("undo")
    assert np.array_equal(tuned.labels, before)


@pytest.mark.parametrize("name", ["n.csv", "n_table.csv", "n.json", "n.zip", "n.tif", "n.nuclei"])
def test_export(tuned, tmp_path, name):
    tuned.widget.export(str(tmp_path / name))
    assert (tmp_path / name).stat().st_size > 100
    assert "Saved" in tuned.told()


def test_the_chosen_filter_decides_the_format(tuned, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    from napari_deepretina._widgets.exporting import FILTERS, FORMATS

    offered = []
    for form in FORMATS:
        for name in ("n", "n.csv", "n.tif", "n_table.csv"):
            answer = (str(tmp_path / name), form.filter)
            monkeypatch.setattr(
                QFileDialog, "getSaveFileName", lambda *a, r=answer: offered.append(a[-1]) or r
            )
            tuned.press("export")
            written = tmp_path / f"n{form.ending}"
            if form.ending == ".csv" and name == "n_table.csv":
                written = tmp_path / name  # a person's own name, which ends as the format does
            assert written.exists()
            written.unlink()
    assert set(offered) == {FILTERS}
    assert not list(tmp_path.iterdir())


def test_nuclei_saved_with_their_history_are_opened_again(tuned, tmp_path):
    first = int(tuned.document.present[0])
    tuned.document.accept(first)
    tuned.set(score=0.98)
    tuned.widget.export(str(tmp_path / "n.nuclei"))
    (again,) = tuned.viewer.open(str(tmp_path / "n.nuclei"), plugin="napari-deepretina")
    assert again.scale == pytest.approx(tuned.layer.scale)
    assert np.array_equal(again.data, tuned.labels)
    tuned.widget.nuclei.value = again.name
    assert tuned.review.view.document.nuclei == tuned.document.nuclei
    assert tuned.widget.controls["score"].value == 0.98
    tuned.set(score=0.3)
    assert len(np.unique(again.data)) > len(np.unique(tuned.labels))
    assert tuned.review.view.document.nuclei[first].state == "accepted"


def test_our_own_table_is_not_offered_as_an_image(tuned, tmp_path):
    from napari_deepretina._widgets.io import get_reader

    tuned.widget.export(str(tmp_path / "n_table.csv"))
    tuned.widget.export(str(tmp_path / "n.csv"))
    assert get_reader(str(tmp_path / "n_table.csv")) is None
    assert get_reader(str(tmp_path / "n.csv")) is not None


def test_work_of_a_session_that_ended_is_offered_again(tuned, qtbot, monkeypatch):
    from napari_deepretina._widgets import documents
    from napari_deepretina._widgets.tune import TuneWidget

    tuned.press("next")
    tuned.press("accept")
    tuned.press("delete")
    labels = tuned.labels.copy()
    qtbot.waitUntil(lambda: any(documents.unsaved_folder().glob("*.nuclei")), timeout=2000)
    tuned.view._keeper.close()
    assert not documents.left_behind()  # this session is at work
    monkeypatch.setattr(documents, "is_at_work", lambda _: False)
    other = TuneWidget(tuned.viewer)
    qtbot.addWidget(other)
    assert "1 of" in other.left_behind._text.text()
    qtbot.mouseClick(other.findChild(QPushButton, "bring_back"), Qt.MouseButton.LeftButton)
    again = tuned.viewer.layers[-1] if tuned.viewer.layers[-1].name != "chosen nucleus" else None
    again = again or next(x for x in tuned.viewer.layers if x.name.startswith("cells nuclei ["))
    assert np.array_equal(again.data, labels)
    view = again.metadata[RAW]
    assert view.document.reviewed()[0] == 1
    view.undo()
    assert len(np.unique(again.data)) == len(np.unique(labels)) + 1
    path = view._keeper.path
    assert path.exists()
    view.forget()
    assert not path.exists()


def test_unknown_formats_are_told(tuned, tmp_path):
    with pytest.raises(UserError, match="end the name with"):
        tuned.widget.export(str(tmp_path / "n.doc"))


def test_without_nuclei_the_panel_says_what_to_do(panel):
    _, widget = panel.viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    widget._guarded(widget.reset)
    assert "run Segment nuclei first" in widget.box.status.text()
    widget.review.do("delete")
    assert "run Segment nuclei first" in widget.box.status.text()


def test_the_layer_may_go_at_any_time(tuned):
    tuned.viewer.layers.remove(tuned.layer)
    tuned.set(score=0.9)
    tuned.review.do("delete")
    assert "run Segment nuclei first" in tuned.told()


def test_segmenting_again_begins_anew(tuned, results):
    from napari_deepretina._widgets.result_layers import Run, show

    tuned.set(score=0.95)
    show(
        tuned.viewer,
        results[1],
        Run("cells", tuned.image, {}, (), {"index": [None, None], "settings": {}}, tuned.layer, True),
    )
    assert not tuned.document.is_changed()
    assert tuned.review.view is tuned.view  # the open windows follow the new result
    new, old = tuned.document, tuned.labels.copy()
    tuned.press("undo")  # what the new run replaced comes back
    assert tuned.document is not new
    assert tuned.widget.controls["score"].value == 0.95
    tuned.press("redo")
    assert tuned.document is new
    assert np.array_equal(tuned.labels, old)
    assert np.array_equal(relabel_sequential(tuned.labels), results[1].labels)
    tuned.set(score=0.5)
    assert tuned.labels.max() > 5


def test_the_network_result_is_the_same_as_without_tuning(results, nuclei_model):
    assert np.array_equal(results[0].labels, segment(IMAGE, model=nuclei_model, score=0.6).labels)


CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
CHORDS = {
    "Undo": (Qt.Key.Key_Z, CONTROL), "Redo": (Qt.Key.Key_Z, CONTROL | SHIFT),
    "Delete": (Qt.Key.Key_Delete,), "Escape": (Qt.Key.Key_Escape,),
}  # fmt: skip


class Keys:
    """Keys pressed on napari's canvas."""

    def __init__(self, tuned):
        self.qtbot, self.canvas = tuned.qtbot, tuned.viewer.window._qt_viewer.canvas.native

    def press(self, *keys):
        for key in keys:
            code = CHORDS.get(key) or (getattr(Qt.Key, f"Key_{key}"),)
            self.qtbot.keyClick(self.canvas, *code)


@pytest.fixture
def keys(tuned):
    tuned.viewer.layers.selection.active = tuned.layer
    return Keys(tuned)


def test_review_by_keys_alone(tuned, keys):
    before = tuned.labels.copy()
    order = tuned.review.table.labels.tolist()
    keys.press("Delete", "A")  # nothing is chosen: nothing happens
    assert np.array_equal(tuned.labels, before)
    assert not tuned.document.is_changed()
    keys.press("N", "N", "P", "N")
    assert tuned.document.chosen == order[1]
    keys.press("Delete")
    assert set(np.unique(before)) - set(np.unique(tuned.labels)) == {order[1]}
    assert tuned.document.chosen == order[2]
    keys.press("A")
    assert "1 of" in tuned.review.progress.text()
    tuned.viewer.layers.selection.active = tuned.image  # whichever layer is active
    keys.press("Undo")
    assert tuned.document.reviewed()[0] == 0
    tuned.press("merge")
    assert tuned.viewer.layers.selection.active is tuned.viewer.layers[TOOLS]
    keys.press("Undo")  # with the tools layer active, too
    assert np.array_equal(tuned.labels, before)
    keys.press("Escape")
    assert tuned.viewer.layers.selection.active is tuned.layer
    keys.press("Redo", "Escape")
    assert tuned.document.chosen == 0
    assert tuned.layer.selected_label == tuned.document.last_id + 1


def test_arrow_keys_in_the_table_choose_the_row_that_is_deleted(tuned, qtbot):
    """Highlight a row, two arrow keys, delete: that row's nucleus goes and no other."""
    table = tuned.review.table
    tuned.widget.tabs.setCurrentWidget(tuned.review)
    table.setFocus()
    table.picked.emit(table.row_at(1))
    before, order = tuned.labels.copy(), table.labels.tolist()
    assert tuned.document.chosen == order[1]
    for _ in range(2):
        qtbot.keyClick(table, Qt.Key.Key_Down)
    assert tuned.document.chosen == order[3]
    tuned.press("delete")
    assert set(np.unique(before)) - set(np.unique(tuned.labels)) == {order[3]}


def test_every_label_has_a_features_row_of_its_own_after_any_slider(tuned):
    for values in ({"score": 0.05}, {"score": 0.9, "dilation": 2}, {"min_area": 200}, {"score": 0.3}):
        tuned.set(**values)
        tuned.rest()
        features = tuned.layer.features
        ids = np.unique(tuned.labels[tuned.labels > 0])
        assert features["index"].tolist() == ids.tolist()
        for label in ids.tolist():
            y, x = np.argwhere(tuned.labels == label)[0]
            told = tuned.layer.get_status((y * 0.5, x * 0.5), world=True)["value"]
            assert f"area: {(tuned.labels == label).sum()}" in told
            assert told.startswith(f"{label}; state: ")


def test_colours_and_ranges_by_measurements(tuned, qtbot):
    from napari.utils.colormaps import DirectLabelColormap

    box = tuned.widget.measure
    qtbot.waitUntil(lambda: "mean_intensity" in box.colour.choices, timeout=10_000)
    assert box.channels.item(0).text() == "cells"
    box.colour.value = "area"
    assert isinstance(tuned.layer.colormap, DirectLabelColormap)
    areas = np.sort(tuned.layer.features["area"].to_numpy())
    box.range.setValue((float(areas[2]), float(areas[-1])))
    assert f"{len(areas) - 2} of {len(areas)} nuclei" in box.told.text()
    assert len(tuned.review.table.labels) == len(areas) - 2
    other = tuned.viewer.add_image(IMAGE[::-1].copy(), name="second")
    tuned.viewer.add_image(IMAGE[:50], name="too small")
    texts = [box.channels.item(k).text() for k in range(box.channels.count())]
    assert texts == ["cells", "second"]
    box.channels.item(1).setCheckState(Qt.CheckState.Checked)
    qtbot.waitUntil(lambda: "mean_second" in tuned.layer.features, timeout=10_000)
    ids = tuned.layer.features["index"].tolist()
    told = tuned.layer.features["total_second"].tolist()
    assert told == pytest.approx([other.data[tuned.labels == i].sum() for i in ids])
    box.colour.value = box.colour.choices[0]
    assert not isinstance(tuned.layer.colormap, DirectLabelColormap)
    assert len(tuned.review.table.labels) == len(areas)


def test_running_again_says_what_it_would_drop(tuned, monkeypatch):
    answers = iter(["cancel", "replace"])
    asked = []

    def answer(_, layer):
        asked.append(work_on(layer))
        return next(answers)

    monkeypatch.setattr("napari_deepretina._widgets.segment.ask_about_edits", answer)
    for label in tuned.document.present[:5].tolist():
        tuned.document.accept(label)
    before, document = tuned.labels.copy(), tuned.document
    tuned.panel.run()
    assert asked == ["5 accepted"]
    assert tuned.document is document
    tuned.panel.run()
    assert tuned.document is not document
    tuned.press("undo")  # "Replace my edits" can be taken back, too
    assert tuned.document is document
    assert np.array_equal(tuned.labels, before)
    for _ in range(5):
        tuned.press("undo")
    assert not tuned.document.is_changed()


def test_a_full_disk_is_reported_once_and_work_goes_on(tuned, qtbot, monkeypatch):
    from napari_deepretina._widgets import hub

    told = []
    monkeypatch.setattr(hub, "show_warning", told.append)
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    for label in tuned.document.present[:2].tolist():
        tuned.document.accept(label)
        tuned.view.save()
        qtbot.wait(50)
    qtbot.waitUntil(lambda: bool(told), timeout=5000)
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert tuned.document.reviewed()[0] == 2
