"""What a person meets who never saw the plugin: by clicks and keys alone, from a sample to the next image."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import tifffile
from napari.utils.notifications import NotificationSeverity, notification_manager
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QPushButton, QTextBrowser, QToolButton

from napari_deepretina._widgets import memory, presets
from napari_deepretina._widgets.dock import Dock, page_text
from napari_deepretina._widgets.document_view import view_of
from napari_deepretina._widgets.placing import AXES
from napari_deepretina._widgets.remedies import FEW, half_the_size, is_few, lower_score
from napari_deepretina.cli import main
from napari_deepretina.data.regions import read_regions, to_geojson
from napari_deepretina.data.synthetic import synthetic_nuclei
from napari_deepretina.inference.segment import segment

DOCKS = ("Segment nuclei", "Tune", "Train", "Inspect")


@pytest.fixture(scope="module")
def field():
    return synthetic_nuclei((160, 200), 16, diameter=26, seed=3)[0]


def offers(panel):
    return [button.text() for button in panel.widget.box.offers]


def press_offer(panel, start):
    button = next(b for b in panel.widget.box.offers if b.text().startswith(start))
    panel.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    panel.wait()


def drag(layer, start, end):
    """A line drawn with the mouse, as napari's layer gets it."""
    from types import SimpleNamespace

    layer.add_lines([np.array([start, end], float)])
    steps = next(c for c in layer.mouse_drag_callbacks if c.__name__ == "_until_released")
    event = SimpleNamespace(type="mouse_press")
    going = steps(layer, event)
    next(going)
    event.type = "mouse_move"
    next(going)
    event.type = "mouse_release"
    with pytest.raises(StopIteration):
        next(going)


