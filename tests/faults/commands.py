"""Arguments of the runs that the faults happen to; all of them write a row per update."""

from tests.processes import ROOT

CATCH = (  # 120 updates.
    *("--config", ROOT / "configs/impala_catch.py", "--config.total_env_steps=76_800"),
    *("--config.checkpoint.every_updates=20", "--config.checkpoint.keep=2"),
    *("--config.log.every_updates=1", "--config.log.tensorboard=False"),
)
BREAKOUT = (  # 12 updates; each boundary opens emulators anew, which takes most of the time.
    *("--config", ROOT / "configs/impala_pong.py", "--config.env.id=Breakout-v5", "--config.total_env_steps=192"),
    *("--config.actors.num_envs=4", "--config.actors.unroll_length=4", "--config.agent.minibatches=1"),
    *("--config.env.options.img_height=36", "--config.env.options.img_width=36"),
    *("--config.checkpoint.every_updates=3", "--config.checkpoint.keep=2"),
    *("--config.log.every_updates=1", "--config.log.tensorboard=False"),
)
SCRIPTED = ("--config", ROOT / "tests/faults/config.py")  # 8 updates, with a boundary after the fourth.
