"""What is known about the nuclei of a result: one document, of which layers, tables and files are views."""

from napari_deepretina.document.changes import Change
from napari_deepretina.document.document import Document
from napari_deepretina.document.making import of_result
from napari_deepretina.document.measure import measure
from napari_deepretina.document.planes import TunedPlane
from napari_deepretina.document.records import Nucleus

__all__ = ["Change", "Document", "Nucleus", "TunedPlane", "measure", "of_result"]
