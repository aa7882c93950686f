"""Where training and test images come from: files, folders, zips, generated fields."""

from napari_deepretina.data.open import open_dataset
from napari_deepretina.data.sample import Dataset, Sample, Subset

__all__ = ["Dataset", "Sample", "Subset", "open_dataset"]
