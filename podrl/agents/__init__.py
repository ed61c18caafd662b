"""One file per algorithm; `config.agent.name = 'impala'` imports `podrl.agents.impala`.

Such a module has a frozen dataclass `AgentConfig` with its hyper-parameters, among them `minibatches` and
`micro_batches`
(see `podrl.layout`), and `make_agent(config, network, num_updates) -> podrl.types.Agent`.
"""

import importlib
import pkgutil
from types import ModuleType

from podrl.config import check_one_of


def load_agent(name: str) -> ModuleType:
    """Imports `podrl.agents.<name>`.

    Raises:
        ConfigError: if there is no such module; lists those that there are.
    """
    check_one_of("agent.name", name, [module.name for module in pkgutil.iter_modules(__path__)])
    return importlib.import_module(f"{__name__}.{name}")
