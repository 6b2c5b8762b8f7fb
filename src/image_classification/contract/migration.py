"""What is not as in the built-ins, name by name, and why: the data of docs/migrating.md.

`HYPERPARAMETERS` has every hyperparameter of a built-in's public guide; "" means that name, legal
values, default and meaning are the same here. A test holds the names against the declarations.
"""

from __future__ import annotations

from collections.abc import Mapping

_BETA = "below 1; there up to 1, with which the average would never leave 0"

MXNET_HYPERPARAMETERS = {
    "num_classes": "required there; counted here, except in Pipe mode",
    "num_training_samples": "required there; counted here, except in Pipe mode",
    "augmentation_type": "",
    "beta_1": _BETA,
    "beta_2": _BETA,
    "checkpoint_frequency": "epochs between checkpoints, from which a job resumes; there, epochs "
    "between files in model.tar.gz. The artifact here always holds the best epoch",
    "early_stopping": "",
    "early_stopping_min_epochs": "",
    "early_stopping_patience": "",
    "early_stopping_tolerance": "",
    "epochs": "",
    "eps": "",
    "gamma": "",
    "image_shape": "the same for ResNets; another `backbone` brings its own default",
    "kv_store": "hosts always train synchronously, also with dist_async, so that a result can be "
    "repeated",
    "learning_rate": "",
    "lr_scheduler_factor": "",
    "lr_scheduler_step": "acts at the epochs it names even if num_training_samples is wrong",
    "mini_batch_size": "a data set smaller than one batch trains; there it is an error",
    "momentum": "sgd and nag alone, there and here; with others a log line says so",
    "multi_label": "loss: mean binary cross-entropy over the classes; accuracy: mean over the "
    "classes of right decisions at 0.5. The built-in publishes neither formula",
    "num_layers": "the same from random weights; for ImageNet weights see use_pretrained_model",
    "optimizer": "the same names; the formulas are PyTorch's, not MXNet's (docs/architecture.md)",
    "precision_dtype": "unset is float32 there; here unset leaves it to `precision`, by default "
    "bfloat16 on GPUs that have it. Set float32 for the same",
    "resize": "may be left out: images then get 256 for 224, in proportion; records keep the "
    "shorter side they have, and photos that are served are brought to it",
    "top_k": "not with multi_label: several labels have no rank among k",
    "use_pretrained_model": "there, the ResNet of num_layers with ImageNet weights; the image has "
    "none of ResNets, so **the job trains efficientnet_lite0 with its ImageNet weights instead**, "
    "and log, report and model card say so. With `resnet50.safetensors` in the image's weights "
    "folder it is the ResNet; naming `backbone=resnet50` makes missing weights an error. Nothing "
    "is ever downloaded",
    "use_weighted_loss": "a class weighs images without it per image with it; the built-in "
    "publishes no formula. Not in Pipe mode, where classes cannot be counted beforehand",
    "weight_decay": "sgd and nag alone, there and here; with others a log line says so. Here it "
    "reaches convolution and dense weights only",
    "model_prefix": "without effect, there and here; undocumented there",
    "use_lr_scheduler": "without effect, there and here; undocumented there",
}

TENSORFLOW_HYPERPARAMETERS = {
    "epochs": "",
    "batch_size": "images per step on one host",
    "optimizer": "the same names; the formulas are PyTorch's, not Keras' (docs/architecture.md)",
    "learning_rate": "the same meaning, but for another network and images prepared otherwise: one "
    "that was tuned there is only a first guess here",
    "beta_1": _BETA,
    "beta_2": _BETA,
    "momentum": "as learning_rate; and Keras folds the rate into it",
    "epsilon": "`eps`, as the tuning page calls it, is taken too",
    "rho": "",
    "initial_accumulator_value": "",
    "regularizers_l2": "",
    "label_smoothing": "",
    "dropout_rate": "below 1; there up to 1, which drops everything",
    "train_only_top_layer": "all three published spellings are taken",
    "reinitialize_top_layer": "",
    "early_stopping": "",
    "early_stopping_patience": "",
    "early_stopping_min_delta": "",
    "augmentation": "",
    "augmentation_random_flip": "`horizontal` too, as in the published specification",
    "augmentation_random_rotation": "",
    "augmentation_random_zoom": "",
    "binary_mode": "there one sigmoid, the probability of the positive class; here a softmax of "
    "two classes, and answers hold both probabilities, the positive class's second",
    "eval_metric": "",
    "image_resize_interpolation": "",
    "validation_split_ratio": "",
    "random_seed": "",
}

