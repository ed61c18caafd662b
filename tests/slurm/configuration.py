"""The configuration file of a SLURM cluster whose nodes are all this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import random
import socket

CPUS_PER_NODE = 8  # As SLURM is told, whatever there is: its jobs are small.
REQUEUE_DELAY_S = 15  # How long a requeued job is held back; by default two minutes.
# Times are far above what anything takes here, as other work may slow the machine down; what has a short one is said.
_SETTINGS = {
    "ClusterName": "podrl",
    "SlurmctldHost": "localhost",
    "SlurmUser": "root",
    # Requeued jobs wait until their credentials of before have expired.
    "AuthInfo": f"socket={{folder}}/munge.sock,cred_expire={REQUEUE_DELAY_S}",
    "StateSaveLocation": "{folder}/state",
    "SlurmdSpoolDir": "{folder}/spool.%n",
    "SlurmctldPidFile": "{folder}/slurmctld.pid",
    "SlurmdPidFile": "{folder}/slurmd.%n.pid",
    # Nothing that a container may refuse: no cgroups, no binding to cores.
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core",
    "SlurmdParameters": "config_overrides",
    "MailProg": "/bin/true",
    # A job starts at once, also one that was requeued.
    "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
    "JobRequeue": "1",
    "KillWait": "5",
    "ReturnToService": "2",
    "MinJobAge": "3600",
    "SlurmdTimeout": "300",
    "MessageTimeout": "60",
    "BatchStartTimeout": "120",
    "TCPTimeout": "30",
}


def make_configuration(folder: Path, nodes: Sequence[str]) -> str:
    """The text of `slurm.conf`.

    Args:
        folder: of the cluster, for sockets, logs and state.
        nodes: their names.
    """
    controller, *ports = _free_ports(1 + len(nodes))
    settings: Mapping[str, object] = _SETTINGS | {
        "SlurmctldPort": controller,
        # jax.distributed takes its port from the job's number: clusters side by side start with different ones.
        "FirstJobId": random.SystemRandom().randrange(1, 4000),
    }
    lines = [f"{key}={str(value).format(folder=folder)}" for key, value in settings.items()]
    for node, port in zip(nodes, ports, strict=True):
        lines.append(f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE}")
    lines.append(f"PartitionName=all Nodes={','.join(nodes)} Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
