"""Tooltips of the docks, in one place: what each control is for, in a sentence."""

from __future__ import annotations

from qtpy.QtWidgets import QFormLayout, QWidget

SEGMENT = {
    "image": "The image layer whose nuclei are wanted",
    "region": "Look everywhere, only at what the canvas shows, or only inside the shapes of a layer",
    "measure": "Drag a line across one nucleus: its length becomes the diameter",
    "restore_defaults": "Forget the settings that Tune gave to Segment",
    "factory": "Everything as on the first day; presets, weights and results stay",
    "help": "Open the page of the documentation on this window",
    "channel": "Look at this channel only; as shown looks at the image as it is",
    "weights": "The trained network: nuclei is the surest, nuclei-small three times as fast",
    "weights_file": "Use a file of weights that you trained, or were given",
    "device": "What computes: auto takes a graphics card where there is one",
    "precision": "auto takes bfloat16 where the device is quick at it; float32 is exact to the last bit",
    "result": "Where the nuclei go; a layer that you worked on is never replaced without asking",
    "planes": "Which planes of a stack are segmented",
    "along": "The axis whose planes are gone through: time or depth",
    "first": "First plane of the range, counted from 0",
    "last": "Last plane of the range, counted from 0",
    "run": "Find the nuclei; the same button cancels",
    "run_folder": "Segment all images of the folder; the same button cancels",
    "folder": "The folder with the images",
    "axes": "What the axes of the images hold, where their files do not say it",
    "folder_channel": "The channel to look at in every image: its name or its number, counted from 0",
    "out": "The folder where results go",
    "geojson": "Outlines that QuPath imports, one file an image",
    "results": "Where the files go: beside each image, or into a folder of their own",
    "anew": "Do images again that an earlier run did, replacing its files",
    "coco": "Outlines, scores and classes of all images in one JSON file",
    "features": "One row a nucleus: score, area, shape, intensities",
    "overlay": "Each image with the outlines drawn in, to look through",
    "rle": "Run lengths, as the 2018 Data Science Bowl wants them",
    "rois": "One zip an image for ImageJ's and Fiji's ROI manager",
    "bring_back": "Put these nuclei into a layer, as they were",
    "discard": "Forget these nuclei for good",
}
TUNE = {
    "nuclei": "The result that is tuned and reviewed",
    "preset": "Settings that you saved; the labels follow",
    "truth": "Nuclei known to be right: the score beside them is live",
    "shown": "Which nuclei the table lists",
    "range": "Nuclei outside these values turn grey and leave the review list",
    "reset": "Back to the settings that Segment worked with; your edits stay",
    "help": SEGMENT["help"],
    "preset_menu": "Save, rename or delete a preset",
    "use_as_default": "Segment works with these settings from now on",
    "all_planes": "Use these settings for every plane of the stack, as one step",
    "export": "Save the nuclei: TIFF, table, COCO, ROIs, or all of it to go on later",
    "cancel": "Stop what is at work",
    "find_best": "Try settings for the best score against the truth",
    "bring_back": SEGMENT["bring_back"],
    "discard": SEGMENT["discard"],
}
TRAIN = {
    "help": SEGMENT["help"],
    "image": "The image that becomes a training sample",
    "labels": "Its nuclei, corrected",
    "keep": "The whole frame, or only what was edited and a margin around it",
    "recipe": "How to train; fine-tune takes minutes",
    "start_from": "The weights that training begins with",
    "name": "The run's name; it is the weights' name in Segment afterwards",
    "samples": "Samples that are kept; double-click one to open it",
    "show_sample": "Open the chosen sample as an image and labels",
    "remove_sample": "Train on the chosen sample no more; its files are put aside",
    "device": SEGMENT["device"],
    "data": "Sets to train on; end a line with @3 to show it three times as often",
    "add_data": "Add annotated images from files",
    "add_layers": "Keep this image with its labels as a training sample",
    "remove_data": "Take the chosen line off the list; no file is removed",
    "start": "Train in a process of its own",
    "pause": "Wait, and go on later where it stands",
    "stop": "End now, and keep the best weights so far",
    "forecast": "Read the data and try a few steps: how long the run would take, and how much memory",
    "open_run": "Show a run that ended, made here or by the command line, with its data and changes",
    "resume": "Go on with the run that is shown, with the changes above",
}
INSPECT = {
    "help": SEGMENT["help"],
    "image": "The image layer that is looked into",
    "weights": SEGMENT["weights"],
    "score": "Nuclei with a lower score are left out",
    "diameter": "Expected nucleus diameter in pixels; automatic keeps the image's scale",
    "run": "Detect the nuclei, and keep every step; the same button cancels",
    "step": "Walk the steps of the detection, from anchors to the result",
    "map": "A layer of the backbone (C) or of its pyramid (P)",
    "show_map": "Add this feature map as a stack of its channels",
    "other": "Weights to compare with",
    "look_at_weights": "Histograms, far values and dead filters of every layer",
    "path": "Folder or zip with annotated images",
    "browse": "Choose the folder in a dialog",
    "recipe": "The recipe whose crops are shown",
    "look_at_data": "Crops as training sees them, numbers, and what is odd",
    "truth": "Labels known to be right",
    "predicted": "Labels to judge",
    "learnt_from": "Labels known to be right, of the image that was inspected",
    "show_learning": "Anchors and regions that a training step would learn from, as layers",
    "look_at_errors": "Hits, misses, splits and merges, the worst first",
}


def explain(widget: QWidget, tips: dict[str, str]) -> None:
    """Give controls their tooltips, and the words beside them the same."""
    for name, tip in tips.items():
        for control in widget.findChildren(QWidget, name):
            if not control.toolTip():
                control.setToolTip(tip)
    for form in widget.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            label, field = (form.itemAt(row, role) for role in (_LABEL, _FIELD))
            if label is not None and field is not None and label.widget() and field.widget():
                label.widget().setToolTip(field.widget().toolTip())


_LABEL, _FIELD = QFormLayout.ItemRole.LabelRole, QFormLayout.ItemRole.FieldRole
