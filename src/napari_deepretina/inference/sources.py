"""The images that a person names on the command line: files, folders, globs, archives, OME-Zarr."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from napari_deepretina.data.files import Folder, Tree, is_image, open_tree, stem
from napari_deepretina.data.ome_zarr import is_ome_zarr, open_ome_zarr
from napari_deepretina.data.open import is_kaggle
from napari_deepretina.data.ours import made_here
from napari_deepretina.data.pairs import IMAGE_FOLDERS, LABEL_FOLDERS
from napari_deepretina.data.picture import AS_TOLD, Picture, Wanted, decode_picture, read_picture
from napari_deepretina.data.split import find_split
from napari_deepretina.errors import UserError
from napari_deepretina.files import expanded
from napari_deepretina.intake import refuse_special


@dataclass(frozen=True)
class Source:
    """An image that has not been read yet.

    Attributes
    ----------
    name : results are called by it.
    where : told in messages.
    read : gives the image or the stack, or raises UserError.
    folder : where results beside the image go.
    path : the file, archive or Zarr that it is read from, which is never written to.
    file_name : of the image, with its suffix.
    """

    name: str
    where: str
    read: Callable[[], Picture]
    folder: Path
    path: Path
    file_name: str

    def stamp(self) -> list[int]:
        """Size and time of the last change of the file that it is read from: others where that is another."""
        try:
            told = self.path.stat()
        except OSError:
            return []
        return [told.st_size, told.st_mtime_ns]


@dataclass(frozen=True)
class Looking:
    """How inputs are looked through.

    Attributes
    ----------
    part : ``train`` or ``val``: only that part of the split that lies in or beside each input.
    recursive : images in sub-folders as well.
    wanted : what a person says of files that do not say it themselves.
    """

    part: str | None = None
    recursive: bool = False
    wanted: Wanted = AS_TOLD


PLAINLY = Looking()
"""All images directly in a folder, as their files tell."""


def find_sources(
    inputs: Sequence[str], looking: Looking = PLAINLY, notes: list[str] | None = None
) -> list[Source]:
    """Images behind files, folders, globs, zips, Kaggle folders and OME-Zarr, in order.

    In a folder or zip of image/label pairs or of the Kaggle layout only the images count; in any
    other folder, every image file directly in it. Files given by name need not look like images:
    reading tells. What an earlier run wrote is no image to look at. Of images with the same name, all but the
    first are named after their folders, too.

    Parameters
    ----------
    notes : what was passed over or renamed is appended to it, in sentences.

    Raises
    ------
    UserError
        If an input does not exist or holds no image, or a part is asked for where there is no split.
    """
    told: list[str] = [] if notes is None else notes
    found = [s for text in inputs for s in _sources(text, looking, told)]
    ours = [s for s in found if made_here(s.path)]
    if ours and len(ours) == len(found):
        raise UserError(f"{ours[0].where} was written by an earlier run: give the image itself")
    if ours:
        told.append(f"{_several(len(ours), 'file')} written by an earlier run left out, e.g. {ours[0].where}")
    return _named_apart([s for s in found if s not in ours], told)


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _named_apart(sources: Sequence[Source], notes: list[str]) -> list[Source]:
    """The same with names that differ, on file systems that know no case too; the same image counts once."""
    by_name: dict[str, Source] = {}
    for source in sources:
        before = by_name.get(source.name.casefold())
        if before is not None and before.where == source.where:
            continue
        if before is not None:
            source = _renamed(source, by_name)
            notes.append(f"{source.where} is written as {source.name}: {before.where} has its name")
        by_name[source.name.casefold()] = source
    return list(by_name.values())


def _renamed(source: Source, taken: dict[str, Source]) -> Source:
    """Under a name with its folders, or its suffix, or a number, that no other has."""
    *folders, own = PurePosixPath(source.where.replace("\\", "/")).parts
    name = source.name
    for folder in reversed([f for f in folders if f != "/"]):
        name = f"{stem(folder) if folder.lower().endswith('.zip') else folder}_{name}"
        if name.casefold() not in taken:
            return replace(source, name=name)
    name = base = f"{source.name}_{PurePosixPath(own).suffix.lstrip('.').lower()}"
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{base}_{number}"
    return replace(source, name=name)


def _sources(text: str, looking: Looking, notes: list[str]) -> Iterator[Source]:
    path = expanded(text)
    if path.suffix.lower() == ".zip" and made_here(path):
        notes.append(f"{text} left out: its ROIs were written by an earlier run")
    elif _is(Path.is_dir, path) and is_ome_zarr(path):
        yield _zarr(path, looking.wanted.axes)
    elif _is(Path.is_dir, path) or path.suffix.lower() == ".zip":
        tree = open_tree(path)
        found = list(_in_tree(path, tree, looking, notes))
        if not found:
            raise UserError(_nothing_in(text, path, tree, looking))
        yield from _of_part(found, tree, looking.part) if looking.part else found
    elif _is(Path.is_file, path):
        if looking.part:
            raise UserError(
                f"{text} is a single file: parts of a split (--part {looking.part}) need a folder or zip"
            )
        yield _file(path, looking.wanted)
    elif _is(Path.exists, path):
        refuse_special(path)
        raise UserError(f"{text} cannot be read")
    elif (matches := _matches(str(path))) == [str(path)] and path.is_symlink():
        raise UserError(f"{text} is a link that leads nowhere")
    elif matches:
        for match in matches:
            yield from _sources(match, looking, notes)
    else:
        raise UserError(f"{text} does not exist, and no file matches it")


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Path.is_file or is_dir; False for what no file system could hold."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _matches(pattern: str) -> list[str]:
    """Files that a glob matches; brackets that mean nothing as a glob stand for themselves."""
    return sorted(glob.glob(pattern)) or sorted(glob.glob(pattern.replace("[", "[[]")))


def _nothing_in(text: str, path: Path, tree: Tree, looking: Looking) -> str:
    deeper = isinstance(tree, Folder) and not looking.recursive and any(map(is_image, tree.names()))
    if deeper:
        return f"{text} holds images in sub-folders only: choose one of these, or take them all (--recursive)"
    return f"{text} holds no images that are read here"


def _file(path: Path, wanted: Wanted) -> Source:
    return Source(
        stem(path.name), str(path), partial(read_picture, path, wanted), path.parent, path, path.name
    )


def _zarr(path: Path, axes: str = "") -> Source:
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    return Source(name, str(path), partial(open_ome_zarr, path, axes), path.parent, path, path.name)


def _of_part(sources: list[Source], tree: Tree, part: str) -> list[Source]:
    split = find_split(tree)
    if split is None:
        raise UserError(
            f"part {part!r} (--part): there is no split.json in {tree.path} and no *_split.json beside it"
        )
    chosen = set(split.part(part))
    kept = [s for s in sources if s.name in chosen]
    if not kept:
        raise UserError(f"none of the images in {tree.path} is in part {part!r} of {split.source}")
    return kept


def _in_tree(path: Path, tree: Tree, looking: Looking, notes: list[str]) -> Iterator[Source]:
    names = [n for n in tree.names() if is_image(n)]
    folders = {n.rsplit("/", 1)[0].rsplit("/", 1)[-1].lower() for n in names if "/" in n}
    paired = bool(folders & set(IMAGE_FOLDERS)) and bool(folders & set(LABEL_FOLDERS))
    if is_kaggle(names) or paired:
        names = [n for n in names if n.split("/")[-2:][0].lower() in IMAGE_FOLDERS]
    elif isinstance(tree, Folder):
        names = [n for n in names if not _is_old_result(n, names)]
        if not looking.recursive:
            deeper = [n for n in names if "/" in n]
            names = [n for n in names if "/" not in n]
            if deeper and names:
                notes.append(
                    f"{_several(len(deeper), 'image')} in sub-folders of {path} left out "
                    "(--recursive takes them too)"
                )
    for name in names:
        where = f"{path}/{name}"
        if isinstance(tree, Folder):
            yield replace(_file(path / name, looking.wanted), where=where)
        else:
            read = partial(_read, tree, name, where, looking.wanted)
            yield Source(stem(name), where, read, path.parent, path, PurePosixPath(name).name)
    if isinstance(tree, Folder):
        yield from (
            _zarr(z, looking.wanted.axes)
            for z in sorted(path.glob("*.zarr"))
            if is_ome_zarr(z) and not made_here(z)
        )


_OLD_ENDINGS = ("_labels", "_overlay", "_rois")


def _is_old_result(name: str, names: Sequence[str]) -> bool:
    """Whether a file is called like what earlier versions put beside one of the images."""
    of = next((stem(name).removesuffix(e) for e in _OLD_ENDINGS if stem(name).endswith(e)), None)
    return of is not None and any(stem(n) == of for n in names)


def _read(tree: Tree, name: str, where: str, wanted: Wanted) -> Picture:
    return decode_picture(tree.read(name), where, wanted)
