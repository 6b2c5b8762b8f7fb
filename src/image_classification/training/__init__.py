"""A training job, framework-free: `job.py` is the story, the other modules its details."""
