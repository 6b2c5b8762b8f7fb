"""`python -m image_classification` is the `image-classification` command."""

from __future__ import annotations

import sys

from image_classification.cli import main

if __name__ == "__main__":
    sys.exit(main())