def test_from_a_sample_to_the_next_image(panel, field, tmp_path, qtbot):
    viewer, widget = panel.viewer, panel.widget
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(2):
        tifffile.imwrite(folder / f"f{k}.tif", np.roll(field, 9 * k, axis=0))
    viewer.open_sample("napari-deepretina", "fluorescence")
    widget.weights.value = "nuclei-small"
    widget.score.value = 0.95  # a stain that the network is not sure of
    viewer.layers[0].data = (viewer.layers[0].data[:320, :320] // 8 + 30).astype(np.uint8)
    panel.run()
    few = view_of(panel.labels()[0])
    before = len(few.document.present)
    assert any(text.startswith("Score ") for text in offers(panel)) or before > 4
    widget.score.value = 0.5
    panel.run()
    # review with keys
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    (labels,) = panel.labels()
    tune.tabs.setCurrentIndex(1)
    tune.review.do("next")
    tune.review.do("accept")
    tune.review.do("delete")
    assert tune.review.progress.text().startswith("1 of")
    # a table in micrometres
    labels.scale, labels.units = (0.25, 0.25), ("um", "um")
    tune.export(str(tmp_path / "cells_table.csv"))
    with (tmp_path / "cells_table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["area_µm²"]) == pytest.approx(int(rows[0]["area"]) / 16)
    # the next image of a folder
    widget.folder.folder.value = folder
    widget.tabs.setCurrentIndex(1)
    button = widget.folder.findChild(QPushButton, "next_image")
    for name in ("f0", "f1"):
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(
            lambda: widget.folder.box.worker is None and widget.box.worker is None, timeout=60_000
        )
        assert name in [layer.name for layer in viewer.layers]


def test_few_nuclei_are_no_success_and_remedies_do_what_they_say(panel, field):
    dim = (field // 6 + 100).astype(np.uint8)
    panel.viewer.add_image(dim, name="cells")
    panel.widget.score.value = 0.95
    told = panel.run()
    layer = panel.labels()[0]
    view = view_of(layer)
    (raw,) = [plane.raw for plane in view.document.planes.values()]
    assert len(raw)
    if lower := [b for b in panel.widget.box.offers if b.text().startswith("Score")]:
        promised = int(lower[0].text().split("about ")[1])
        press_offer(panel, "Score")
        assert abs(len(view.document.present) - promised) <= max(2, 0.2 * promised)
        assert panel.widget.score.value < 0.95
    assert "nuclei" in told
    panel.viewer.layers.clear()
    panel.viewer.add_image(np.full((90, 90), 7, np.uint8), name="nothing")
    told = panel.run()
    assert told.startswith("No nuclei")
    assert [t.split()[0] for t in offers(panel)] == ["Small", "Measure", "Exchange", "Try"]
    press_offer(panel, "Exchange")
    assert panel.widget.invert.value
    assert "Look at it as it is" in offers(panel)
    press_offer(panel, "Try")
    assert panel.widget.weights.value == "nuclei-small"


def test_tissue_in_which_little_was_found_can_be_looked_at_enlarged(panel):
    panel.viewer.add_image(skimage.data.immunohistochemistry(), name="brown")
    panel.widget.specialist.value = "always"  # stains by themselves would show more
    told = panel.run()
    few = len(view_of(panel.labels()[0]).document.present)
    assert few >= FEW
    assert told.startswith(f"Only {few} nuclei")
    press_offer(panel, "Small nuclei: 14 px")
    assert panel.widget.diameter.value == 14
    assert len(view_of(panel.labels()[0]).document.present) > 3 * few
    assert not any(text.startswith("Small") for text in offers(panel))


def test_a_line_across_a_nucleus_sets_the_diameter_and_runs(panel, field, qtbot):
    panel.viewer.add_image(np.full((90, 90), 7, np.uint8), name="nothing", scale=(0.5, 0.5), translate=(4, 4))
    panel.run()
    button = next(b for b in panel.widget.box.offers if b.text() == "Measure a nucleus")
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    ruler = panel.viewer.layers["Deep Retina ruler"]
    assert ruler.mode == "add_line"
    drag(ruler, (10, 10), (10, 11))  # a slip
    qtbot.wait(50)
    assert panel.widget.diameter.value == 0
    drag(ruler, (10, 10), (10, 40))
    qtbot.waitUntil(lambda: panel.widget.diameter.value == 30)
    panel.wait()
    assert not len(ruler.data)
    assert (ruler.visible, ruler.mode) == (False, "pan_zoom")
    assert "Deep Retina ruler" not in str(panel.widget.region.choices)
    assert view_of(panel.labels()[0]) is not None


def test_lower_scores_are_counted(nuclei_model, field):
    from napari_deepretina.inference.segment import segment_steps
    from napari_deepretina.inference.settings import make_settings
    from napari_deepretina.inference.steps import drain

    none = drain(segment_steps(field, nuclei_model, make_settings(score=0.999), tunable=True))
    usual = drain(segment_steps(field, nuclei_model, make_settings(score=0.6), tunable=True))
    score, count = lower_score(none)
    assert score == 0.6
    assert abs(count - usual.count) <= 2
    assert lower_score(usual) is None


def test_a_region_of_tissue_is_not_judged_by_the_whole_image(default_model):
    found = segment(skimage.data.immunohistochemistry(), model=default_model, specialist="always")
    assert found.count >= FEW
    assert is_few(found, None)
    for told in ({"regions": "regions.geojson"}, {"diameter": 20.0}):
        assert not is_few(replace(found, settings=found.settings.model_copy(update=told)), None)


def test_only_what_was_not_enlarged_can_be(nuclei_model):
    usual = segment(
        synthetic_nuclei((400, 400), 30, diameter=26)[0], model=nuclei_model, weights="nuclei-small"
    )
    assert half_the_size(usual) == 11  # the image is enlarged to 512 pixels
    small = segment(
        synthetic_nuclei((400, 400), 90, diameter=12)[0], model=nuclei_model, weights="nuclei-small"
    )
    assert "looked again" in small.prediction.notes[0]
    assert half_the_size(small) is None
    asked = replace(usual, settings=usual.settings.model_copy(update={"diameter": 30.0}))
    assert half_the_size(asked) is None


def test_docks_open_as_tabs_and_come_back(viewer, qtbot):
    for name in DOCKS[:3]:
        viewer.window.add_plugin_dock_widget("napari-deepretina", name)
    window = viewer.window._qt_window
    qtbot.waitUntil(lambda: len(memory.recall("docks").get("open", [])) == 3)
    docks = [w.parent() for w in window.findChildren(Dock)]
    docks = [d if isinstance(d, QDockWidget) else d.parent() for d in docks]
    assert all(len(window.tabifiedDockWidgets(d)) == 2 for d in docks)
    assert sorted(memory.recall("docks")["open"]) == sorted(DOCKS[:3])


def test_windows_of_the_last_session_come_back_with_the_first_one(viewer, qtbot):
    memory.remember("docks", {"open": ["Tune", "Segment nuclei", "no such window"]})
    viewer.window.add_plugin_dock_widget("napari-deepretina", "Segment nuclei")
    window = viewer.window._qt_window
    qtbot.waitUntil(lambda: {w.title for w in window.findChildren(Dock)} == {"Segment nuclei", "Tune"})


def test_settings_come_back_and_can_be_forgotten(panel, qtbot, monkeypatch):
    widget = panel.widget
    advised = widget.score.value
    widget.weights.value = "nuclei-small"
    widget.score.value, widget.views.value, widget.diameter.value = 0.33, "flips", 41
    qtbot.waitUntil(lambda: memory.recall("segment").get("score") == 0.33, timeout=5_000)
    fresh = type(widget)(panel.viewer)
    qtbot.addWidget(fresh)
    assert (fresh.weights.value, fresh.score.value, fresh.views.value) == ("nuclei-small", 0.33, "flips")
    assert fresh.diameter.value == 41
    presets.save_default(fresh_settings := presets.PostprocessSettings(dilation=2, fill_holes=True))
    fresh.use_defaults(fresh_settings.model_dump())
    assert fresh.effects.text() == "Also in effect: grow or shrink 2 px, fill holes"
    fresh.restore_defaults.native.click()
    assert not fresh.effects.text()
    assert presets.load_default() == {}
    fresh.use_factory_settings()
    assert (fresh.weights.value, fresh.score.value, fresh.views.value) == ("nuclei", advised, "none")
    assert memory.recall("segment") == {}
    memory.path().write_text("{broken")
    assert memory.recall("segment") == {}


@pytest.mark.parametrize("name", DOCKS)
def test_each_window_opens_its_page_of_the_documentation(viewer, qtbot, name):
    _, widget = viewer.window.add_plugin_dock_widget("napari-deepretina", name)
    qtbot.mouseClick(widget.findChild(QToolButton, "help"), Qt.MouseButton.LeftButton)
    text = widget.findChild(QTextBrowser, "help_text")
    assert page_text(widget.page).splitlines()[0].lstrip("# ") in text.toPlainText()
    assert len(text.toPlainText()) > 300
    widget.findChild(QTextBrowser, "help_text").window().close()


def test_a_long_message_moves_nothing(panel):
    panel.viewer.add_image(np.zeros((60, 60), np.uint8))
    before = panel.widget.minimumSizeHint(), panel.widget.box.sizeHint().height()
    panel.widget.box.say("a very long message " * 60)
    assert (panel.widget.minimumSizeHint(), panel.widget.box.sizeHint().height()) == before


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "ellipse"])
def test_the_window_and_the_command_line_agree_on_regions(panel, field, tmp_path, kind):
    tifffile.imwrite(tmp_path / "cells.tif", field)
    image = panel.viewer.add_image(field, name="cells", scale=(0.5, 0.5), translate=(7, 9), rotate=20)
    corners = np.array([[20, 20], [20, 110], [120, 110], [120, 20]], float)
    shapes = panel.viewer.add_shapes(
        [corners], shape_type=kind, name="here", scale=(0.25, 0.25), translate=(7, 9), rotate=20,
        features={"name": ["gland"]},
    )  # fmt: skip
    shapes.data = [corners * 2]  # the same place in finer pixels
    panel.widget.image.value = "cells"
    panel.widget.region.value = str(shapes.unique_id)
    panel.run()
    labels = next(x for x in panel.labels())
    panel.qtbot.waitUntil(lambda: "region" in labels.features, timeout=10_000)
    assert set(labels.features["region"]) == {"gland"}
    regions = labels.metadata["napari-deepretina"]["settings"]["regions"]
    assert [r["name"] for r in regions] == ["gland"]
    from napari_deepretina.data.regions import Region

    given = tmp_path / "r.geojson"
    given.write_text(to_geojson([Region(**r) for r in regions]))
    assert len(read_regions(given)) == 1
    score = str(panel.widget.score.value)
    assert (
        main(
            [
                "segment",
                str(tmp_path / "cells.tif"),
                "--regions",
                str(given),
                "--score",
                score,
                "--out",
                str(tmp_path / "o"),
            ]
        )
        == 0
    )
    assert np.array_equal(tifffile.imread(tmp_path / "o" / "cells.tif"), labels.data)
    assert 0 < labels.data.max() < 16
    outside = np.argwhere(labels.data > 0)
    assert outside[:, 1].max() < 140
    assert image in panel.viewer.layers


def test_regions_that_hold_nothing_are_refused_in_a_sentence(panel, field):
    panel.viewer.add_image(field, name="cells")
    shapes = panel.viewer.add_shapes([np.array([[0, 0], [9, 9]])], shape_type="line", name="lines")
    panel.widget.region.value = str(shapes.unique_id)
    assert "holds no closed shape" in panel.run()
    panel.viewer.layers.remove(shapes)
    assert panel.widget.region.value == "whole image"


def test_channels_belong_to_the_image_that_is_chosen(panel, field):
    box = panel.widget.channel
    panel.viewer.add_image(np.dstack([field] * 3), rgb=True, name="rgb")
    assert [box.native.itemText(k) for k in range(box.native.count())] == ["colour", "red", "green", "blue"]
    panel.viewer.add_image(np.dstack([field] * 3).astype(np.float32), name="yxc", rgb=False)
    panel.widget.image.value = "yxc"
    assert [box.native.itemText(k) for k in range(box.native.count())] == [
        "channel 0",
        "channel 1",
        "channel 2",
    ]
    panel.viewer.add_image(np.stack([field] * 3), name="cyx", axis_labels=("c", "y", "x"))
    panel.widget.image.value = "cyx"
    assert box.native.itemText(0) == "as shown"
    assert not panel.widget.stack.isVisibleTo(panel.widget)
    panel.widget.channel.value = 2
    panel.widget.image.value = "rgb"
    assert box.value == -1
    panel.viewer.layers["rgb"].visible = False
    panel.viewer.add_image(np.stack([field] * 9), name="grows")
    panel.widget.image.value = "grows"
    assert box.native.count() == 1
    panel.viewer.layers["grows"].data = np.stack([field] * 4)
    assert box.native.count() == 5


@pytest.mark.parametrize("answer", ["planes", "channels", ""])
def test_a_short_axis_that_nothing_names_is_asked_about_once(panel, field, monkeypatch, answer):
    layer = panel.viewer.add_image(np.stack([field, field[::-1]]), name="two")
    asked = []
    monkeypatch.setattr(
        "napari_deepretina._widgets.segment.ask_about_axis", lambda *_: asked.append(1) or answer
    )
    panel.run()  # only the plane that is shown: nobody needs to know
    assert not asked
    panel.widget.stack.planes.value = "all"
    panel.run()
    assert asked == [1]
    assert layer.metadata.get(AXES, "") == answer
    if answer == "planes":
        assert panel.labels()[-1].data.shape == (2, *field.shape)
        panel.run()
        assert asked == [1]
        assert panel.widget.channel.native.count() == 1
    else:
        assert len(panel.labels()) == 1
    if answer == "channels":
        assert not panel.widget.stack.isVisibleTo(panel.widget)
        assert panel.widget.channel.native.count() == 3


def test_channels_that_lie_last_can_be_laid_out(panel, field):
    last = np.stack([np.zeros_like(field), field], axis=-1).astype(np.float32)
    panel.viewer.add_image(last, name="yxc", rgb=False, scale=(0.5, 0.5, 1))
    panel.widget.channel.value = 1
    panel.run()
    press_offer(panel, "Show channels")
    layers = [panel.viewer.layers[f"yxc channel {k}"] for k in range(2)]
    assert np.array_equal(layers[1].data, last[..., 1])
    assert layers[1].scale == pytest.approx((0.5, 0.5))
    assert not panel.viewer.layers["yxc"].visible


def test_presets_show_whether_they_were_changed_and_can_be_renamed(panel, field, monkeypatch):
    panel.viewer.add_image(field, name="cells")
    panel.run()
    _, tune = panel.viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    tune.controls["dilation"].value = 2
    tune.save_preset("mine")
    assert (tune.preset.value, tune.presets.changed.text()) == ("mine", "")
    tune.controls["dilation"].value = 3
    panel.qtbot.waitUntil(lambda: tune.presets.changed.text() == "changed", timeout=5_000)
    tune.presets.name_anew("ours")
    assert presets.names() == ["ours"]
    assert tune.preset.value == "ours"
    tune.preset.value = "as segmented"
    tune.preset.value = "ours"
    assert tune.controls["dilation"].value == 2
    presets.save("other", tune.settings())
    tune.presets.choice.reset_choices()
    tune.presets._guarded(lambda: tune.presets.name_anew("other"))
    assert "already" in tune.box.status.text()
    tune.presets.delete()
    assert presets.names() == ["other"]
    assert tune.preset.value == "as segmented"


@pytest.mark.parametrize("name", ["use_as_default"])
def test_tune_without_nuclei_never_raises(viewer, qtbot, name):
    _, tune = viewer.window.add_plugin_dock_widget("napari-deepretina", "Tune")
    with notification_manager:
        tune._guarded(tune.use_as_default)
        tune._guarded(lambda: tune.save_preset("x"))
    assert "run Segment nuclei first" in tune.box.status.text()
    assert not presets.names()
    assert all(n.severity != NotificationSeverity.WARNING for n in notification_manager.records[-2:])
