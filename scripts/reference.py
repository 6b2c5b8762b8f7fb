"""Facts about SageMaker's built-ins for the generated pages: `scripts/docs` and a test read them.

`HYPERPARAMETERS` has every hyperparameter of a built-in's public guide; "" means that name, legal
values, default and meaning are the same here. A test compares the names with the declarations.
"""

from __future__ import annotations

from collections.abc import Mapping

_BETA = "must be below 1; the built-in allows 1, at which the average would always stay 0"

HYPERPARAMETERS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "num_classes": "required by the built-in; counted here, except in Pipe mode",
        "num_training_samples": "required by the built-in; counted here, except in Pipe mode",
        "augmentation_type": "",
        "beta_1": _BETA,
        "beta_2": _BETA,
        "checkpoint_frequency": "epochs between checkpoints, from which a job resumes; in the "
        "built-in, epochs between the parameter files in model.tar.gz. Here the artifact always "
        "contains the best epoch",
        "early_stopping": "",
        "early_stopping_min_epochs": "",
        "early_stopping_patience": "",
        "early_stopping_tolerance": "",
        "epochs": "",
        "eps": "",
        "gamma": "",
        "image_shape": "the same for ResNets; in a job that sets `backbone`, the default depends "
        "on the backbone",
        "kv_store": "hosts always train synchronously, even with dist_async, so that results are "
        "reproducible",
        "learning_rate": "",
        "lr_scheduler_factor": "",
        "lr_scheduler_step": "acts at the listed epochs even if num_training_samples is wrong",
        "mini_batch_size": "a data set smaller than one batch can be trained on; the built-in "
        "fails",
        "momentum": "used by sgd and nag only, as in the built-in; with other optimizers, a log "
        "line reports that it has no effect",
        "multi_label": "the loss is the mean binary cross-entropy over the classes; the accuracy "
        "is the share of correct decisions at a threshold of 0.5, averaged over the classes. The "
        "formulas of the built-in are not published",
        "num_layers": "the same with random weights; for ImageNet weights see "
        "`use_pretrained_model`",
        "optimizer": "the same names; the formulas are PyTorch's, not MXNet's "
        "(docs/architecture.md)",
        "precision_dtype": "the built-in's default is float32. Here, if it is unset, `precision` "
        "applies, which selects bfloat16 or float16 by default on GPUs that support it, except "
        "with MXNet. Set float32 to get the built-in's default",
        "resize": "optional. If it is unset, image files are resized to 256 for an input of 224, "
        "and in proportion for other inputs. Records keep their shorter side, and the server "
        "resizes images to that side",
        "top_k": "not with multi_label: top-k accuracy needs one label per image",
        "use_pretrained_model": "the built-in trains the ResNet of `num_layers` from ImageNet "
        "weights. If the image has weights of that ResNet, or of the usual ResNet of that depth "
        "(`resnet50_v1.5`), or the channel `weights` brings them (docs/bring-weights.md), the job "
        "trains it. Otherwise **the job trains efficientnet_lite0 from its ImageNet weights "
        "instead**, as noted in the log, report and model card. With `backbone=resnet50`, the job "
        "fails if the weights are missing. No job downloads anything",
        "use_weighted_loss": "weights each class by the ratio of images without it to images with "
        "it; the built-in publishes no formula. Not in Pipe mode, where classes cannot be counted "
        "beforehand",
        "weight_decay": "used by sgd and nag only, as in the built-in; with other optimizers, a "
        "log line reports that it has no effect. Here it acts on convolution and dense weights "
        "only",
        "model_prefix": "no effect here or in the built-in, which does not document it",
        "use_lr_scheduler": "no effect here or in the built-in, which does not document it",
    },
    "tensorflow": {
        "epochs": "",
        "batch_size": "images per step on one host",
        "optimizer": "the same names; the formulas are PyTorch's, not Keras' "
        "(docs/architecture.md)",
        "learning_rate": "`adam-learning-rate`, from the sample notebook, is also accepted. The "
        "same meaning, but the network and the preprocessing differ: tune it "
        "again, starting from the built-in's value",
        "beta_1": _BETA,
        "beta_2": _BETA,
        "momentum": "tune it again, as `learning_rate`; Keras multiplies gradients by the "
        "learning rate before it accumulates them",
        "epsilon": "`eps`, its name on the built-in's tuning page, is also accepted",
        "rho": "",
        "initial_accumulator_value": "",
        "regularizers_l2": "",
        "label_smoothing": "",
        "dropout_rate": "must be below 1; the built-in allows 1, which drops everything",
        "train_only_top_layer": "all three published spellings are accepted",
        "reinitialize_top_layer": "False without a model that has a head fails with the message of "
        "the built-in's script; it also keeps the ImageNet head if the data has its 1,000 classes",
        "early_stopping": "",
        "early_stopping_patience": "",
        "early_stopping_min_delta": "",
        "augmentation": "",
        "augmentation_random_flip": "`horizontal` is also accepted, as in the published "
        "specification",
        "augmentation_random_rotation": "",
        "augmentation_random_zoom": "",
        "binary_mode": "the built-in has one sigmoid: the probability of the positive class. Here "
        "the model has a softmax of two classes, and answers contain both probabilities, the "
        "positive class second; `binary_answer=sigmoid` answers with that of the positive class "
        "alone. `predicted_label` is the class above 0.5; in the built-in it is always the first",
        "eval_metric": "",
        "image_resize_interpolation": "",
        "validation_split_ratio": "",
        "random_seed": "",
    },
}
"""Interface → hyperparameter → what differs here."""

