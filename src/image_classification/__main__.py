"""`python -m image_classification` is the `image-classification` command."""

import sys

from image_classification.cli import main

if __name__ == "__main__":
    sys.exit(main())
