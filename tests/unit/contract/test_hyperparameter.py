"""Hyperparameters arrive as text in every encoding that the SDKs produce."""

import pytest

from image_classification.contract.hyperparameter import Hyperparameters, absent, parse_all, real
from image_classification.contract.interface import INTERFACES, recognize
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.training.settings import settings_of

MXNET = INTERFACES["mxnet"]
TENSORFLOW = INTERFACES["tensorflow"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sgd", "sgd"),
        ('"adam"', "adam"),
        ('"\\"nag\\""', "nag"),
        (" SGD ", "sgd"),
        ("", "sgd"),
        ("None", "sgd"),
        ('"null"', "sgd"),
    ],
)
def test_a_categorical_is_read_in_every_encoding(text: str, value: str) -> None:
    assert MXNET.parse({"optimizer": text}).optimizer == value


@pytest.mark.parametrize("text", ["True", "true", "1", '"True"', "yes", '"\\"true\\""'])
def test_true_is_read_in_every_spelling(text: str) -> None:
    assert TENSORFLOW.parse({"train_only_top_layer": text}).train_only_top_layer is True


@pytest.mark.parametrize("text", ["False", "false", "0", '"False"', "no"])
def test_false_is_read_in_every_spelling(text: str) -> None:
    assert TENSORFLOW.parse({"use_pretrained_model": text}).use_pretrained_model is False


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("5.0", 5), ('"5"', 5)])
def test_an_integer_can_be_written_with_a_decimal_point(text: str, value: int) -> None:
    assert MXNET.parse({"epochs": text}).epochs == value


@pytest.mark.parametrize(
    "text", ["5.5", "0", "-1", "ten", "nan", "inf", "1e400", "[5]", "1_0", "٥"]
)
def test_the_error_of_a_bad_integer_has_its_name_value_and_range(text: str) -> None:
    with pytest.raises(HyperparameterError) as caught:
        MXNET.parse({"epochs": text})
    assert f"epochs={text!r}: expected an integer ≥ 1" in str(caught.value)


@pytest.mark.parametrize("text", ["18446744073709551616", "1" + "0" * 30, "1" + "0" * 5000])
def test_an_integer_has_64_bits(text: str) -> None:
    for entry in (*MXNET.hyperparameters, *TENSORFLOW.hyperparameters):
        if entry.kind == "integer":
            with pytest.raises(HyperparameterError, match=rf"{entry.name}=.* ≤ \d+$"):
                entry.parse(text)
    assert MXNET.parse({"early_stopping_patience": str(2**63 - 1)}).early_stopping_patience == (
        2**63 - 1
    )


def test_a_seed_is_what_every_framework_accepts_and_is_read_exactly() -> None:
    for interface in (MXNET, TENSORFLOW):
        for seed in (2**53 + 1, 2**64 - 1):
            assert interface.parse({"random_seed": str(seed)}).random_seed == seed
        with pytest.raises(HyperparameterError, match=f"an integer ≥ 0 and ≤ {2**64 - 1}"):
            interface.parse({"random_seed": str(2**64)})


@pytest.mark.parametrize("text", ["1", "1.0", "1e0", '"1"'])
@pytest.mark.parametrize("name", ["beta_1", "beta_2", "dropout_rate"])
def test_hyperparameters_that_would_divide_by_zero_at_one_refuse_it(name: str, text: str) -> None:
    for interface in (MXNET, TENSORFLOW):
        with pytest.raises(HyperparameterError, match=f"{name}=.*: expected a number ≥ 0 and < 1"):
            interface.parse({name: text})


def test_all_problems_are_reported_together() -> None:
    given = {"epochs": "zero", "optimizer": "sdg", "learningrate": "0.1", "learning_rate": "2"}
    with pytest.raises(HyperparameterError) as caught:
        MXNET.parse(given)
    message = str(caught.value)
    assert message.startswith("4 hyperparameter problems: ")
    assert "epochs='zero'" in message
    assert "optimizer='sdg': expected one of sgd, adam, rmsprop, nag" in message
    assert "('learningrate' was unexpected): did you mean 'learning_rate'?" in message
    assert "learning_rate='2': expected a number ≥ 0 and ≤ 1" in message


def test_a_name_of_the_other_interface_is_explained() -> None:
    with pytest.raises(HyperparameterError, match="belongs to the tensorflow interface"):
        MXNET.parse({"batch_size": "32"})


def test_keys_that_the_platform_adds_are_ignored() -> None:
    given = {"sagemaker_region": "eu-west-1", "_tuning_objective_metric": "validation:accuracy"}
    assert MXNET.parse(given) == MXNET.parse({})


def test_every_default_is_itself_a_legal_value() -> None:
    for interface in INTERFACES.values():
        for entry in interface.hyperparameters:
            if entry.default is not None:
                assert entry.parse(str(entry.default)) == entry.default, entry.name


def test_train_only_top_layer_has_three_spellings_of_which_a_job_can_set_one() -> None:
    for name in ("train_only_top_layer", "train_only_on_top_layer", "train_only_on_top"):
        assert TENSORFLOW.parse({name: "True"}).train_only_top_layer is True
    with pytest.raises(HyperparameterError, match="mean the same"):
        TENSORFLOW.parse({"train_only_top_layer": "True", "train_only_on_top": "True"})


def test_a_value_that_only_the_built_in_supports_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="='lanczos5': the built-in supports it, this"):
        TENSORFLOW.parse({"image_resize_interpolation": "lanczos5"})


