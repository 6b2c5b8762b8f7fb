"""The MXNet backend; this file and `catalog` do not import MXNet."""

from image_classification.backends import c_library

REQUIREMENTS = "Python 3.10 or 3.11, NumPy 1.23 and the system's libgomp1 and libquadmath0"


def prepare(threads: int) -> None:
    """Set what MXNet and OpenMP read while they are loaded.

    - Memory: MXNet too frees every activation. With freed memory kept, a training step of 8 images,
      EfficientNet-Lite0 at 224 pixels, takes 1.15 instead of 1.22 s of CPU time.
    - Threads: one worker of MXNet's engine, because each worker would start an OpenMP team of its
      own. The size of the team is fixed when MXNet is loaded, by default to half of the CPUs.
    """
    c_library.prepare_training()
    c_library.set_variables({"MXNET_CPU_WORKER_NTHREADS": "1"})
    c_library.set_variables({"OMP_NUM_THREADS": str(threads)}, replaces=True)
