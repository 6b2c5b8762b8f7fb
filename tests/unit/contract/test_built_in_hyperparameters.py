"""Every hyperparameter of the built-ins' public guides: default, legal and illegal values."""

from __future__ import annotations

import runpy

import pytest

from image_classification.contract.interface import INTERFACES, Interface
from image_classification.errors import HyperparameterError
from tests.conftest import REPOSITORY

MXNET, TENSORFLOW = INTERFACES["mxnet"], INTERFACES["tensorflow"]

UNIT = (["0", "1", "0.5", "1e-6"], ["-0.1", "1.1", "high"])
BELOW_ONE = (["0", "0.999", "0.5", "1e-6"], ["-0.1", "1", "1.0", "1.1", "high"])
POSITIVE = (["1", "7", "7.0"], ["0", "-1", "1.5", "many"])
BOOLEAN = (["True", "False", "true", "0", "1"], ["2", "maybe"])

# IC-Hyperparameter.md; a default of None is "unset".
MXNET_TABLE = {
    "num_classes": (None, *POSITIVE),
    "num_training_samples": (None, *POSITIVE),
    "augmentation_type": (None, ["crop", "crop_color", "crop_color_transform"], ["crops"]),
    "beta_1": (0.9, *BELOW_ONE),
    "beta_2": (0.999, *BELOW_ONE),
    "early_stopping": (False, *BOOLEAN),
    "early_stopping_min_epochs": (10, *POSITIVE),
    "early_stopping_patience": (5, *POSITIVE),
    "early_stopping_tolerance": (0.0, *UNIT),
    "epochs": (30, *POSITIVE),
    "eps": (1e-8, *UNIT),
    "gamma": (0.9, *UNIT),
    "image_shape": (None, ["3,224,224", "1,28,28", "3, 32, 32"], []),
    "kv_store": (None, ["dist_sync", "dist_async"], ["device"]),
    "learning_rate": (0.1, *UNIT),
    "lr_scheduler_factor": (0.1, *UNIT),
    "lr_scheduler_step": (None, ["10,20", "10, 20", "5"], []),
    "mini_batch_size": (32, *POSITIVE),
    "momentum": (0.9, *UNIT),
    "multi_label": (False, *BOOLEAN),
    "num_layers": (
        "152",
        ["18", "34", "50", "101", "152", "200", "20", "32", "44", "56", "110"],
        ["19", "deep"],
    ),
    "optimizer": ("sgd", ["sgd", "adam", "rmsprop", "nag"], ["adagrad"]),
    # float32 in the guide; unset here, because `precision` decides (see docs/migrating.md).
    "precision_dtype": (None, ["float32", "float16"], ["float64"]),
    "resize": (None, *POSITIVE),
    "top_k": (None, ["2", "5"], ["1", "0"]),
    "use_pretrained_model": (False, *BOOLEAN),
    "use_weighted_loss": (False, *BOOLEAN),
    "weight_decay": (0.0001, *UNIT),
}

# IC-TF-Hyperparameter.md, with what the published model specification adds.
TENSORFLOW_TABLE = {
    "epochs": (3, ["1", "1000"], ["0", "1001"]),
    "batch_size": (32, ["1", "1024"], ["0", "1025"]),
    "optimizer": (
        "adam",
        ["adam", "sgd", "nesterov", "rmsprop", "adagrad", "adadelta"],
        ["nag"],
    ),
    "learning_rate": (0.001, *UNIT),
    "beta_1": (0.9, *BELOW_ONE),
    "beta_2": (0.999, *BELOW_ONE),
    "momentum": (0.9, *UNIT),
    "epsilon": (1e-7, *UNIT),
    "rho": (0.95, *UNIT),
    "initial_accumulator_value": (0.0001, *UNIT),
    "regularizers_l2": (0.0001, *UNIT),
    "label_smoothing": (0.1, *UNIT),
    "dropout_rate": (0.2, *BELOW_ONE),
    "train_only_top_layer": (False, *BOOLEAN),
    "reinitialize_top_layer": ("Auto", ["Auto", "True"], ["never"]),
    "early_stopping": (False, *BOOLEAN),
    "early_stopping_patience": (5, ["1", "1000"], ["0", "1001"]),
    "early_stopping_min_delta": (0.0, *UNIT),
    "augmentation": (False, *BOOLEAN),
    "augmentation_random_flip": (
        "horizontal_and_vertical",
        ["horizontal_and_vertical", "horizontal", "vertical", "None"],
        ["diagonal"],
    ),
    "augmentation_random_rotation": (0.2, ["-1", "0", "1"], ["-1.1", "1.1"]),
    "augmentation_random_zoom": (0.1, ["-1", "0", "1"], ["-1.1", "1.1"]),
    "binary_mode": (False, ["False"], ["maybe"]),
    "eval_metric": ("accuracy", ["accuracy"], ["f1"]),
    "image_resize_interpolation": (
        "bilinear",
        ["bilinear", "nearest", "bicubic", "area", "lanczos3"],
        ["linear"],
    ),
    "validation_split_ratio": (0.2, *UNIT),
    "random_seed": (123, ["0", "7"], ["-1", "x"]),
}

