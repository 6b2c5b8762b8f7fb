"""The hyperparameters that both interfaces share, and what each interface declares on its own.

Those that neither built-in has are off by default.
"""

from image_classification.contract.hyperparameter import (
    Hyperparameter,
    Hyperparameters,
    absent,
    choice,
    flag,
    integer,
    real,
    text,
)
from image_classification.contract.presets import PRESETS

LARGEST_SEED = 2**64 - 1
"""The largest that `torch.manual_seed` accepts; the other backends have no limit."""

# fmt: off
# One row per hyperparameter.


class SharedHyperparameters(Hyperparameters):
    """The typed hyperparameters of a job of either interface."""

    resize_follows_data = False
    """If the job does not set `resize`: True takes it from the data, False from the backbone."""

    # Each interface declares these with the default and range of its built-in.
    epochs: Hyperparameter[int]
    batch_size: Hyperparameter[int]
    learning_rate: Hyperparameter[float]
    optimizer: Hyperparameter[str]
    momentum: Hyperparameter[float]
    weight_decay: Hyperparameter[float]
    epsilon: Hyperparameter[float]
    decay: Hyperparameter[float]
    label_smoothing: Hyperparameter[float]
    dropout_rate: Hyperparameter[float | None]
    early_stopping_patience: Hyperparameter[int]
    resize_mode: Hyperparameter[str]
    small_images: Hyperparameter[str]
    top_k: Hyperparameter[int | None]
    use_pretrained_model: Hyperparameter[bool]
    train_only_top_layer: Hyperparameter[bool]
    validation_split_ratio: Hyperparameter[float | None]
    random_seed: Hyperparameter[int]

    # Only one interface has these; a job of the other one has this value.
    num_classes: Hyperparameter[int | None] = absent(None)
    num_training_samples: Hyperparameter[int | None] = absent(None)
    num_layers: Hyperparameter[str | None] = absent(None)
    augmentation_type: Hyperparameter[str | None] = absent(None)
    precision_dtype: Hyperparameter[str | None] = absent(None)
    early_stopping_min_epochs = absent(0)
    early_stopping_tolerance = absent(0.0)
    multi_label = absent(False)
    use_weighted_loss = absent(False)
    initial_accumulator_value = absent(0.0)
    regularizers_l2 = absent(0.0)
    reinitialize_top_layer = absent("Auto")
    early_stopping_min_delta = absent(0.0)
    augmentation = absent(False)
    augmentation_random_flip = absent("None")
    augmentation_random_rotation = absent(0.0)
    augmentation_random_zoom = absent(0.0)
    binary_mode = absent(False)
    binary_answer = absent("softmax")
    eval_metric = absent("accuracy")
    image_resize_interpolation: Hyperparameter[str | None] = absent(None)

    interface = choice(None, ("mxnet", "tensorflow"),
        "The built-in that the job is written for; by default recognized from the channels.")
    backend = text(None,
        "The framework that trains; unset: that of the training image, or torch outside a "
        "container.")
    backbone = text(None,
        "The network: resnet18 … 200, resnet20 … 110, efficientnet_lite0 … 4; the networks of "
        "public weights: resnet18_v1.5 … 152_v1.5, wide_resnet50_2, resnext50_32x4d, "
        "mobilenet_v2, efficientnet_b0 … b7, tf_efficientnet_b0 … b7 and others "
        "(docs/backbones.md); with backend=torch also timm/<name>; with backend=mxnet "
        "gluon/<name>; with backend=tensorflow keras/<name>, or saved_model: the SavedModel of the "
        "channel model.")
    model_id = text(None,
        "The id of one of JumpStart's image classifiers, or its handle on TensorFlow Hub, instead "
        "of backbone: chooses the backbone and image_shape; docs/model-ids.md lists all.")
    labels = text(None,
        "Class names in the order of their numbers, as a,b,c or a JSON list; unset: a labels.json "
        "in any channel, the folders in a .lst, the class folders, else the numbers.")
    image_shape = text(None,
        "Input of the network as channels,height,width; unset: that of the backbone, and 3,224,224 "
        "for num_layers.")
    resize = integer(None,
        "With resize_mode=crop: the shorter side in pixels before the crop; unset: chosen by the "
        "data or by the backbone.", 1)
    inference_resize = choice(None, ("crop", "squash"),
        "Preprocessing in the server; unset: exactly that of validation; squash: that of the MXNet "
        "built-in's server.")
    beta_1 = real(0.9,
        "adam: decay of the first moment.", 0, below=1, optimizers=("adam",), tuned=(1e-6, 0.999))
    beta_2 = real(0.999,
        "adam: decay of the second moment.", 0, below=1, optimizers=("adam",), tuned=(1e-6, 0.999))
    clip_gradient_norm = real(0.0, "Largest norm of the gradient; 0 is off.", 0)
    lr_schedule = choice(None, ("constant", "step", "cosine"),
        "Learning rate after the warm-up; unset: step if lr_scheduler_step is set, else constant.")
    lr_scheduler_factor = real(0.1, "Factor of the learning rate at each step.", 0, 1)
    lr_scheduler_step = text(None,
        "Epochs after which lr_scheduler_factor multiplies the learning rate, such as 10,20.")
    min_updates = integer(0,
        "Least number of updates of the weights; if epochs gives fewer, the job trains longer.",
        0, 1_000_000)
    fit_head_first = choice("off", ("off", "on", "compare"),
        "Before all layers train, train the head alone with the values of preset=transfer. on: the "
        "best epoch of all layers is exported; compare: the best epoch of both stages. Needs "
        "pretrained weights and one process, else all layers train from the first epoch.")
    warmup_epochs = real(0.0, "The learning rate rises linearly from 0 over this many epochs.", 0)
    early_stopping = flag(False, "Stop when validation accuracy no longer improves.")
    max_bad_samples = text("0",
        "Unreadable images to skip before the job fails: a count, or a share such as 1%.")
    pipe_shuffle_mb = integer(256,
        "Pipe mode: MiB of encoded images to keep in memory for shuffling; 0 keeps the order of "
        "the pipe.", 0)
    checkpoint_frequency = integer(1,
        "Epochs between checkpoints; the artifact always holds the best epoch.", 1)
    checkpoint_steps = integer(None,
        "Steps between checkpoints within an epoch; unset: checkpoints only at the end of epochs.",
        1)
    checkpoint_minutes = real(None,
        "Minutes between checkpoints within an epoch; unset: checkpoints only at the end of "
        "epochs.", 0)
    max_minutes = real(None,
        "Time limit in minutes, including the time before an interruption. The job then stops as "
        "it does at SIGTERM: it finishes its step, saves a checkpoint and writes the best epoch.",
        above=0)
    mixup_alpha = real(0.0,
        "Mixup: blend each image with another one of its batch, with a share drawn from "
        "Beta(alpha, alpha); 0 is off.", 0, 100)
    cutmix_alpha = real(0.0,
        "CutMix: replace a rectangle, with an area drawn from Beta(alpha, alpha), with the same "
        "rectangle of another image in the batch; 0 is off. With mixup_alpha, each step uses one "
        "of the two.", 0, 100)
    class_weights = choice(None, ("balanced", "effective", "logit_adjust"),
        "For classes of different sizes. Weights of samples by class: balanced (1 / samples of the "
        "class) or effective (by the effective number of samples, beta 0.999); or logit_adjust: "
        "the training loss adds logit_adjust_tau times the logarithm of a class's share of the "
        "samples to its logits. The served probabilities do not contain that term: they are those "
        "for classes of equal size. Not with balanced_sampling.")
    logit_adjust_tau = real(0.75,
        "class_weights=logit_adjust: strength of the correction; 0 is none, 1 corrects fully for "
        "the sizes of the classes.", 0, 4)
    balanced_sampling = flag(False,
        "Draw every class equally often; an epoch keeps its number of images.")
    ema_decay = real(0.0,
        "Decay of a moving average of the weights, which is validated and served instead of the "
        "weights; 0 is off.", 0, 0.99999)
    accumulate_batches = integer(1,
        "Number of batches whose gradients are combined into one update, as if they were a "
        "single batch (but BatchNorm sees each batch alone).", 1)
    min_crop_area = real(None,
        "Train on random crops, resized to image_shape, with an aspect ratio of 3/4 to 4/3; this "
        "is the smallest share of the image's area that a crop covers.", 0.01, 1)
    randaugment = integer(0, "RandAugment operations on each training image; 0 is off.", 0, 4)
    randaugment_magnitude = real(9.0, "Strength of the RandAugment operations.", 0, 30)
    random_erasing = real(0.0,
        "Probability that a rectangle of a training image becomes the mean color.", 0, 1)
    precision = choice(None, ("auto", "float32", "float16", "bfloat16"),
        "Number format of training steps; unset or auto: bfloat16 on GPUs that support it, "
        "float16 on V100 and T4, else float32; with MXNet float32. Weights and predictions are "
        "always float32. A device without the format uses float32 with a warning.")
    compile = choice("auto", ("auto", "on", "off"),
        "Compile training steps with torch.compile, which needs a C++ compiler and is an error in "
        "our images, or TensorFlow's XLA; with MXNet a warning. auto is off: whether it pays on a "
        "GPU is not measured yet.")
    feature_copies = integer(3,
        "With train_only_top_layer: the backbone computes the features of each training image "
        "once for each of this many augmented copies, in the first epochs; the other epochs take "
        "these copies in turn and compute only the head. 1: the image as it is, without "
        "augmentation: about half the time, and as accurate on photographs of flowers. 0: "
        "every epoch augments anew and computes all features. Pipe mode, mixup_alpha and "
        "cutmix_alpha work as with 0.", 0, 100)
    calibrate_probabilities = flag(True,
        "Fit one temperature on validation and serve calibrated probabilities; no effect where "
        "it does not improve them.")
    feature_index = flag(True,
        "Write a feature index to the artifact: features of at most 1,000 training images (2 "
        "MiB). The server uses it to score how much an image is like them (`;score` in Accept).")
    keep_last_weights = flag(False,
        "Write the last epoch's weights to weights-last.safetensors, next to the best epoch's in "
        "weights.safetensors.")
    tensorboard = flag(False, "Write TensorBoard event files to output/tensorboard.")
    preset = choice(None, tuple(PRESETS),
        "A named set of values, listed in docs/hyperparameters.md; values that the job sets "
        "itself override it.")
