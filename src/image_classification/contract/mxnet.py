"""The interface of *Image Classification – MXNet*: its channels and hyperparameters.

Names, meanings, ranges and defaults are those of the public developer guide
(IC-Hyperparameter.md); file conventions are those of published notebooks.
"""

from image_classification.contract.channels import (
    ALL_MODES,
    MODEL_CHANNEL,
    WEIGHTS_CHANNEL,
    Channel,
)
from image_classification.contract.hyperparameter import choice, flag, integer, real, text
from image_classification.contract.shared import LARGEST_SEED, SharedHyperparameters

_IMAGES = ("application/x-image", "image/jpeg", "image/png")
_RECORDS_OR_IMAGES = ("application/x-recordio", *_IMAGES)

# fmt: off
# One row per channel and per hyperparameter.

CHANNELS = (
    Channel("train", True, _RECORDS_OR_IMAGES,
        "Training images: record files, images with a list or a manifest, or class folders.",
        ALL_MODES),
    Channel("validation", False, _RECORDS_OR_IMAGES,
        "Validation images, in any form that train accepts; optional with validation_split_ratio.",
        ALL_MODES),
    Channel("train_lst", False, _IMAGES, "One .lst file that lists the images of train."),
    Channel("validation_lst", False, _IMAGES, "One .lst file that lists the images of validation."),
    MODEL_CHANNEL,
    WEIGHTS_CHANNEL,
)


class MXNetHyperparameters(SharedHyperparameters):
    """The typed hyperparameters of a job of the MXNet interface."""

    resize_follows_data = True

    num_classes = integer(None, "Number of classes; unset: counted in the data.", 1)
    num_training_samples = integer(None,
        "Number of training images: the length of an epoch in Pipe mode; in other modes a warning "
        "reports a different number in the data.", 1)
    num_layers = choice("152",
        ("18", "34", "50", "101", "152", "200", "20", "32", "44", "56", "110"),
        "ResNet depth.")
    multi_label = flag(False, "An image may have several classes; each class is a sigmoid.")
    epochs = integer(30, "Passes over the training data.", 1)
    batch_size = integer(32,
        "Images per step on one host.", 1, name="mini_batch_size", tuned=(8, 512))
    learning_rate = real(0.1, "Initial learning rate.", 0, 1, tuned=(1e-6, 0.5))
    optimizer = choice("sgd", ("sgd", "adam", "rmsprop", "nag"), "Optimizer.", tuned=True)
    momentum = real(0.9,
        "sgd and nag: momentum; no effect with other optimizers, as in the built-in.", 0, 1,
        optimizers=("sgd", "nag"), tuned=(0.0, 0.999))
    weight_decay = real(0.0001,
        "sgd and nag: weight decay; no effect with other optimizers, as in the built-in.", 0,
        1, optimizers=("sgd", "nag"), tuned=(0.0, 0.999))
    epsilon = real(1e-8,
        "adam and rmsprop: epsilon.", 0, 1, optimizers=("adam", "rmsprop"), name="eps",
        tuned=(1e-8, 1.0))
    decay = real(0.9,
        "rmsprop: decay of the squared gradient's average.", 0, 1, optimizers=("rmsprop",),
        name="gamma", tuned=(1e-8, 0.999))
    augmentation_type = choice(None, ("crop", "crop_color", "crop_color_transform"),
        "Random changes of training images. crop: crop and horizontal flip; crop_color: color "
        "too; crop_color_transform: affine transforms too. Unset: no changes; the center is "
        "cropped.")
    resize_mode = choice("crop", ("crop", "squash"),
        "crop: resize the shorter side, then crop; squash: resize both sides to image_shape.")
    small_images = choice("refuse", ("refuse", "enlarge"),
        "What to do with images smaller than image_shape.")
    early_stopping_min_epochs = integer(10, "Epochs before early stopping can act.", 1)
    early_stopping_patience = integer(5, "Epochs without improvement before training stops.", 1)
    early_stopping_tolerance = real(0.0, "Relative gain that counts as improvement.", 0, 1)
    label_smoothing = real(0.0, "Share of the target that is spread over all classes.", 0, 1)
    dropout_rate = real(None, "Dropout before the head; unset: the backbone's own.", 0, below=1)
    train_only_top_layer = flag(False, "Train only the head.")
    use_pretrained_model = flag(False,
        "Start from ImageNet weights with a new head; the whole network is trained. For num_layers "
        "the job takes the first network that has weights: the built-in's ResNet (resnet50), the "
        "usual ResNet of that depth (resnet50_v1.5, with a log line), efficientnet_lite0 (with a "
        "warning). A backbone that the job sets is never replaced.")
    use_weighted_loss = flag(False,
        "With multi_label: weight each class by the ratio of images without it to images with it.")
    precision_dtype = choice(None, ("float32", "float16"),
        "Precision of training steps; unset: see precision. On a CPU, float16 trains in float32.")
    top_k = integer(None, "Report top-k accuracy too.", 2)
    random_seed = integer(0, "Seed of weights, order and augmentation.", 0, LARGEST_SEED)
    validation_split_ratio = real(None,
        "Share of train to hold out if there is no validation channel.", 0, 1)
    kv_store = choice(None, ("dist_sync", "dist_async"),
        "No effect on one host; several hosts train synchronously with either value.")
    model_prefix = text(None, "Accepted but has no effect, as in the built-in.")
    use_lr_scheduler = flag(None,
        "Accepted but has no effect: lr_scheduler_step alone decides, as in the built-in.")
