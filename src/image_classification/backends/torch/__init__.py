"""The PyTorch backend. Only `catalog` can be imported without PyTorch."""

from image_classification.backends.torch import process

process.prepare()  # here, because every module of this folder runs it before it imports PyTorch
