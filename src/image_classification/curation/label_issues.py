"""Which labels are perhaps wrong, and which images are unlike all others.

A label is judged by probabilities of a model that has not seen it (`curation.OutOfFold`, or the
validation of a training job). The model of the labels has two numbers, fitted together by the
likelihood of the given labels: a temperature that calibrates the probabilities q, and the share e
of labels that are wrong and fall on any other class alike:

    P(given) = (1 − e) · q(given) + e / (classes − 1) · (1 − q(given))

The score of a label is the second term's share of the sum: the probability that it is wrong. Where
images are hard, many shares explain the labels about as well, each with another temperature. The
smallest of those counts, so a hard data set is not taken for a wrong one. As in confident learning
(C. Northcutt et al., Confident learning: estimating uncertainty in dataset labels, JAIR 2021), what
is suspicious depends on the level of the probabilities, here by calibration instead of a threshold
for each class.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from image_classification.curation import of_length_1
from image_classification.samples import Array, BoolArray, Float64Array, FloatArray, IntArray

THRESHOLD, THRESHOLD_IF_WRONG = 0.05, 0.025
"""The least score of a suspicious label; and the one that counts if some labels certainly are
wrong, because then more labels are worth a look."""
# Northcutt et al. (Pervasive label errors in test sets, 2021) find 3.3% of wrong labels on average
# in ten common data sets. At least 1% is assumed, so that a single odd label among hundreds shows.
_LEAST_SHARE = 0.01
_SHARES = np.array([0, *np.geomspace(0.002, 0.4, 40)])
_SHARPNESS = np.geomspace(0.03, 6, 40)  # 1 / temperature
# What the logarithm of the likelihood may lose with the smallest share: a ratio test at 1.4%.
_TOLERANCE = 3.0
_MOST_FITTED = 20_000  # labels that the two numbers are fitted to
_NEIGHBORS = 10
_MOST_COMPARED = 200  # classes of an image; all others count with their mean logit
# Images among which neighbors are looked for; fewer than the first ones where images times these
# are more than the pairs: 50,000 images or more. A billion pairs take about a minute on two cores.
_MOST_REFERENCES, _LEAST_REFERENCES, _MOST_PAIRS = 20_000, 2_000, 1_000_000_000
_CHUNK = 1024
# Standard deviations. Of 650 photographs of flowers, 4 are beyond (0.6%); of 10 photographs of
# other things among them, 8 (EfficientNet-Lite0).
_OUTLYING = 3.0


@dataclass(frozen=True)
class LabelScores:
    """The labels of a data set, judged.

    Attributes:
        scores: float64 (images,), 0–1, the probability that the label is wrong.
        suggested: int64 (images,), the most probable other class.
        is_suspicious: bool (images,), a score of at least the threshold, and the suggested class
            is more probable than the given one.
        threshold: THRESHOLD, or THRESHOLD_IF_WRONG.
        wrong_share: the share of wrong labels is at least about this, 0–0.4.
        accuracy: the share of images whose given class the models predict, 0–1; of several models
            the mean.
    """

    scores: Float64Array
    suggested: IntArray
    is_suspicious: BoolArray
    threshold: float
    wrong_share: float
    accuracy: float

    def ranked(self) -> list[int]:
        """Return the indices of the suspicious labels, most suspicious first."""
        order = np.argsort(-self.scores, kind="stable")
        return [int(index) for index in order if self.is_suspicious[index]]


def score_labels(
    chunks: Iterable[tuple[slice, FloatArray]], labels: IntArray, classes: int
) -> LabelScores:
    """Judge labels by probabilities of a model that was not trained on them.

    Args:
        chunks: slices of the images with their probabilities, (images, classes), or (repeats,
            images, classes) of several models, whose mean counts.
        labels: int64 (images,), 0 to classes − 1.
        classes: how many there are, ≥ 2.
    """
    images, correct = len(labels), 0.0
    own = np.empty((len(_SHARPNESS), images), np.float32)  # q(given) at every temperature
    suggested, is_other = np.empty(images, np.int64), np.empty(images, np.bool_)
    for part, found in chunks:
        probabilities = found.mean(axis=0) if found.ndim == 3 else found
        correct += float((found.argmax(axis=-1) == labels[part]).mean() * len(probabilities))
        places, given = np.arange(len(probabilities)), labels[part]
        logits = np.log(np.maximum(probabilities, 1e-12))
        own_logits = logits[places, given]
        logits[places, given] = -np.inf
        suggested[part] = logits.argmax(axis=1)
        is_other[part] = logits.max(axis=1) > own_logits
        above = logits - own_logits[:, None]
        rest, rest_mean = 0, np.zeros(len(above), np.float32)
        if classes > _MOST_COMPARED + 1:
            above = np.partition(above, (0, classes - _MOST_COMPARED), axis=1)  # itself is first
            rest = classes - 1 - _MOST_COMPARED
            rest_mean = above[:, 1 : classes - _MOST_COMPARED].mean(axis=1)
            above = above[:, classes - _MOST_COMPARED :]
        for number, sharpness in enumerate(_SHARPNESS):
            # e^60 against 1 is 0 or 1, and beyond e^88 a float32 overflows.
            odds = np.exp(np.minimum(sharpness * above, 60)).sum(axis=1)
            odds += rest * np.exp(np.minimum(sharpness * rest_mean, 60))
            own[number, part] = 1 / (1 + odds)
    fitted = own[:, :: 1 + images // _MOST_FITTED].astype(np.float64)
    likelihoods = np.array(
        [[np.log(_given(q, share, classes) + 1e-12).sum() for share in _SHARES] for q in fitted]
    )
    best = likelihoods.max(axis=0)  # of each share
    number = int(np.flatnonzero(best >= best.max() - _TOLERANCE)[0])
    share, q = float(_SHARES[number]), own[likelihoods[:, number].argmax()].astype(np.float64)
    assumed = max(share, _LEAST_SHARE)
    scores = assumed / (classes - 1) * (1 - q) / np.maximum(_given(q, assumed, classes), 1e-30)
    are_wrong = best[0] < best.max() - 2 * _TOLERANCE  # no share of 0 explains the labels
    threshold = THRESHOLD_IF_WRONG if are_wrong else THRESHOLD
    return LabelScores(
        scores, suggested, (scores >= threshold) & is_other, threshold, share, correct / images
    )


def _given(q: Array, share: float, classes: int) -> Array:
    return (1 - share) * q + share / (classes - 1) * (1 - q)


def outliers(
    features: FloatArray, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> list[tuple[int, float]]:
    """Return the images unlike all others, the most unlike first: (index, distance).

    The distance is the mean one to the 10 nearest neighbors (S. Ramaswamy et al., Efficient
    algorithms for mining outliers, 2000): 1 − cosine, 0 to 2. An outlier's is more than three
    standard deviations above the median; the standard deviation is estimated by the quartiles.

    Args:
        features: float32 (images, width), of a network without its head.
        seed: of the images among which neighbors are looked for: at most 20,000, and of a million
            images 2,000.
        on_progress: called with the number of images that are done, and that of all.
    """
    images = len(features)
    if images <= 2 * _NEIGHBORS:
        return []
    chosen: IntArray = np.arange(images)
    most = max(_LEAST_REFERENCES, min(_MOST_REFERENCES, _MOST_PAIRS // images))
    if images > most:
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.choice(images, most, replace=False))
    references, distances = of_length_1(features[chosen]), np.empty(images)
    for start in range(0, images, _CHUNK):
        part = np.arange(start, min(start + _CHUNK, images))
        near = of_length_1(features[part]) @ references.T
        near[part[:, None] == chosen] = -np.inf  # an image is no neighbor of itself
        distances[part] = 1 - np.partition(near, -_NEIGHBORS, axis=1)[:, -_NEIGHBORS:].mean(axis=1)
        if on_progress is not None:
            on_progress(len(part) + start, images)
    low, middle, high = np.quantile(distances, (0.25, 0.5, 0.75))
    limit = middle + _OUTLYING * max(high - low, 1e-6) / 1.349
    order = np.argsort(-distances, kind="stable")
    return [(int(i), float(distances[i])) for i in order if distances[i] > limit]
