"""How a training ends otherwise than with its last step; light, so that a command line can name what it catches."""

import signal

TERMINATED = 128 + signal.SIGTERM  # the exit status of a training that was asked to end, its last step saved


class Diverged(ArithmeticError):  # noqa: N818 - the name says what happened
    """A loss or a weight is no finite number any more; the checkpoint is still the last one that was sound."""


class Unfinished(RuntimeError):  # noqa: N818 - the name says all there is to do
    """`max_minutes` ran out after `step` of `total` steps, or after all of them with the evaluation still to come.

    The checkpoint is kept, the same call goes on.
    """

    def __init__(self, step: int, total: int) -> None:
        done = f"after {step} of {total} training steps" if step < total else "for the evaluation; training is finished"
        super().__init__(f"max_minutes ran out {done}; the same call goes on from there")
        self.step, self.total = step, total


class Elsewhere(RuntimeError):  # noqa: N818 - no error: the first machine goes on alone
    """This machine, not the first of several, has trained its share; the first one holds what came of it."""

    def __init__(self, node: int, num_nodes: int) -> None:
        super().__init__(f"machine {node} of 0 to {num_nodes - 1} has done its share; what follows is up to machine 0")
