"""Hyperparameters of both interfaces that neither built-in has: recipes beyond plain training.

All are off by default.
"""

from __future__ import annotations

from image_classification.contract.hyperparameter import Hyperparameter
from image_classification.contract.presets import PRESETS

RECIPE = (
    Hyperparameter(
        "mixup_alpha",
        "continuous",
        0.0,
        "Mix each image with another of its batch, by a share from Beta(alpha, alpha); 0 is off.",
        minimum=0,
        maximum=100,
    ),
    Hyperparameter(
        "cutmix_alpha",
        "continuous",
        0.0,
        "Swap a rectangle with another image of the batch, its area from Beta(alpha, alpha); 0 is "
        "off. With mixup_alpha too each step takes one of the two.",
        minimum=0,
        maximum=100,
    ),
    Hyperparameter(
        "class_weights",
        "categorical",
        None,
        "Weights of samples by class: balanced (1 / samples of the class) or effective (by the "
        "effective number of samples, beta 0.999).",
        choices=("balanced", "effective"),
    ),
    Hyperparameter(
        "balanced_sampling",
        "boolean",
        False,
        "Draw every class equally often; an epoch keeps its number of images.",
    ),
    Hyperparameter(
        "ema_decay",
        "continuous",
        0.0,
        "Decay of a moving average of the weights, which is then validated and served; 0 is off.",
        minimum=0,
        maximum=0.99999,
    ),
    Hyperparameter(
        "accumulate_batches",
        "integer",
        1,
        "Batches whose gradients make one update, as one batch of all their images would "
        "(BatchNorm still sees each batch alone).",
        minimum=1,
    ),
    Hyperparameter(
        "min_crop_area",
        "continuous",
        None,
        "Train on parts of random area, from this share of the image to all of it, and of random "
        "aspect ratio, 3/4 to 4/3, resized to image_shape.",
        minimum=0.01,
        maximum=1,
    ),
    Hyperparameter(
        "randaugment",
        "integer",
        0,
        "Operations of a RandAugment policy on each training image; 0 is off.",
        minimum=0,
        maximum=4,
    ),
    Hyperparameter(
        "randaugment_magnitude",
        "continuous",
        9.0,
        "Strength of these operations.",
        minimum=0,
        maximum=30,
    ),
    Hyperparameter(
        "random_erasing",
        "continuous",
        0.0,
        "Probability that a rectangle of a training image becomes the mean color.",
        minimum=0,
        maximum=1,
    ),
)

INTERFACE = Hyperparameter(
    "interface",
    "categorical",
    None,
    "Which built-in the job is written for; recognized from the channels when unset.",
    choices=("mxnet", "tensorflow"),
)

PRESET = Hyperparameter(
    "preset",
    "categorical",
    None,
    "A named table of values, see below; the job's own values win.",
    choices=tuple(PRESETS),
)

BETA_1 = Hyperparameter(
    "beta_1",
    "continuous",
    0.9,
    "adam: decay of the first moment.",
    minimum=0,
    below=1,
    optimizers=("adam",),
)
BETA_2 = Hyperparameter(
    "beta_2",
    "continuous",
    0.999,
    "adam: decay of the second moment.",
    minimum=0,
    below=1,
    optimizers=("adam",),
)
LR_SCHEDULER_FACTOR = Hyperparameter(
    "lr_scheduler_factor",
    "continuous",
    0.1,
    "Multiplier of the learning rate at each step.",
    minimum=0,
    maximum=1,
)
LR_SCHEDULER_STEP = Hyperparameter(
    "lr_scheduler_step", "text", None, "Epochs after which the rate is multiplied: 10,20."
)
"""Those of a built-in, beside its own in its table."""

BACKEND = Hyperparameter(
    "backend",
    "text",
    None,
    "What computes: the name of a backend; unset: the one that the image is made for, without "
    "an image torch.",
)

