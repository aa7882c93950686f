"""The images that a person names on the command line: files, folders, globs, archives, OME-Zarr."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from napari_deepretina.data.files import Folder, Tree, is_image, open_tree, stem
from napari_deepretina.data.ome_zarr import is_ome_zarr, open_ome_zarr
from napari_deepretina.data.open import is_kaggle
from napari_deepretina.data.pairs import IMAGE_FOLDERS, LABEL_FOLDERS
from napari_deepretina.data.picture import Picture, decode_picture, read_picture
from napari_deepretina.data.split import find_split
from napari_deepretina.errors import UserError


@dataclass(frozen=True)
class Source:
    """An image that has not been read yet.

    Attributes
    ----------
    name : results are called by it.
    where : told in messages.
    read : gives the image or the stack, or raises UserError.
    folder : where results beside the image go.
    """

    name: str
    where: str
    read: Callable[[], Picture]
    folder: Path


OUR_ENDINGS = ("_labels", "_overlay", "_rois")
"""What results beside an image are called after its name: no images to look at."""


def find_sources(inputs: Sequence[str], part: str | None = None) -> list[Source]:
    """Images behind files, folders, globs, zips, Kaggle folders and OME-Zarr, in order.

    In a folder or zip of image/label pairs or of the Kaggle layout only the images count; in any
    other folder, every image file directly in it. Files given by name need not look like images:
    reading tells.

    Parameters
    ----------
    part : ``train`` or ``val``: only that part of the split that lies in or beside each input.

    Raises
    ------
    UserError
        If an input does not exist or holds no image, two images would share a name, or a part is
        asked for where there is no split.
    """
    sources = [s for text in inputs for s in _sources(text, part)]
    seen: dict[str, Source] = {}
    for source in sources:
        if source.name in seen:
            raise UserError(
                f"{seen[source.name].where} and {source.where} would both be written as "
                f"{source.name}; segment them into different folders"
            )
        seen[source.name] = source
    return sources


def _sources(text: str, part: str | None) -> Iterator[Source]:
    path = Path(text).expanduser()
    if is_ome_zarr(path):
        name = path.name.removesuffix(".zarr").removesuffix(".ome")
        yield Source(name, str(path), partial(open_ome_zarr, path), path.parent)
    elif path.is_dir() or path.suffix.lower() == ".zip":
        tree = open_tree(path)
        found = list(_in_tree(path, tree))
        if not found:
            raise UserError(f"{text} holds no images that are read here")
        yield from _of_part(found, tree, part) if part else found
    elif path.is_file():
        if part:
            raise UserError(f"--part {part} needs a folder or zip with a split, {text} is a single file")
        yield _file(path)
    elif matches := sorted(glob.glob(str(path))):
        for match in matches:
            yield from _sources(match, part)
    else:
        raise UserError(f"{text} does not exist, and no file matches it")


def _file(path: Path) -> Source:
    return Source(stem(path.name), str(path), partial(read_picture, path), path.parent)


def _of_part(sources: list[Source], tree: Tree, part: str) -> list[Source]:
    split = find_split(tree)
    if split is None:
        raise UserError(f"--part {part}: there is no split.json in {tree.path} and no *_split.json beside it")
    chosen = set(split.part(part))
    kept = [s for s in sources if s.name in chosen]
    if not kept:
        raise UserError(f"none of the images in {tree.path} is in part {part!r} of {split.source}")
    return kept


def _in_tree(path: Path, tree: Tree) -> Iterator[Source]:
    names = [n for n in tree.names() if is_image(n)]
    folders = {n.rsplit("/", 1)[0].rsplit("/", 1)[-1].lower() for n in names if "/" in n}
    paired = bool(folders & set(IMAGE_FOLDERS)) and bool(folders & set(LABEL_FOLDERS))
    if is_kaggle(names) or paired:
        names = [n for n in names if n.split("/")[-2:][0].lower() in IMAGE_FOLDERS]
    elif isinstance(tree, Folder):
        names = [n for n in names if "/" not in n and not _is_ours(n, names)]
    for name in names:
        where = f"{path}/{name}"
        if isinstance(tree, Folder):
            yield Source(stem(name), where, partial(read_picture, path / name), (path / name).parent)
        else:
            yield Source(stem(name), where, partial(_read, tree, name, where), path.parent)


def _is_ours(name: str, names: Sequence[str]) -> bool:
    """Whether a file is what an earlier run put beside one of the images."""
    of = next((stem(name).removesuffix(e) for e in OUR_ENDINGS if stem(name).endswith(e)), None)
    return of is not None and any(stem(n) == of for n in names)


def _read(tree: Tree, name: str, where: str) -> Picture:
    try:
        content = tree.read(name)
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror or error}") from None
    return decode_picture(content, where)
