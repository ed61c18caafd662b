"""The section of a config that says which devices act and learn, and how many seeds they train at once.

Import it from `podrl.config.config`, which has the other sections.
"""

import dataclasses

from podrl.config.ranges import SIZE, check_values, choice, number, texts
from podrl.mistakes import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopologyConfig:
    """How each process divides its own devices.

    With `placement='sebulba'` the first `actor_devices_per_process` act and the last `learner_devices_per_process`
    learn; where the two overlap, a device does both. Zero means automatic: a single device does both; of several, the
    learners get the largest power of two that leaves a device to act, and the actors the largest power of two that
    remains (1+1, 2+2, 4+4). On TPU v5e slices of more than 16 chips all devices do both: the compiler accepts no
    program for a part of such a slice. With `anakin` there is no such split.

    Attributes:
        placement: where environments are stepped. `sebulba`: by actor threads on the host, while the learner learns.
            `anakin`: inside the compiled program, together with acting and learning, on every device; for environments
            that are JAX programs, such as those of `env.source=gymnax`. Lag is then always 0, environments are a part
            of the checkpoint, and of `actors` only `num_envs`, `unroll_length` and `timeout_s` have a meaning.
        updates_per_call: most updates that the compiled program of `anakin` makes before it returns; it returns for
            each row of metrics, checkpoint and evaluation, and a run can be stopped only then.
        seeds: seeds that one program trains at once, `seed`, `seed + 1` and so on, each as a run of that seed alone
            does, with a folder `seed-SEED` of its own. Numbers of environments, env steps and batches are of each
            seed. Above 1 only with `anakin`, in one process.
        actor_devices_per_process: number of devices that act.
        learner_devices_per_process: number of devices that learn.
        model_devices: size of the learner mesh's `model` axis, over which wide layers are split; the batch is split
            over the rest of the learner's devices, the axis `data`.
        sharding: how wide parameters and their optimizer state are laid out: `replicated`, whole on every learner
            device; `tensor`, each layer split over `model`; `fsdp`, split over `data` and gathered for use, and over
            `model` as well where there is such an axis. `auto` is `tensor` if `model_devices` is above 1 and there are
            no rules, else `replicated`. See docs/sharding.md.
        parameter_sharding: rules that take precedence, such as `encoder/Dense_0/kernel: -, model`: a regular expression
            that is searched for in a parameter's path, and the mesh axis (`data`, `model`, or `-` for none) of each of
            its dimensions. The first rule that matches decides; a parameter that none matches is left to `sharding`.
        micro_batches: the gradient of an optimizer step is summed over this many parts, one after the other: less
            memory, same result. 0 leaves the choice to the run, see `podrl.learning.micro_batches`.
        micro_batch_loop: `rolled`: the parts are one loop of the compiled program, which compiles sooner and takes less
            memory. `unrolled`: each is a copy of its own, which spares several devices a reduction for each part, and
            some convolutions on CPU a slow-down of twenty times. `auto` leaves the choice to the run.
        step_loop: the form of a loop over an agent's optimizer steps, with the values of `micro_batch_loop`.
    """

    placement: str = choice(("sebulba", "anakin"), "sebulba")
    updates_per_call: int = number(1, 10**6, 10)
    seeds: int = number(1, 4096, 1)
    actor_devices_per_process: int = number(0, 2**20, 0)
    learner_devices_per_process: int = number(0, 2**20, 0)
    model_devices: int = number(1, 2**20, 1)
    sharding: str = choice(("auto", "replicated", "tensor", "fsdp"), "auto")
    parameter_sharding: tuple[str, ...] = texts(1000, (), length=1000)
    micro_batches: int = number(0, SIZE, 0)
    micro_batch_loop: str = choice(("auto", "rolled", "unrolled"), "auto")
    step_loop: str = choice(("auto", "rolled", "unrolled"), "auto")

    def __post_init__(self) -> None:
        """Checks the values, that `anakin` has no numbers of devices, and that several seeds have `anakin`."""
        check_values(self, "topology.")
        check(
            self.placement == "anakin" or self.seeds == 1,
            f"topology.seeds={self.seeds} trains several seeds in one compiled program, which "
            f"topology.placement={self.placement!r} has not. Use topology.placement=anakin with environments that are "
            "JAX programs, or start a run for each seed.",
        )
        for name in ("actor_devices_per_process", "learner_devices_per_process"):
            check(
                self.placement == "sebulba" or getattr(self, name) == 0,
                f"topology.{name}={getattr(self, name)} has no meaning with topology.placement='anakin', where every "
                "device acts and learns. Leave it at 0, or use topology.placement=sebulba.",
            )

    def check_seed(self, seed: int) -> None:
        """Raises `ConfigError` if the last of the seeds is none; `seed` is the first."""
        last = seed + self.seeds - 1
        check(
            last < SIZE,
            f"topology.seeds={self.seeds} from seed={seed} on ends at {last}; seeds are below {SIZE}. Lower seed.",
        )
