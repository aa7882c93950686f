"""Seeing what the network sees: steps, activations, weights, data, errors."""

STEPS = (
    "anchors", "proposals", "refined", "after NMS", "head scores", "final boxes", "masks 28 × 28",
    "masks pasted", "result",
)  # fmt: skip
"""Names of the steps, in order."""