CHANNELS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "train": "can have several `.rec` files (the built-in takes one file), class folders or, "
        "in File mode, a `.manifest` next to the images",
        "validation": "optional with `validation_split_ratio`. In Pipe mode, the job copies one "
        "pass of the pipe to disk and evaluates it after every epoch, so that every image counts "
        "once",
        "train_lst": "required only if a list names the images; paths in it can start above the "
        "channel's folder",
        "validation_lst": "as `train_lst`",
        "model": "an artifact of this project or of the built-in; if the classes differ, it gets "
        "a new head. If the job that wrote the artifact replaced the ResNet of `num_layers`, the "
        "new job continues with the network of the artifact",
        "weights": "only here: a public file of pretrained weights (docs/bring-weights.md)",
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
        "weights": "only here: a public file of pretrained weights (docs/bring-weights.md)",
    },
}
"""Interface → channel → what differs here."""

METRICS: Mapping[str, Mapping[str, str]] = {
    "mxnet": {
        "train:accuracy": "over all images; in the built-in, over full batches only",
        "validation:accuracy": "over all images, each counted once; in the built-in, over full "
        "batches only",
        "train:top_k_accuracy": "the same log line; the name of the metric is this project's",
        "validation:top_k_accuracy": "the same log line; the name of the metric is this project's",
    },
    "tensorflow": {
        "validation:accuracy": "the objective metric in the tuning guide, which publishes no "
        "regular expression",
    },
}
"""Interface → metric → what differs here."""

BEHAVIORS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mxnet": (
        (
            "The server preprocesses an image as validation did (resize, center crop).",
            "The built-in's server squashes images to `image_shape`. The model never saw squashed "
            "images in training, so an endpoint can be less accurate than validation. "
            "`inference_resize=squash` restores the built-in's behavior.",
        ),
        (
            "With several hosts, only `train` can be ShardedByS3Key.",
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
            "Names can have dashes instead of underscores. An unknown hyperparameter is ignored "
            "with a warning, unless its name is close to a known one or is one of the other "
            "interface: then the job fails.",
            "The built-in's script ignores all of them, so a misspelled name has no effect.",
        ),
        (
            "The hyperparameter `backbone` or `model_id` selects the network. By default it is the "
            "SavedModel of the channel `model` with `backend=tensorflow`, else efficientnet_lite0.",
            "The built-in gets its models from a hub; a job here needs no network access.",
        ),
        (
            "model.tar.gz holds an ONNX graph, safetensors and JSON instead of a SavedModel; it "
            "also holds `class_label_to_prediction_index.json` and `labels_info.json`.",
            "No TensorFlow is needed to read it, and it contains no code. "
            "`image-classification export --model model.tar.gz --format saved_model` converts it "
            "to a SavedModel.",
        ),
    ),
}
"""Interface → (what differs here, why)."""

IGNORED_VARIABLES: Mapping[str, str] = {
    "SAGEMAKER_MODEL_SERVER_VMARGS": "sets options of a Java server; this server is written in "
    "Python",
    "SAGEMAKER_NUM_MODEL_WORKERS": "sets the workers per model of a multi-model endpoint; here all "
    "models share the server's threads",
    "SAGEMAKER_MAX_REQUEST_SIZE": "sets the body limit of the XGBoost image on multi-model "
    "endpoints; set MAX_CONTENT_LENGTH instead",
    "SAGEMAKER_SAFE_PORT_RANGE": "names ports for other processes; the server opens only its own "
    "port",
    "SAGEMAKER_BASE_DIR": "sets the root folder of the toolkits; set IMAGE_CLASSIFICATION_BASE_DIR "
    "instead",
    "SAGEMAKER_ENV": "says that the platform runs the container; nothing depends on it",
    "ENDPOINT_SERVER_TIMEOUT": "the TensorFlow built-in sets it together with "
    "SAGEMAKER_MODEL_SERVER_TIMEOUT, which the server uses",
    "MODEL_CACHE_ROOT": "the TensorFlow built-in sets it; this server caches nothing on disk",
}
"""Environment variable of the platform or its toolkits → why it has no effect here."""