CASES = [
    pytest.param(interface, name, *row, id=f"{interface.name}-{name}")
    for interface, table in ((MXNET, MXNET_TABLE), (TENSORFLOW, TENSORFLOW_TABLE))
    for name, row in table.items()
]


@pytest.mark.parametrize(("interface", "name", "default", "legal", "illegal"), CASES)
def test_a_hyperparameter_has_the_default_and_the_values_of_its_built_in(
    interface: Interface, name: str, default: object, legal: list[str], illegal: list[str]
) -> None:
    assert interface.parse({}).by_name[name] == default
    for text in legal:
        for encoded in (text, f'"{text}"', f'"\\"{text}\\""', f" {text} "):
            interface.parse({name: encoded})
    for text in illegal:
        with pytest.raises(HyperparameterError, match=name):
            interface.parse({name: text})


@pytest.mark.parametrize("text", ["", "None", "null", '"None"'])
def test_a_value_that_means_unset_gives_the_default(text: str) -> None:
    given = dict.fromkeys((name for name in MXNET_TABLE), text)
    assert MXNET.parse(given) == MXNET.parse({})


def test_json_values_are_read_like_their_text() -> None:
    parsed = MXNET.parse({"epochs": 5, "learning_rate": 0.5, "early_stopping": True, "top_k": None})
    values = (parsed.epochs, parsed.learning_rate, parsed.early_stopping, parsed.top_k)
    assert values == (5, 0.5, True, None)


def test_keys_of_the_platform_are_ignored_and_old_names_have_no_effect() -> None:
    given = {
        "_tuning_objective_metric": "validation:accuracy",
        "_tuning_anything": "1",
        "sagemaker_program": '"transfer_learning.py"',
        "sagemaker_container_log_level": "20",
        "sagemaker_submit_directory": "/opt/ml/input/data/code/sourcedir.tar.gz",
    }
    for interface in INTERFACES.values():
        assert interface.parse(given) == interface.parse({})
    old = MXNET.parse({"model_prefix": "image-classification", "use_lr_scheduler": "1"})
    changed = {"model_prefix": None, "use_lr_scheduler": None}
    assert {**old.by_name, **changed} == MXNET.parse({}).by_name


def test_dashes_are_underscores_where_the_published_script_takes_both() -> None:
    given = {"batch-size": "16", "validation-split-ratio": "0.3", "adam-learning-rate": "0.01"}
    values = TENSORFLOW.parse(given)
    assert (values.batch_size, values.validation_split_ratio, values.learning_rate) == (
        *(16, 0.3, 0.01),
    )
    for given in (
        {"batch-size": "16", "batch_size": "16"},
        {"batch_size": "16", "batch-size": "16"},
        {"adam-learning-rate": "0.01", "learning_rate": "0.01"},
    ):
        with pytest.raises(HyperparameterError, match="mean the same: set only one of them"):
            TENSORFLOW.parse(given)
    with pytest.raises(HyperparameterError, match="did you mean 'mini_batch_size'"):
        MXNET.parse({"mini-batch-size": "32"})


def test_foreign_hyperparameters_are_one_warning_as_in_the_published_script(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = ["model-dir", "pretrained_model", "seed", "verbose_one_line_per_epoch", "train"]
    given = dict.fromkeys([*script, "my_tag", "hub-module", "num_workers", "instance_type"], "x")
    assert TENSORFLOW.parse({**given, "epochs": "7"}) == TENSORFLOW.parse({"epochs": "7"})
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "as the built-in does: model_dir, pretrained_model, seed, verbose_one_line_per_epoch, "
        "train, my_tag, hub_module, num_workers, instance_type"
    )
    with pytest.raises(HyperparameterError, match="'my_tag' was unexpected"):
        MXNET.parse({"my_tag": "x"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("learning_rte", "learning_rate"), ("Epochs", "epochs"), ("batchsize", "batch_size")),
        *(("optimiser", "optimizer"), ("dropout", "dropout_rate"), ("beta1", "beta_1")),
        *(("early-stop", "early_stopping"), ("l2_regularizer", "regularizers_l2")),
        *(("num_epochs", "epochs"), ("validation_split", "validation_split_ratio")),
        *(("binary", "binary_mode"), ("warmup", "warmup_epochs"), ("momentun", "momentum")),
    ],
)
def test_a_name_close_to_a_known_one_stays_an_error(name: str, meant: str) -> None:
    with pytest.raises(HyperparameterError, match=f"was unexpected.*did you mean '{meant}'"):
        TENSORFLOW.parse({name: "1"})


@pytest.mark.parametrize("name", sorted(INTERFACES))
def test_the_migration_page_has_every_name_of_the_built_in_and_no_undeclared_one(
    name: str,
) -> None:
    interface = INTERFACES[name]
    table = MXNET_TABLE if name == "mxnet" else TENSORFLOW_TABLE
    declared = {entry.name for entry in interface.hyperparameters}
    reference = runpy.run_path(str(REPOSITORY / "scripts" / "reference.py"))
    remarks = set(reference["HYPERPARAMETERS"][name])
    assert set(table) <= remarks <= declared
    assert set(reference["CHANNELS"][name]) == {channel.name for channel in interface.channels}
    assert set(reference["METRICS"][name]) <= {metric.name for metric in interface.metrics}
