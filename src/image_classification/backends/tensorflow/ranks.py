"""The processes that train together, with TensorFlow's collective operations.

In: tensors of this rank. Out: their sums over the ranks. A MultiWorkerMirroredStrategy starts a
server in every process, and each process is one worker.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from image_classification.backends import base, c_library
from image_classification.backends.processes import await_listeners, launch
from image_classification.errors import AlgorithmError
from image_classification.samples import Float64Array

__all__ = ["device_count", "launch"]


def device_count() -> int:
    """See `base.Launcher`; this computes nothing on the GPUs yet."""
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
    """Membership in the cluster of a world; make it before TensorFlow's first operation.

    Raises:
        AlgorithmError: this process cannot listen at its address.
    """

    def __init__(self, world: base.World) -> None:
        self.size = world.size
        self._strategy: Any = None
        self._total: Any = None
        if self.size == 1:
            return
        try:
            self._strategy = _strategy(world)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise AlgorithmError(
                f"this process cannot listen on {world.addresses[world.rank]}, where the other "
                f"processes of this job connect to it: {error}"
            ) from error
        # TensorFlow's own wait times out and leaves a call behind, whose answer is written to freed
        # memory (seen in TensorFlow 2.21: the process aborts).
        await_listeners(world.addresses)
        values = tf.TensorSpec([None], tf.float64)
        self._total = self.traced(lambda values: self.sum([values]), [values])

    def traced(self, function: Callable[..., Any], signature: Sequence[tf.TensorSpec]) -> Any:
        """Return a function that is traced once and may call `sum` and `average`."""
        strategy = self._strategy

        def on_this_rank(*inputs: tf.Tensor) -> Any:
            return strategy.run(function, inputs)

        return tf.function(on_this_rank, input_signature=signature)

    def total(self, values: Float64Array) -> Float64Array:
        """Return float64 (N,) values summed over the ranks; not in a traced function."""
        if self.size == 1:
            return np.array(values, np.float64)
        (summed,) = self._total(tf.constant(values, tf.float64))
        return np.array(summed.numpy())

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return the sum of each tensor over the ranks; one message carries all tensors.

        This waits without a limit, for example while the first rank validates and saves.
        `training/lifeline` detects lost ranks.
        """
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        replica = tf.distribute.get_replica_context()
        summed = replica.all_reduce(tf.distribute.ReduceOp.SUM, flat)
        sums = tf.split(summed, [tf.size(tensor) for tensor in tensors])
        pairs = zip(sums, tensors, strict=True)
        return [tf.reshape(values, tf.shape(tensor)) for values, tensor in pairs]

    def average(
        self, variables: Sequence[tf.Variable], before: Sequence[tf.Tensor], has_samples: tf.Tensor
    ) -> None:
        """Set each variable to its mean over the ranks that had samples in this step.

        Args:
            variables: float32, the same on every rank.
            before: their values before the step, to restore if no rank had samples.
            has_samples: float32, 1 if this rank had samples, else 0.
        """
        if not variables:
            return
        shares = [variable.read_value() * has_samples for variable in variables]
        count, *sums = self.sum([has_samples, *shares])
        for variable, old, summed in zip(variables, before, sums, strict=True):
            variable.assign(tf.where(count > 0.0, tf.math.divide_no_nan(summed, count), old))

    def leave(self) -> None:
        """Free the strategy; its server listens until the process ends."""
        self._strategy = self._total = None

    @contextmanager
    def loss_noticed(self) -> Iterator[None]:
        """Turn TensorFlow's error about a failed sum into an AlgorithmError."""
        try:
            yield
        except _LOST as error:
            if self.size == 1:
                raise
            raise AlgorithmError(
                "another host of this job ended or cannot be reached; see its log for the reason "
                f"({_reason(error)})"
            ) from error


def _reason(error: tf.errors.OpError) -> str:
    """Return the first line after the traceback of the graph."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    frames = [index for index, line in enumerate(lines) if line.startswith("File ")]
    reasons = [line for line in lines[frames[-1] + 1 if frames else 0 :] if line]
    return reasons[0] if reasons else type(error).__name__


def _strategy(world: base.World) -> Any:
    """Return the strategy of the world, without TensorFlow's own checks of its workers.

    The coordination service ends a job if a process is silent for ten seconds, for example while it
    moves to another machine. The health check ends a job if a rank leaves before the others, and
    its thread sleeps 30 seconds before it can be joined. No public name of TensorFlow 2.21 turns
    either off.
    """
    # Imported here so that a job of one rank does not depend on private names.
    from tensorflow.python.distribute import collective_all_reduce_strategy
    from tensorflow.python.eager import context

    # gRPC would send every call to the proxy of `http_proxy`, which cannot reach the other hosts.
    hosts = {address.rpartition(":")[0] for address in world.addresses}
    c_library.set_variables({"no_grpc_proxy": ",".join(sorted(hosts))}, replaces=True)
    context.context().configure_coordination_service(service_type="")
    collective_all_reduce_strategy.CollectiveAllReduceExtended._enable_check_health = False
    cluster = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(world.addresses)}),
        task_type="worker",
        task_id=world.rank,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster)
