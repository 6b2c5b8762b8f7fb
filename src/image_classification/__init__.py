"""Train and serve image classifiers on Amazon SageMaker, on a laptop, or without Docker.

    import image_classification as ic

    model = ic.train("flowers", preset="transfer", output="runs/a")
    model = ic.load("runs/a")
    model.predict("tulip.jpg").label

`train`, `tune` and `load` return a `Model`, `compare` a `Comparison` of runs; `errors` holds the
exceptions. Importing the package loads no deep-learning framework and none of its own modules. To
read the code, start with `training/job.py` and `serving/app.py`.
"""

from importlib import import_module

__version__ = "0.1.0"

_NAMES = {
    "train": "api",
    "tune": "api",
    "load": "api",
    "compare": "api",
    "Model": "api.model",
    "Server": "api.model",
    "Prediction": "api.results",
    "Evaluation": "api.results",
    "Comparison": "api.comparison",
    "ClassScore": "api.results",
    "Mistake": "api.results",
    "ImageClassificationError": "errors",
    "UserError": "errors",
}
"""Public name → the module that defines it; `__init__.pyi` says the same to type checkers."""

__all__ = ["__version__", "errors", *_NAMES]  # `__getattr__` finds them


def __getattr__(name: str) -> object:
    if name == "errors":
        return import_module(f"{__name__}.errors")
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
