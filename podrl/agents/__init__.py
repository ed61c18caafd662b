"""One file per algorithm; `config.agent.name = 'impala'` imports `podrl.agents.impala`.

Such a module has a frozen dataclass `AgentConfig` with its hyper-parameters and a property `update_shape`, and
`make_agent(config, *, networks, spec, num_envs, num_updates, ahead, partition) -> Agent`; see
`podrl.agents.parts.interface`, and `podrl.ops.optimizers.share_left` for schedules over the run.
"""
