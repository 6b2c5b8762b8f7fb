"""Train and serve image classifiers on Amazon SageMaker, on a laptop, or without Docker.

Importing the package loads no deep-learning framework; `training/job.py` and
`serving/app.py` are the two files to read first.
"""

__version__ = "0.1.0"
