"""Facts about SageMaker's built-ins for the generated pages: `scripts/docs` and a test read them.

`HYPERPARAMETERS` has every hyperparameter of a built-in's public guide; "" means that name, legal
values, default and meaning are the same here. A test compares the names with the declarations.
"""

from __future__ import annotations

from collections.abc import Mapping

_BETA = "below 1; the built-in allows 1, at which the average would never leave 0"

HYPERPARAMETERS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "num_classes": "required by the built-in; counted here, except in Pipe mode",
        "num_training_samples": "required by the built-in; counted here, except in Pipe mode",
        "augmentation_type": "",
        "beta_1": _BETA,
        "beta_2": _BETA,
        "checkpoint_frequency": "epochs between checkpoints, from which a job resumes; in the "
        "built-in, epochs between files in model.tar.gz. The artifact here always holds the best "
        "epoch",
        "early_stopping": "",
        "early_stopping_min_epochs": "",
        "early_stopping_patience": "",
        "early_stopping_tolerance": "",
        "epochs": "",
        "eps": "",
        "gamma": "",
        "image_shape": "the same for ResNets; a job that sets `backbone` gets the default of that "
        "backbone",
        "kv_store": "hosts always train synchronously, also with dist_async, so that results are "
        "reproducible",
        "learning_rate": "",
        "lr_scheduler_factor": "",
        "lr_scheduler_step": "acts at the listed epochs even if num_training_samples is wrong",
        "mini_batch_size": "a dataset smaller than one batch trains; the built-in fails",
        "momentum": "sgd and nag only, as in the built-in; a log line reports it with other "
        "optimizers",
        "multi_label": "loss: mean binary cross-entropy over the classes; accuracy: mean over the "
        "classes of the share of correct decisions at 0.5. The built-in publishes neither formula",
        "num_layers": "the same from random weights; for ImageNet weights see use_pretrained_model",
        "optimizer": "the same names; the formulas are PyTorch's, not MXNet's "
        "(docs/architecture.md)",
        "precision_dtype": "float32 by default in the built-in; here `precision` decides if it is "
        "unset, by default bfloat16 on GPUs that support it. Set float32 for the default of the "
        "built-in",
        "resize": "optional: image files get 256 for 224, in proportion; records keep their "
        "shorter side, and the server brings photos to it",
        "top_k": "not with multi_label: top-k accuracy needs one label per image",
        "use_pretrained_model": "the built-in trains the ResNet of num_layers from ImageNet "
        "weights; the image has no ResNet weights, so **the job trains efficientnet_lite0 from its "
        "ImageNet weights instead**, as noted in the log, report and model card. With "
        "`resnet50.safetensors` in the image's weights folder the job trains the ResNet; with "
        "`backbone=resnet50` missing weights are an error. Nothing is ever downloaded",
        "use_weighted_loss": "weights each class by the ratio of images without it to images with "
        "it; the built-in publishes no formula. Not in Pipe mode, where classes cannot be counted "
        "beforehand",
        "weight_decay": "sgd and nag only, as in the built-in; a log line reports it with other "
        "optimizers. Here it acts on convolution and dense weights only",
        "model_prefix": "no effect here or in the built-in, which does not document it",
        "use_lr_scheduler": "no effect here or in the built-in, which does not document it",
    },
    "tensorflow": {
        "epochs": "",
        "batch_size": "images per step on one host",
        "optimizer": "the same names; the formulas are PyTorch's, not Keras' "
        "(docs/architecture.md)",
        "learning_rate": "the same meaning, but for another network and other preprocessing: tune "
        "it again, starting from the built-in's value",
        "beta_1": _BETA,
        "beta_2": _BETA,
        "momentum": "as learning_rate; Keras scales gradients by the learning rate before it "
        "accumulates them",
        "epsilon": "also accepted as `eps`, its name on the built-in's tuning page",
        "rho": "",
        "initial_accumulator_value": "",
        "regularizers_l2": "",
        "label_smoothing": "",
        "dropout_rate": "below 1; the built-in allows 1, which drops everything",
        "train_only_top_layer": "all three published spellings are accepted",
        "reinitialize_top_layer": "",
        "early_stopping": "",
        "early_stopping_patience": "",
        "early_stopping_min_delta": "",
        "augmentation": "",
        "augmentation_random_flip": "`horizontal` too, as in the published specification",
        "augmentation_random_rotation": "",
        "augmentation_random_zoom": "",
        "binary_mode": "one sigmoid in the built-in, the probability of the positive class; here a "
        "softmax of two classes, and answers contain both probabilities, the positive class second",
        "eval_metric": "",
        "image_resize_interpolation": "",
        "validation_split_ratio": "",
        "random_seed": "",
    },
}
"""Interface → hyperparameter → what differs here."""

