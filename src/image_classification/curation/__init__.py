"""What frozen features say about a data set: linear heads that have not seen the image they judge.

In: the features of images (a network without its head) and their classes. Out: the probabilities
that k-fold heads give each image (`OutOfFold`). Copies of an image are in the same fold:
otherwise a wrong label would support that of its copy.

The cost is bounded. 15 heads of 5 million images × classes each take 5 minutes on two busy cores.
Beyond that, five heads in closed form cost about five passes over the features: 18 seconds for
200,000 images of 5,000 classes. The rest grows with images × classes: the probabilities and scores
of these take 80 s.

The heads are own code because no image has a library for them: scikit-learn brings SciPy (150 MB),
and a step of the training engines costs more than the whole fit here. cleanlab has more of this.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from image_classification.samples import FloatArray, IntArray

LEAST_IMAGES = 5
"""Images that a class needs: one for each fold."""
FOLDS = 5
_REPEATS = 3
_MOST_FITTED_VALUES = 5_000_000  # images × classes of a head that is fitted in steps
_MOST_MEASURED = 100_000  # images whose covariance gives the principal components
_SHRINKAGE = 0.3  # of the covariance of a head in closed form, towards its mean variance
_SAME = 1e-6  # squared distance of features whose mean squared length is 1: rounding alone
_LOOKED_AT = 3  # rows that may lie between two equal ones in the order of one projection
_WIDTH = 256  # principal components; 128 to 1,280 give the same accuracy (flowers, Lite0)
_PENALTY = 3e-4  # of the squared weights, per image
_STEPS = 100
_CHUNK = 4096  # images
_MOST_VALUES = 1 << 24  # images × classes of probabilities at once: 64 MiB
_MOST_FITTED = 50_000  # images that a head is fitted on


@dataclass(frozen=True)
class OutOfFold:
    """Heads fitted on four fifths of the images each, once or three times with other fifths.

    Attributes:
        features: float32 (images, components), from `components`.
        labels: int64 (images,), 0 to classes − 1.
        classes: how many there are.
        folds: int64 (repeats, images), the fold that each image is held out in.
        weights: float32 (repeats, folds, components + 1, classes), the last row is the bias.
    """

    features: FloatArray
    labels: IntArray
    classes: int
    folds: IntArray
    weights: FloatArray

    def chunks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Yield slices of the images, and float32 (repeats, images, classes) probabilities.

        They are computed again each time: those of a million images would not fit into memory.
        """
        size = _chunk_of(self.classes)
        for start in range(0, len(self.labels), size):
            part = slice(start, min(start + size, len(self.labels)))
            found = np.empty((len(self.folds), part.stop - start, self.classes), np.float32)
            for repeat, folds in enumerate(self.folds[:, part]):
                for fold in range(FOLDS):
                    held_out = folds == fold
                    weights = self.weights[repeat, fold]
                    found[repeat, held_out] = softmax(
                        self.features[part][held_out] @ weights[:-1] + weights[-1]
                    )
            yield part, found


