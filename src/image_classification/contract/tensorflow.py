"""The interface of *Image Classification – TensorFlow*: its channels and hyperparameters.

Names, meanings, ranges and defaults are those of the public developer guide
(IC-TF-Hyperparameter.md), with all three spellings of `train_only_top_layer`.
"""

from image_classification.contract.channels import MODEL_CHANNEL, WEIGHTS_CHANNEL, Channel
from image_classification.contract.hyperparameter import choice, flag, integer, real
from image_classification.contract.shared import LARGEST_SEED, SharedHyperparameters

# fmt: off
# One row per channel and per hyperparameter.

CHANNELS = (
    Channel("training", True, (), "One folder of images per class."),
    Channel("validation", False, (),
        "The same classes; without it, a share of training is held out."),
    Channel("test", False, (), "The same classes; the final model is evaluated on it."),
    Channel("code", False, (), "The script of the built-in's jobs; it is not read."),
    MODEL_CHANNEL,
    WEIGHTS_CHANNEL,
)

_INTERPOLATIONS = ("bilinear", "nearest", "bicubic", "area", "lanczos3")


class TensorFlowHyperparameters(SharedHyperparameters):
    """The typed hyperparameters of a job of the TensorFlow interface."""

    epochs = integer(3, "Passes over the training data.", 1, 1000)
    batch_size = integer(32, "Images per step.", 1, 1024, tuned=(8, 512))
    optimizer = choice("adam", ("adam", "sgd", "nesterov", "rmsprop", "adagrad", "adadelta"),
        "Optimizer.", tuned=True)
    learning_rate = real(0.001,
        "Initial learning rate.", 0, 1, aliases=("adam_learning_rate",), tuned=(1e-6, 0.5))
    momentum = real(0.9,
        "sgd, nesterov, rmsprop: momentum.", 0, 1, optimizers=("sgd", "nesterov", "rmsprop"),
        tuned=(0.0, 0.999))
    epsilon = real(1e-7,
        "adam, rmsprop, adadelta, adagrad: epsilon.", 0, 1,
        optimizers=("adam", "rmsprop", "adadelta", "adagrad"), aliases=("eps",), tuned=(1e-8, 1.0))
    decay = real(0.95,
        "adadelta, rmsprop: decay of the squared gradient's average.", 0, 1,
        optimizers=("adadelta", "rmsprop"), name="rho")
    initial_accumulator_value = real(0.0001,
        "adagrad: first value of the accumulator.", 0, 1, optimizers=("adagrad",))
    weight_decay = real(0.0, "Weight decay of the optimizer.", 0, 1)
    regularizers_l2 = real(0.0001, "L2 factor of the head's weights.", 0, 1, tuned=(0.0, 0.999))
    label_smoothing = real(0.1, "Share of the target that is spread over all classes.", 0, 1)
    dropout_rate = real(0.2, "Dropout before the head.", 0, below=1)
    use_pretrained_model = flag(True, "Start from pretrained weights.")
    train_only_top_layer = flag(False,
        "Train only the head.", aliases=("train_only_on_top_layer", "train_only_on_top"),
        tuned=True)
    reinitialize_top_layer = choice("Auto", ("Auto", "True", "False"),
        "Auto: a new head on a pretrained backbone, but keep the head of a model of the same "
        "classes; True: always a new head; False: always keep the head, or fail if its classes "
        "differ.")
    early_stopping_patience = integer(5, "Epochs without improvement.", 1, 1000)
    early_stopping_min_delta = real(0.0, "Absolute gain that counts as improvement.", 0, 1)
    augmentation = flag(False, "Turn on random flips, rotation and zoom of training images.")
    augmentation_random_flip = choice("horizontal_and_vertical",
        ("horizontal_and_vertical", "horizontal", "vertical", "None"),
        "Random flips.")
    augmentation_random_rotation = real(0.2, "Largest rotation as a share of a turn.", -1, 1)
    augmentation_random_zoom = real(0.1, "Largest zoom as a share of the height.", -1, 1)
    resize_mode = choice("squash", ("crop", "squash"),
        "crop: resize the shorter side, then crop; squash: resize both sides to image_shape.")
    small_images = choice("enlarge", ("refuse", "enlarge"),
        "What to do with images smaller than image_shape.")
    image_resize_interpolation = choice("bilinear",
        (*_INTERPOLATIONS, "lanczos5", "gaussian", "mitchellcubic"),
        "Interpolation of resized images.", only=_INTERPOLATIONS)
    binary_mode = flag(False,
        "Two classes; the second one by name is the positive one. Log lines have precision, "
        "recall, auc and prc, too.")
    binary_answer = choice("softmax", ("softmax", "sigmoid"),
        "The answers of a model with binary_mode: softmax has both probabilities; sigmoid has that "
        "of the positive class alone, as the built-in.")
    eval_metric = choice("accuracy", ("accuracy", "precision", "recall", "auc", "prc"),
        "The metric that selects the best epoch; all but accuracy need binary_mode.")
    validation_split_ratio = real(0.2,
        "Share of training to hold out if there is no validation channel.", 0, 1)
    top_k = integer(5, "k of the reported top-k accuracy.", 2)
    random_seed = integer(123,
        "Seed of the split, weights, order and augmentation.", 0, LARGEST_SEED)
