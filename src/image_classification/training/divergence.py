"""What a job says when its numbers are no longer numbers."""

from __future__ import annotations

import math

from image_classification.errors import UserError


def check_finite(loss: float, epoch: int) -> None:
    """Raise `diverged` if the loss of `epoch` is no finite number."""
    if not math.isfinite(loss):
        raise diverged(epoch)


def diverged(epoch: int) -> UserError:
    """The error of training that left the finite numbers in `epoch` (0 for the first)."""
    return UserError(
        f"training diverged in epoch {epoch + 1}: the loss is no longer a finite number; lower "
        "learning_rate, or set warmup_epochs or clip_gradient_norm"
    )
