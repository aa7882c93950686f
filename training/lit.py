"""Images of a set on a bright ground, stained or not, as a set of their own.

``python training/lit.py SET.zip OUT.zip``

Those of the train split; the validation part stays where it is.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path, PurePosixPath

from sets import part_of

from napari_deepretina.data.kinds import kind_of
from napari_deepretina.files import written_whole


def main() -> None:
    """Write OUT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    samples = part_of(arguments.source, "train")
    names = [
        sample.name
        for sample in (samples[k] for k in range(len(samples)))
        if kind_of(sample) != "bright on dark"
    ]
    with (
        written_whole(arguments.out) as part,
        zipfile.ZipFile(arguments.source) as source,
        zipfile.ZipFile(part, "w") as out,
    ):
        for member in source.namelist():
            if PurePosixPath(member).stem in names:
                out.writestr(member, source.read(member))
        out.writestr("split.json", json.dumps({"train": names, "val": []}))
    print(f"{len(names)} of {len(samples)} images")


if __name__ == "__main__":
    main()