CHANNELS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "train": "several `.rec` files are one dataset (the built-in takes one file); also class "
        "folders and, in File mode, a `.manifest` next to the images",
        "validation": "optional with `validation_split_ratio`. In Pipe mode, one pass is copied to "
        "the disk and evaluated after every epoch, so that every image counts once",
        "train_lst": "paths can start above the channel's folder; required only for images with a "
        "list",
        "validation_lst": "as train_lst",
        "model": "an artifact of this project or of the built-in; for other classes it gets a new "
        "head. If an artifact replaced the ResNet of `num_layers`, the job continues with the "
        "artifact's network",
    },
    "tensorflow": {
        "training": "",
        "validation": "",
        "test": "",
        "code": "not read",
        "model": "not needed: pretrained weights are in the image. A job continues from an "
        "artifact of this project. It fine-tunes a base model of the built-in with "
        "`backend=tensorflow` if it sets no `backbone` (docs/tensorflow.md); otherwise it ignores "
        "the base model with a warning",
    },
}
"""Interface → channel → what differs here."""

METRICS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "train:accuracy": "over all images; in the built-in over full batches only",
        "validation:accuracy": "over all images, each once; in the built-in over full batches only",
        "train:top_k_accuracy": "the line is the built-in's, the name of the metric is ours",
        "validation:top_k_accuracy": "the line is the built-in's, the name of the metric is ours",
    },
    "tensorflow": {
        "validation:accuracy": "the objective of the tuning guide, which publishes no expression",
    },
}
"""Interface → metric → what differs here."""

BEHAVIORS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mxnet": (
        (
            "The server preprocesses an image as validation did (resize, center crop).",
            "The built-in's server squashes it to `image_shape`, which the model never saw in "
            "training: the best-known reason why endpoints are less accurate than validation. "
            "`inference_resize=squash` restores that behavior.",
        ),
        (
            "With several hosts, only `train` may be ShardedByS3Key.",
            "The first host validates on all images. Every host trains on its own objects and "
            "takes as many steps as the host with the most images. Jobs that count the classes of "
            "all training images (`class_weights`, `use_weighted_loss`) and Pipe mode are refused.",
        ),
        (
            "model.tar.gz holds an ONNX graph, safetensors and JSON instead of MXNet's files.",
            "No MXNet is needed to read them, and they contain no code.",
        ),
        (
            "An unreadable image fails the job with its name, unless `max_bad_samples` allows it.",
            "A blank or missing image would silently change the result.",
        ),
    ),
    "tensorflow": (
        (
            "`backbone` selects the network, not `model_id`. By default it is the SavedModel of "
            "the channel `model` with `backend=tensorflow`, else efficientnet_lite0.",
            "The models of the built-in come from a hub; a job here needs no network access.",
        ),
        (
            "model.tar.gz holds an ONNX graph, safetensors and JSON instead of a SavedModel; it "
            "also holds `class_label_to_prediction_index.json`.",
            "No TensorFlow is needed to read it, and it contains no code. "
            "`image-classification export --model model.tar.gz --format saved_model` converts it "
            "to a SavedModel.",
        ),
    ),
}
"""Interface → (what differs here, why)."""

IGNORED_VARIABLES: Mapping[str, str] = {
    "SAGEMAKER_MODEL_SERVER_VMARGS": "options of a Java server; this one is Python",
    "SAGEMAKER_NUM_MODEL_WORKERS": "workers per model of a multi-model endpoint; here all models "
    "share the server's threads",
    "SAGEMAKER_MAX_REQUEST_SIZE": "the XGBoost image's body limit on multi-model endpoints; set "
    "MAX_CONTENT_LENGTH instead",
    "SAGEMAKER_SAFE_PORT_RANGE": "ports for other processes; the server opens only its own port",
    "SAGEMAKER_BASE_DIR": "the toolkits' root folder; set IMAGE_CLASSIFICATION_BASE_DIR instead",
    "SAGEMAKER_ENV": "tells that the platform runs the container; nothing depends on it",
    "ENDPOINT_SERVER_TIMEOUT": "set by the TensorFlow built-in together with "
    "SAGEMAKER_MODEL_SERVER_TIMEOUT, which has the effect",
    "MODEL_CACHE_ROOT": "set by the TensorFlow built-in; nothing is cached on disk",
}
"""Environment variable of the platform or its toolkits → why it has no effect here."""
