"""The variables of a training job, and those that a job and a server have in common."""

from __future__ import annotations

from pathlib import Path

from image_classification.contract.environment.variable import Variable

DEFAULT_BASE_DIR = Path("/opt/ml")

BASE_DIR = Variable(
    "IMAGE_CLASSIFICATION_BASE_DIR", str(DEFAULT_BASE_DIR), "folder that stands for /opt/ml"
)
BACKEND = Variable(
    "IMAGE_CLASSIFICATION_BACKEND",
    "torch",
    "what computes where a job names no backend; each train image sets its own",
)
CPU_COUNT = Variable(
    "IMAGE_CLASSIFICATION_CPU_COUNT", "0", "CPUs to use; 0 asks the machine and its limits"
)
OMP_NUM_THREADS = Variable(
    "OMP_NUM_THREADS",
    "",
    "most threads a training step may use, whichever the backend; unset: one for each CPU",
)
MAX_PIXELS = Variable(
    "IMAGE_CLASSIFICATION_MAX_PIXELS",
    str(64 * 2**20),
    "largest image, in pixels, that is packed, trained on or answered",
)
LOG_LEVEL = Variable("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "Python's numeric logging level")
PROGRAM = Variable(
    "SAGEMAKER_PROGRAM",
    "",
    "the user's own code: a training script, run instead of our algorithm; on a server the file in "
    "the artifact's code/ whose model_fn, input_fn, predict_fn or output_fn replace ours",
)

WEIGHTS_DIR = Variable(
    "IMAGE_CLASSIFICATION_WEIGHTS_DIR",
    "/opt/image-classification/weights",
    "folder of pretrained weights baked into the image, one <backbone>.safetensors each",
)
JOB_NAME = Variable("TRAINING_JOB_NAME", "", "name of the training job, set by the platform")
SUBMIT_DIRECTORY = Variable(
    "SAGEMAKER_SUBMIT_DIRECTORY", "", "the code of that script: a folder, a tar file or s3://…"
)
MASTER_PORT = Variable(
    "MASTER_PORT",
    "29500",
    "TCP port of the first host where the hosts of a training job meet; through the next one they "
    "watch each other; where the framework needs it each process listens at one of the ports after",
)
PROCESSES = Variable(
    "IMAGE_CLASSIFICATION_PROCESSES",
    "0",
    "processes that train on each host; 0: one for each GPU",
)
LOCAL_RANK = Variable(
    "LOCAL_RANK", "", "number of this process among those of its host; set by our launcher"
)
LOCAL_WORLD_SIZE = Variable(
    "LOCAL_WORLD_SIZE", "", "how many these are; without it there is one; set by our launcher"
)
