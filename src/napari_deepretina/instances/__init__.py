"""Values that travel between the rooms: raw and final instances, label images, RLE."""

from napari_deepretina.instances.final import Instances
from napari_deepretina.instances.labels import bounding_boxes, relabel_sequential
from napari_deepretina.instances.raw import RawInstances

__all__ = ["Instances", "RawInstances", "bounding_boxes", "relabel_sequential"]
