"""What a learned model of an environment is asked for, and what it gives."""

import dataclasses

from flax import struct
import jax

from podrl.ops.atoms import Support


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The size and shape of a learned model.

    Attributes:
        num_bins: Bins of its values and rewards, an odd number.
        latent: `vector` or `image`.
        size: Entries of a latent vector, and units of each layer behind it.
        channels: Channels of a latent image, and of the layers around it.
        blocks: Residual blocks on latent images: of the representation, the transition and the prediction.
    """

    num_bins: int
    latent: str = "vector"
    size: int = 32
    channels: int = 64
    blocks: tuple[int, int, int] = (6, 2, 2)


@struct.dataclass(kw_only=True)
class LatentState:
    """A state of a learned model, made of what was observed, with the leading axes of the network's input.

    Attributes:
        latent: [..., *] float32; a vector [F] or an image [H, W, C], between 0 and 1.
        mask: [..., L] bool; which options the environment's action mask allows here; None without one.
    """

    latent: jax.Array
    mask: jax.Array | None = None


@struct.dataclass(kw_only=True)
class ModelOutput:
    """What a learned model predicts of latent states, with their leading axes.

    Attributes:
        policy: [..., P] float32; parameters of the distribution `ModelNetwork.policy`.
        value: [..., N] float32; logits of the value's two-hot code, see `podrl.ops.two_hot`.
        reward: [..., N] float32; those of the reward of the action that led here. Without a meaning for a latent state
            that was made of an observation.
    """

    policy: jax.Array
    value: jax.Array
    reward: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomShape:
    """The size and shape of a network of action values as distributions over atoms.

    Attributes:
        support: The atoms.
        dueling: Whether a state's logits and each action's are added.
        noisy: Whether the head's layers have noise on their weights (`podrl.networks.noisy`).
        sigma: The scale of that noise at first.
        has_model: Whether latents can be followed along actions.
        projection: Entries of what is compared of latents, for a network with a model; 0 without.
    """

    support: Support
    dueling: bool = True
    noisy: bool = True
    sigma: float = 0.5
    has_model: bool = False
    projection: int = 0