def fit_folds(
    features: FloatArray,
    labels: IntArray,
    classes: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> OutOfFold:
    """Fit the heads; the same input gives the same heads.

    Args:
        features: float32 (images, width), of a network without its head.
        labels: int64 (images,); every class has at least LEAST_IMAGES.
        classes: how many there are, ≥ 2.
        seed: of the folds.
        on_progress: called with the number of heads that are fitted, and that of all.
    """
    reduced, generator = components(features), np.random.default_rng(seed)
    first = _first_copies(reduced, labels)
    is_small = min(len(labels), _MOST_FITTED) * classes <= _MOST_FITTED_VALUES
    repeats = _REPEATS if is_small else 1
    folds = np.stack([_draw_folds(labels, first, generator) for _ in range(repeats)])
    weights = np.empty((repeats, FOLDS, reduced.shape[1] + 1, classes), np.float32)
    for number in range(repeats * FOLDS):
        repeat, fold = divmod(number, FOLDS)
        chosen = np.flatnonzero(folds[repeat] != fold)
        if not is_small:
            weights[repeat, fold] = _closed_head(reduced, labels, chosen, classes)
        else:
            if len(chosen) > _MOST_FITTED:
                chosen = np.sort(generator.choice(chosen, _MOST_FITTED, replace=False))
            weights[repeat, fold] = fit_head(reduced[chosen], labels[chosen], classes)
        if on_progress is not None:
            on_progress(number + 1, repeats * FOLDS)
    return OutOfFold(reduced, labels, classes, folds, weights)


def draw_folds(features: FloatArray, labels: IntArray, seed: int = 0) -> IntArray:
    """Return the fold of each image, int64 (images,), 0 to FOLDS − 1.

    Every fold has a fifth of every class, give or take one; the copies of an image share a fold.

    Args:
        features: float32 (images, width), of a network without its head; may be on a disk.
        labels: int64 (images,).
        seed: of the folds.
    """
    first = _first_copies(components(features), labels)
    return _draw_folds(labels, first, np.random.default_rng(seed))


def components(features: FloatArray) -> FloatArray:
    """Return the principal components of features of length 1, float32 (images, ≤ 256).

    The mean of their squared lengths is 1. Reads `features` in chunks, which may be on a disk; of
    more than 100,000 images, an even selection of so many gives the components.
    """
    images, width = features.shape
    total, products = np.zeros(width), np.zeros((width, width))
    every = -(-images // _MOST_MEASURED)
    for start in range(0, images, _CHUNK * every):
        rows = of_length_1(features[start : start + _CHUNK * every : every])
        total += rows.sum(axis=0)
        products += rows.T @ rows
    measured = len(range(0, images, every))
    mean = total / measured
    covariance = products / measured - np.outer(mean, mean)
    variances, vectors = np.linalg.eigh(covariance)
    kept = min(_WIDTH, images, width)
    scale = 1 / math.sqrt(max(float(variances[-kept:].sum()), 1e-12))
    axes = (vectors[:, ::-1][:, :kept] * scale).astype(np.float32)
    reduced = np.empty((images, kept), np.float32)
    for start in range(0, images, _CHUNK):
        rows = of_length_1(features[start : start + _CHUNK])
        reduced[start : start + _CHUNK] = (rows - mean.astype(np.float32)) @ axes
    return reduced


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities over the last axis."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True), np.float32)


def of_length_1(rows: FloatArray) -> FloatArray:
    """Return rows scaled to length 1; a row of zeros stays."""
    rows = np.asarray(rows, np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` images, both 0 to 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).
    """
    z = 1.959964
    center = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def _draw_folds(labels: IntArray, first: IntArray, generator: np.random.Generator) -> IntArray:
    """Return the fold of each image; every fold has a fifth of every class, give or take one.

    Args:
        labels: int64 (images,).
        first: int64 (images,), the first copy of each image.
        generator: draws.
    """
    folds = np.empty(len(labels), np.int64)
    firsts = np.flatnonzero(first == np.arange(len(labels)))
    firsts = firsts[np.argsort(labels[firsts], kind="stable")]
    classes, starts = np.unique(labels[firsts], return_index=True)
    for index, own in zip(classes.tolist(), np.split(firsts, starts[1:]), strict=True):
        own = generator.permutation(own)
        folds[own] = (np.arange(len(own)) + index) % FOLDS
    return np.asarray(folds[first])


def _first_copies(features: FloatArray, labels: IntArray) -> IntArray:
    """Return int64 (images,), the first image with the same features, which may be itself.

    A class with fewer than LEAST_IMAGES different images has no copies: each of its images is its
    own first one, or no head could know the class.

    Args:
        features: float32 (images, components).
        labels: int64 (images,).
    """
    images = len(features)
    axis = np.random.default_rng(0).normal(size=features.shape[1]).astype(np.float32)
    order = np.argsort(features @ axis, kind="stable")
    first: IntArray = np.arange(images)
    for start in range(0, images, _CHUNK):
        rows = order[start : start + _CHUNK]
        for offset in range(1, _LOOKED_AT + 1):
            others = order[start + offset : start + offset + len(rows)]
            squares = np.square(features[rows[: len(others)]] - features[others]).sum(axis=1)
            for place in np.flatnonzero(squares < _SAME).tolist():
                one, other = _root(first, rows[place]), _root(first, others[place])
                first[max(one, other)] = min(one, other)
    while not np.array_equal(first, first[first]):
        first = first[first]
    different = np.bincount(labels[np.unique(first)], minlength=int(labels.max()) + 1)
    is_kept = different[labels] < LEAST_IMAGES
    return np.where(is_kept | is_kept[first], np.arange(images), first)


def _root(first: IntArray, place: int) -> int:
    while first[place] != place:
        place = int(first[place])
    return place


def _closed_head(
    features: FloatArray, labels: IntArray, chosen: IntArray, classes: int
) -> FloatArray:
    """Return the weights of linear discriminant analysis with a shrunken covariance.

    On 650 photographs of flowers it is as accurate as `fit_head` (91.7% and 91.1%,
    EfficientNet-Lite0) and finds as many wrong labels. Source: T. Hastie et al., The elements of
    statistical learning, section 4.3.

    Args:
        features, labels, classes: as `fit_head` has them.
        chosen: int64, the images to fit on.
    """
    width = features.shape[1]
    counts = np.bincount(labels[chosen], minlength=classes)
    sums, moments = np.zeros((classes, width)), np.zeros((width, width))
    by_class = chosen[np.argsort(labels[chosen], kind="stable")]
    for start in range(0, len(by_class), _CHUNK):
        part = by_class[start : start + _CHUNK]
        rows, (present, starts) = features[part], np.unique(labels[part], return_index=True)
        sums[present] += np.add.reduceat(rows, starts, axis=0)
        moments += rows.T @ rows
    means = sums / np.maximum(counts, 1)[:, None]
    covariance = (moments - sums.T @ means) / len(chosen)
    variance = np.trace(covariance) / width
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * variance * np.eye(width)
    axes = np.linalg.solve(covariance, means.T)
    prior = np.log(np.maximum(counts, 1e-3) / len(chosen))
    bias = prior - 0.5 * np.einsum("cw,wc->c", means, axes)
    return np.asarray(np.vstack([axes, bias]), np.float32)


def fit_head(features: FloatArray, labels: IntArray, classes: int) -> FloatArray:
    """Return the weights of a multinomial logistic regression, the bias in the last row.

    Nesterov's accelerated gradient with the step 1/L, where L bounds the curvature: half the
    largest eigenvalue of the features' second moments (D. Böhning, Multinomial logistic regression
    algorithm, 1992). It needs no line search, and always the same time. 100 steps give the
    accuracy of scikit-learn's solver at its end.

    Args:
        features: float32 (images, components), from `components`.
        labels: int64 (images,), 0 to classes − 1.
        classes: how many there are.

    Returns:
        Float32 (components + 1, classes).
    """
    images = len(features)
    rows = np.hstack([features, np.ones((images, 1), np.float32)])
    penalty = np.full((rows.shape[1], 1), _PENALTY, np.float32)
    penalty[-1] = 0  # none on the bias
    curvature = float(np.linalg.eigvalsh(rows.T @ rows / images)[-1])
    step = np.float32(1 / (0.5 * curvature + _PENALTY))
    weights: FloatArray = np.zeros((rows.shape[1], classes), np.float32)
    ahead = weights
    for number in range(_STEPS):
        gradient = _of_loss(rows, labels, ahead) / images + penalty * ahead
        before, weights = weights, np.asarray(ahead - step * gradient, np.float32)
        ahead = weights + np.float32(number / (number + 3)) * (weights - before)
    return weights


def _of_loss(rows: FloatArray, labels: IntArray, weights: FloatArray) -> FloatArray:
    """Return the gradient of the cross-entropy, summed over the images."""
    total: FloatArray = np.zeros(weights.shape, np.float32)
    size = _chunk_of(weights.shape[1])
    for start in range(0, len(rows), size):
        part, targets = rows[start : start + size], labels[start : start + size]
        errors = softmax(part @ weights)
        errors[np.arange(len(part)), targets] -= 1
        total += part.T @ errors
    return total


def _chunk_of(classes: int) -> int:
    """Return how many images are computed at once."""
    return max(1, min(_CHUNK, _MOST_VALUES // classes))
