"""The section of an agent's config that describes an optimizer."""

import dataclasses

from podrl.config.ranges import choice, number


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimizer; an agent with several has several sections of this kind.

    The agent's config checks the values, as it knows the section's name.

    Attributes:
        name: `adam`, `adamw` (Adam with decoupled weight decay), `radam` (rectified Adam) or `rmsprop`.
        learning_rate: The learning rate at the start of the run.
        learning_rate_decay: Whether it falls linearly to zero at the end of the run; if false it stays.
        warmup_updates: Updates over which the learning rate first rises linearly to what it would be without.
        rmsprop_decay: Decay of `rmsprop`'s mean square.
        epsilon: Added to the root mean square (or to the mean square, see next).
        epsilon_inside_root: For `rmsprop`: false is PyTorch's form and Atari's default, true TensorFlow's.
        max_grad_norm: The whole gradient is scaled down to this global norm.
        weight_decay: For `adamw`: each step takes this share, times the learning rate, of kernels; biases and other
            vectors do not decay.
    """

    name: str = choice(("adam", "adamw", "radam", "rmsprop"), "adam")
    learning_rate: float = number(1e-12, 10, 3e-4)
    learning_rate_decay: bool = True
    warmup_updates: int = number(0, 2**31, 0, open=True)
    rmsprop_decay: float = number(0, 1, 0.99, open=True)
    epsilon: float = number(1e-15, 1e3, 1e-5)
    epsilon_inside_root: bool = False
    max_grad_norm: float = number(1e-9, 1e9, 1.0)
    weight_decay: float = number(0, 10, 0.0)