SHARED = (
    INTERFACE,
    BACKEND,
    Hyperparameter(
        "backbone",
        "text",
        None,
        "The network: resnet18 … 200, resnet20 … 110, efficientnet_lite0 … 2; with backend=torch "
        "timm/<name>; with backend=mxnet gluon/<name>; with backend=tensorflow keras/<name>, or "
        "saved_model: the SavedModel of the channel model.",
    ),
    Hyperparameter(
        "labels",
        "text",
        None,
        "Class names in the order of their numbers, as a,b,c or a JSON list; unset: a labels.json "
        "in any channel, the folders in a .lst, the class folders, else the numbers.",
    ),
    Hyperparameter(
        "resize_mode",
        "categorical",
        None,
        "crop: resize the shorter side, then crop; squash: resize both sides to image_shape.",
        choices=("crop", "squash"),
    ),
    Hyperparameter(
        "inference_resize",
        "categorical",
        None,
        "Served preprocessing; unset serves exactly what was validated, squash is what the MXNet "
        "built-in serves.",
        choices=("crop", "squash"),
    ),
    Hyperparameter(
        "small_images",
        "categorical",
        None,
        "Images smaller than image_shape: refuse or enlarge.",
        choices=("refuse", "enlarge"),
    ),
    Hyperparameter(
        "warmup_epochs",
        "continuous",
        0.0,
        "The learning rate rises linearly from 0 over this many epochs.",
        minimum=0,
    ),
    Hyperparameter(
        "lr_schedule",
        "categorical",
        None,
        "Learning rate after the warm-up; unset: step if lr_scheduler_step is set, else constant.",
        choices=("constant", "step", "cosine"),
    ),
    Hyperparameter(
        "max_bad_samples",
        "text",
        "0",
        "Unreadable images that are skipped before the job fails: a count, or a share as 1%.",
    ),
    Hyperparameter(
        "pipe_shuffle_mb",
        "integer",
        256,
        "Pipe mode: MiB of encoded images that are held in memory to be shuffled; 0 keeps the "
        "order of the pipe.",
        minimum=0,
    ),
    Hyperparameter(
        "clip_gradient_norm",
        "continuous",
        0.0,
        "Largest norm of the gradient; 0 is off.",
        minimum=0,
    ),
    Hyperparameter(
        "checkpoint_steps",
        "integer",
        None,
        "Steps between checkpoints within an epoch; unset: none but at the ends of epochs.",
        minimum=1,
    ),
    Hyperparameter(
        "checkpoint_minutes",
        "continuous",
        None,
        "Minutes between checkpoints within an epoch; unset: none but at the ends of epochs.",
        minimum=0,
    ),
    Hyperparameter(
        "max_minutes",
        "continuous",
        None,
        "After this time, that before an interruption included, the job stops as at SIGTERM: it "
        "finishes its step, saves a checkpoint and writes the best epoch.",
        above=0,
    ),
    *RECIPE,
    Hyperparameter(
        "precision",
        "categorical",
        None,
        "Number format of training steps; unset or auto: bfloat16 on GPUs that have it, else "
        "float32. Weights and predictions are always float32; what a device lacks is float32 "
        "with a warning.",
        choices=("auto", "float32", "float16", "bfloat16"),
    ),
    Hyperparameter(
        "compile",
        "categorical",
        "auto",
        "Compile training steps: torch.compile, which needs a C++ compiler, or TensorFlow's XLA. "
        "auto is off: whether it pays on a GPU is not measured yet.",
        choices=("auto", "on", "off"),
    ),
    Hyperparameter(
        "calibrate_probabilities",
        "boolean",
        True,
        "Fit one temperature on validation, and serve probabilities that are as often right as "
        "they say; kept only where it helps.",
    ),
    Hyperparameter(
        "keep_last_weights",
        "boolean",
        False,
        "Write weights-last.safetensors, the last epoch's, beside weights.safetensors, the best's.",
    ),
    Hyperparameter(
        "tensorboard",
        "boolean",
        False,
        "Write TensorBoard event files into output/tensorboard.",
    ),
    PRESET,
)