def test_a_row_of_the_table_is_the_typed_attribute_of_a_jobs_values() -> None:
    class Table(Hyperparameters):
        factor = real(0.5, "A factor.", 0, 1, name="built_in_name")
        only_there = absent(7)

    assert [row.name for row in Table.declared()] == ["built_in_name"]
    values = Table(parse_all(Table.declared(), {"built_in_name": "1"}))
    assert (values.factor, values.only_there) == (1.0, 7)
    assert values.with_value(Table.factor, 0.25).factor == 0.25 and values.factor == 1.0


@pytest.mark.parametrize(
    ("channels", "interface"),
    [(["train", "validation"], "mxnet"), (["training"], "tensorflow")],
)
def test_the_interface_is_recognized_from_the_channels(channels: list[str], interface: str) -> None:
    assert recognize(channels, {}).name == interface


def test_channels_of_both_interfaces_are_refused() -> None:
    with pytest.raises(ChannelError, match="both channels train and training"):
        recognize(["train", "training"], {})


def test_an_interface_that_contradicts_the_channels_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="needs the channel training"):
        recognize(["train", "validation"], {"interface": '"tensorflow"'})


def test_the_error_of_a_missing_training_channel_lists_the_channels() -> None:
    with pytest.raises(ChannelError, match=r"Missing required channel: train .*\['validation'\]"):
        recognize(["validation"], {})


def settings(interface: str, **given: str) -> object:
    return settings_of(INTERFACES[interface].parse(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr_scheduler_step": "20,10"}, "expected increasing epochs"),
        ({"lr_scheduler_step": "ten"}, "expected increasing epochs"),
        ({"lr_scheduler_step": "1_0"}, "expected increasing epochs"),
        ({"image_shape": "3,2_24,224"}, "channels,height,width"),
        ({"epochs": "5", "checkpoint_frequency": "6"}, "from 1 to epochs, which is 5"),
        ({"lr_schedule": "step"}, "set lr_scheduler_step"),
        ({"lr_schedule": "cosine", "lr_scheduler_step": "5"}, "contradict"),
        ({"image_shape": "4,224,224"}, "1 or 3 channels"),
        ({"image_shape": "224"}, "channels,height,width"),
        ({"image_shape": "3,224,224", "resize": "200"}, "must not be below image_shape"),
        ({"resize": "256", "resize_mode": "squash"}, "leave resize out"),
    ],
)
def test_values_that_contradict_each_other_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        settings("mxnet", **given)


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_every_declared_schedule_can_be_selected(interface: str) -> None:
    choices = next(e for e in INTERFACES[interface].hyperparameters if e.name == "lr_schedule")
    for kind in choices.choices:
        given = {"lr_schedule": kind, "learning_rate": "0.8", "epochs": "4"}
        if kind == "step":
            given |= {"lr_scheduler_step": "1,2", "lr_scheduler_factor": "0.5"}
        schedule = settings_of(INTERFACES[interface].parse(given)).schedule
        assert schedule.kind == kind
        if kind == "step":
            rates = [schedule.rate(epoch) for epoch in (0.5, 1.5, 2.5)]
            assert rates == pytest.approx([0.8, 0.4, 0.2])


def test_a_time_limit_of_zero_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="max_minutes='0': expected a number > 0"):
        MXNET.parse({"max_minutes": "0"})
    assert MXNET.parse({"max_minutes": "0.5"}).max_minutes == 0.5


def test_an_unknown_backbone_suggests_the_nearest() -> None:
    with pytest.raises(BackendError, match="efficientnet_lite0"):
        settings("mxnet", backbone="efficientnet_lite")


def test_the_meaning_of_use_pretrained_model_has_the_networks_in_the_order_of_the_choice() -> None:
    (row,) = (h for h in MXNET.hyperparameters if h.name == "use_pretrained_model")
    places = [row.meaning.index(n) for n in ("(resnet50)", "resnet50_v1.5", "efficientnet_lite0")]
    assert places == sorted(places)


def test_num_layers_keeps_its_meaning() -> None:
    for depth in ("18", "152", "20", "110"):
        found = settings_of(MXNET.parse({"num_layers": depth}))
        assert found.backbone.name == f"resnet{depth}"


def test_the_mxnet_interface_crops_and_the_tensorflow_interface_squashes() -> None:
    mxnet = settings_of(MXNET.parse({"resize": "256"}))
    tensorflow = settings_of(TENSORFLOW.parse({}))
    assert (mxnet.preprocessing.mode, mxnet.preprocessing.resize) == ("crop", 256)
    assert (tensorflow.preprocessing.mode, tensorflow.preprocessing.resize) == ("squash", None)


def test_published_jobs_of_the_mxnet_built_in_are_accepted() -> None:
    """The hyperparameters are those of the public Caltech-256 notebooks."""
    job = {
        "num_layers": "18",
        "image_shape": "3,224,224",
        "num_classes": "257",
        "num_training_samples": "15420",
        "mini_batch_size": "128",
        "epochs": "2",
        "learning_rate": "0.01",
        "top_k": "2",
        "resize": "256",
        "checkpoint_frequency": "2",
        "use_pretrained_model": "1",
        "precision_dtype": "float32",
        "optimizer": "sgd",
        "lr_scheduler_step": "10, 20",
        "augmentation_type": "crop_color_transform",
    }
    found = settings_of(MXNET.parse(job))
    assert (found.backbone.name, found.classes, found.top_k) == ("resnet18", 257, 2)
    assert found.schedule.step_epochs == (10, 20)
    assert found.use_pretrained
