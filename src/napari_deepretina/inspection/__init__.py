"""Seeing what the network sees: steps, activations, weights, data, errors."""

STEPS = (
    "anchors", "proposals", "refined", "after NMS", "head scores", "final boxes", "masks 28 × 28",
    "masks pasted", "result",
)  # fmt: skip
"""Names of the steps, in order."""
MATCHES = {1: "positive", 0: "negative", -1: "neutral"}
"""What an anchor is to training: to be found, to be left, or not learnt from because it is in between."""
MATCH_COLOURS = {"positive": "#80ed99", "negative": "#ef476f", "neutral": "#aaaaaa"}
