"""The processes that train together: sums over all of them, and nothing when there is only one.

In: tensors of this rank. Out: their sums over the world, by TensorFlow's collective operations,
which a MultiWorkerMirroredStrategy sets up: a server in every process, each of them one worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classification.backends.base import World
from image_classification.backends.processes import await_listeners, launch
from image_classification.backends.tensorflow import reach_directly
from image_classification.errors import AlgorithmError

__all__ = ["device_count", "launch"]


def device_count() -> int:
    """The GPUs of this machine that this process may use; nothing is computed on them yet."""
    return len(tf.config.list_physical_devices("GPU"))


_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class Ranks:
    """Membership in the cluster of a world.

    It must be made before TensorFlow's first operation in the process.

    Args:
        world: its rank, its size and where each rank listens.

    Raises:
        AlgorithmError: it cannot listen at its address.
    """

    def __init__(self, world: World) -> None:
        self.size = world.size
        self._strategy: Any = None
        self._total: Any = None
        if self.size == 1:
            return
        try:
            self._strategy = _strategy(world)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise AlgorithmError(
                f"this process cannot listen at {world.addresses[world.rank]}, where the "
                f"others of this job would reach it: {error}"
            ) from error
        # A timeout of TensorFlow's own would leave a call behind that, when it is answered, writes
        # to freed memory (seen in TensorFlow 2.21: the process aborts).
        await_listeners(world.addresses)
        values = tf.TensorSpec([None], tf.float64)
        self._total = self.traced(lambda values: self.sum([values]), [values])

    def traced(self, function: Callable[..., Any], signature: Sequence[tf.TensorSpec]) -> Any:
        """A function that may call `sum` and `average`, traced once."""
        strategy = self._strategy

        def on_this_rank(*inputs: tf.Tensor) -> Any:
            return strategy.run(function, inputs)

        return tf.function(on_this_rank, input_signature=signature)

    def total(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks; outside of a traced function."""
        if self.size == 1:
            return np.array(values, np.float64)
        (summed,) = self._total(tf.constant(values, tf.float64))
        return np.array(summed.numpy())

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The sum of each tensor over the ranks: one message for all of them.

        It waits without end, as for the first rank that validates and saves; who watches for lost
        ranks is the core (`training/lifeline`).
        """
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        replica = tf.distribute.get_replica_context()
        summed = replica.all_reduce(tf.distribute.ReduceOp.SUM, flat)
        parts = tf.split(summed, [tf.size(tensor) for tensor in tensors])
        pairs = zip(parts, tensors, strict=True)
        return [tf.reshape(part, tf.shape(tensor)) for part, tensor in pairs]

    def average(
        self, variables: Sequence[tf.Variable], before: Sequence[tf.Tensor], has_samples: tf.Tensor
    ) -> None:
        """Make each variable its mean over the ranks that had samples in this step.

        Args:
            variables: float32, the same on every rank.
            before: their values before the step, which they take again where no rank had samples.
            has_samples: whether this one had, float32 0 or 1.
        """
        if not variables:
            return
        shares = [variable.read_value() * has_samples for variable in variables]
        count, *sums = self.sum([has_samples, *shares])
        for variable, old, summed in zip(variables, before, sums, strict=True):
            variable.assign(tf.where(count > 0.0, tf.math.divide_no_nan(summed, count), old))

    def leave(self) -> None:
        """Let go of the other ranks; the server listens until the process ends."""
        self._strategy = self._total = None

    @contextmanager
    def loss_noticed(self) -> Iterator[None]:
        """In this block TensorFlow's error about a sum that fails becomes an AlgorithmError."""
        try:
            yield
        except _LOST as error:
            if self.size == 1:
                raise
            raise AlgorithmError(
                "another host of this job ended or is out of reach; its log says why "
                f"({_reason(error)})"
            ) from error


def _reason(error: tf.errors.OpError) -> str:
    """The first line that is neither the place in the graph nor the way there."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    places = [number for number, line in enumerate(lines) if line.startswith("File ")]
    said = [line for line in lines[places[-1] + 1 if places else 0 :] if line]
    return said[0] if said else type(error).__name__


def _strategy(world: World) -> Any:
    """The strategy of the world, without TensorFlow's own watches over its workers.

    The coordination service ends a job whose process is silent for ten seconds, as while it is
    moved to another machine; the health check ends one where a rank leaves before the others, and
    its thread sleeps 30 seconds before it can be joined. No public name of TensorFlow 2.21 turns
    either off.
    """
    # Here: a job of one rank does without private names.
    from tensorflow.python.distribute import collective_all_reduce_strategy
    from tensorflow.python.eager import context

    reach_directly(address.rpartition(":")[0] for address in world.addresses)
    context.context().configure_coordination_service(service_type="")
    collective_all_reduce_strategy.CollectiveAllReduceExtended._enable_check_health = False
    cluster = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(world.addresses)}),
        task_type="worker",
        task_id=world.rank,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster)
