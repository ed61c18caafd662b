"""One file per environment source; `config.env.source = 'envpool'` imports `podrl.envs.sources.envpool`."""
