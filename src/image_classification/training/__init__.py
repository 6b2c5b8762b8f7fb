"""A training job, framework-free: start reading at `job.py`."""
