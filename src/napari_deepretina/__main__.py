"""``python -m napari_deepretina`` is the command line."""

import sys

from napari_deepretina.cli import main

if __name__ == "__main__":
    sys.exit(main())
