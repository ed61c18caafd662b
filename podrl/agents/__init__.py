"""One file per algorithm; `config.agent.name = 'impala'` imports `podrl.agents.impala`.

Such a module has a frozen dataclass `AgentConfig` with its hyper-parameters, among them `minibatches` and
`micro_batches` (see `podrl.experience.layout`), and `make_agent(config, network, num_updates, ahead) ->
podrl.agents.parts.interface.Agent`; the last two are for schedules over the run, see `podrl.ops.optimizers.share_left`.
"""
