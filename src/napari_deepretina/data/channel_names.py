"""Names of channels, as files give them and people ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_deepretina.errors import UserError

COLOURS = ("red", "green", "blue")


def of_ome(text: str | None) -> tuple[str, ...]:
    """Names in the OME-XML of a TIFF file, in order; () unless every channel of its first image has one."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(text or "<none/>")
    except ElementTree.ParseError:
        return ()
    for pixels in root.iter():
        if pixels.tag.endswith("}Pixels"):
            names = [e.get("Name") or "" for e in pixels if e.tag.endswith("}Channel")]
            return tuple(names) if all(names) else ()
    return ()


def of_omero(attributes: Any) -> tuple[str, ...]:
    """Labels in the metadata of an OME-Zarr image; () unless every channel has one."""
    try:
        names = [str(c.get("label") or "") for c in attributes["omero"]["channels"]]
    except (KeyError, TypeError, AttributeError):
        return ()
    return tuple(names) if all(names) else ()


def number_of(asked: int | str, names: Sequence[str], count: int) -> int:
    """Position of a channel.

    Parameters
    ----------
    asked : its number, counted from 0, or its name, in large letters or small.
    names : of the channels, where the file tells them; otherwise three or four are red, green and blue.
    count : of the channels.

    Raises
    ------
    UserError
        If there is no such channel.
    """
    if isinstance(asked, int) or asked.strip().isdigit():
        return int(asked)
    known = list(names) if len(names) == count else list(COLOURS) if count in (3, 4) else []
    places = [k for k, name in enumerate(known) if name.casefold() == asked.strip().casefold()]
    if not places:
        told = f"they are called {', '.join(known)}" if known else "the image does not name its channels"
        raise UserError(f"there is no channel {asked!r}: {told}; give its number, counted from 0")
    return places[0]
