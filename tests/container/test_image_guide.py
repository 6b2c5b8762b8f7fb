"""The scripts of the image data guide's notebooks 04b and 04c, by the steps of its page here.

The scripts are written anew in the guide's form: its channels, arguments and optimizers. They start
from random weights, because the containers have no network.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from image_classification.records.tfrecord import encode_example, frame_tfrecord
from tests.conftest import ClassFolders
from tests.container.engine import run, train_image
from tests.container.test_train_container import script_job

CLASSES = ("blue", "green", "red")

PYTORCH_SCRIPT = """
import argparse, copy, os
import torch
from torchvision import datasets, models, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--workers", type=int, default=4)
parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
parser.add_argument("--val", default=os.environ["SM_CHANNEL_VAL"])
parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
given = parser.parse_args()
augment = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
augment += [transforms.RandomVerticalFlip(), transforms.ColorJitter(0.2, 0.2, 0.2, 0.2)]
change = {"train": augment, "val": [transforms.CenterCrop(224)]}
loaders = {}
for name, steps in change.items():
    steps = transforms.Compose([*steps, transforms.ToTensor()])
    images = datasets.ImageFolder(getattr(given, name), steps)
    loaders[name] = torch.utils.data.DataLoader(
        images, batch_size=given.batch_size, shuffle=True, num_workers=given.workers
    )
model = models.resnet18(weights=None)  # the guide's: pretrained
model.fc = torch.nn.Linear(model.fc.in_features, len(images.classes))
optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
best, kept = -1.0, None
for epoch in range(given.epochs):
    for name, loader in loaders.items():
        model.train(name == "train")
        right = 0
        for batch, labels in loader:
            with torch.set_grad_enabled(name == "train"):
                outputs = model(batch)
                if name == "train":
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(outputs, labels).backward()
                    optimizer.step()
            right += (outputs.argmax(1) == labels).sum().item()
        accuracy = right / len(loader.dataset)
        print(f"epoch {epoch}: {name} accuracy {accuracy:.3f}")
    schedule.step()
    if accuracy > best:
        best, kept = accuracy, copy.deepcopy(model.state_dict())
torch.save(kept, os.path.join(given.model_dir, "model.pt"))
"""

TENSORFLOW_SCRIPT = """
import argparse, os
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--training", default=os.environ["SM_CHANNEL_TRAINING"])
given = parser.parse_args()
FEATURES = {
    "image_raw": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}
def parse(record):
    example = tf.io.parse_single_example(record, FEATURES)
    image = tf.image.decode_jpeg(example["image_raw"], channels=3)
    return tf.image.resize_with_crop_or_pad(image, 64, 64), example["label"]
records = tf.data.TFRecordDataset([os.path.join(given.training, "train.tfrecord")])
model = tf.keras.Sequential([
    tf.keras.layers.Conv2D(8, 3, activation="relu"),  # the guide's is a ResNet-50
    tf.keras.layers.GlobalAveragePooling2D(),
    tf.keras.layers.Dense(3, activation="softmax"),
])
model.compile(tf.keras.optimizers.SGD(0.001, momentum=0.9), "sparse_categorical_crossentropy")
model.fit(records.map(parse).batch(16), epochs=given.epochs, verbose=2)
model.save(os.path.join(os.environ["SM_MODEL_DIR"], "model.keras"))
"""


@pytest.fixture
def structured(write_class_folders: ClassFolders, tmp_path: Path) -> Path:
    """The guide's data_structured: train, val and test with class folders."""
    for seed, (name, number) in enumerate({"train": 8, "val": 3, "test": 2}.items()):
        write_class_folders(tmp_path / "data" / name, CLASSES, number, seed=seed)
    return tmp_path / "data"


def test_a_script_with_torchvision_trains_in_the_image_of_torch(
    structured: Path, tmp_path: Path
) -> None:
    """Step 03c resizes with a command of this project; step 04c is the script."""
    image, resized = train_image("torch"), tmp_path / "resized"
    resized.mkdir()
    steps = ["preprocess", "--input", "/in", "--format", "folders", "--resize", "224"]
    done = run(image, *steps, "--output", "/out", volumes={structured: "/in", resized: "/out"})
    assert done.returncode == 0, done.stdout + done.stderr
    validation = next(path for path in resized.iterdir() if path.name.startswith("val"))
    channels = {"train": resized / "train", "val": validation}
    given = {"sagemaker_program": "train.py", "epochs": "2", "batch-size": "8", "workers": "0"}
    base = script_job(tmp_path, channels, {"train.py": PYTORCH_SCRIPT}, **given)
    done = run(image, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1: val accuracy" in done.stdout and (base / "model" / "model.pt").is_file()


def test_a_script_with_keras_trains_on_tfrecords_in_the_image_of_tensorflow(
    channels: dict[str, Path], tmp_path: Path
) -> None:
    examples = [
        encode_example({"label": [number % 3], "image_raw": [path.read_bytes()]})
        for number, path in enumerate(sorted(channels["train"].rglob("*.jpg")))
    ]
    (tmp_path / "training").mkdir()
    packed = b"".join(map(frame_tfrecord, examples))
    (tmp_path / "training" / "train.tfrecord").write_bytes(packed)
    code, given = {"train.py": TENSORFLOW_SCRIPT}, {"sagemaker_program": "train.py", "epochs": "1"}
    base = script_job(tmp_path, {"training": tmp_path / "training"}, code, **given)
    done = run(train_image("tensorflow"), "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (base / "model" / "model.keras").is_file()