HYPERPARAMETERS: Mapping[str, Mapping[str, str]] = {
    "mxnet": MXNET_HYPERPARAMETERS,
    "tensorflow": TENSORFLOW_HYPERPARAMETERS,
}

CHANNELS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "train": "several `.rec` files are one data set (there exactly one); class folders, and a "
        "`.manifest` beside the images in File mode, are taken too",
        "validation": "may be left out with `validation_split_ratio`. In Pipe mode one pass is "
        "copied to the disk and measured on after every epoch, so that every image counts once",
        "train_lst": "paths may begin above the channel's folder; required only for images by list",
        "validation_lst": "as train_lst",
        "model": "an artifact of this project, or what the built-in left; for other classes it "
        "gets a new head. An artifact that was trained in place of the ResNet of `num_layers` goes "
        "on as what it is",
    },
    "tensorflow": {
        "training": "",
        "validation": "",
        "test": "",
        "code": "not looked at",
        "model": "not needed: pretrained weights are in the image. An artifact of this project "
        "is gone on from. A base model of the built-in is fine-tuned with `backend=tensorflow`, "
        "where no `backbone` is named (docs/tensorflow.md); elsewhere it is left with a warning",
    },
}

METRICS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "train:accuracy": "over all images; there over full batches only",
        "validation:accuracy": "over all images, each once; there over full batches only",
        "train:top_k_accuracy": "the line is the built-in's, the metric's name ours",
        "validation:top_k_accuracy": "the line is the built-in's, the metric's name ours",
    },
    "tensorflow": {
        "validation:accuracy": "the objective of the tuning guide, which publishes no expression",
    },
}

BEHAVIORS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mxnet": (
        (
            "The server prepares an image as validation did (resize, center crop).",
            "The built-in squashes to `image_shape`, which it never trained on: the best known "
            "cause of endpoints below their validation accuracy. `inference_resize=squash` gives "
            "the old behavior.",
        ),
        (
            "With several hosts `train` may be ShardedByS3Key, the other channels not.",
            "The first host validates, on all images. Every host then takes its own objects; all "
            "of them take as many steps as the one with most images. What counts the classes of "
            "all training images (`class_weights`, `use_weighted_loss`) and Pipe mode are refused.",
        ),
        (
            "model.tar.gz holds an ONNX graph, safetensors and JSON instead of MXNet's files.",
            "They can be read without MXNet and cannot execute.",
        ),
        (
            "An image that cannot be read fails the job by name, within the budget "
            "`max_bad_samples`.",
            "A blank or a missing image would change the result in silence.",
        ),
    ),
    "tensorflow": (
        (
            "The network is `backbone` and not chosen by `model_id`. Its default is the SavedModel "
            "of the channel `model` with `backend=tensorflow`, else efficientnet_lite0.",
            "The models of the built-in come from a hub; a job here needs no network.",
        ),
        (
            "model.tar.gz holds an ONNX graph, safetensors and JSON instead of a SavedModel; "
            "`class_label_to_prediction_index.json` is there.",
            "It can be read without TensorFlow and cannot execute; `image-classification export "
            "--model model.tar.gz --format saved_model` writes a SavedModel of it.",
        ),
    ),
}
"""(what is different here, why) for each interface."""
