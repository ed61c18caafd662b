"""How long a silence lasts until the processes of a job call one of them lost, or the coordinator stopped.

Four timers find a loss, and none needs Python to be quick: a process that ends closes its connection at once; the
operating systems of the others notice a failed host after 14 s (`podrl.runtime.job.wire.KEEPALIVE`); a process that is
stopped, or a host that hangs, sends no more heartbeats to JAX's service, whose limit is `STALE_S`; and a coordinator
that is stopped itself does not answer the processes (`SILENT_S`).
"""

STALE_S = 40  # A process without heartbeats for this long is stuck; JAX aborts it. Without a CPU it survives 25 s.
# Twice the time between heartbeats. JAX aborts a process if the service does not answer for this long.
HEARTBEAT_S = 30
SILENT_S = 12.0  # Without an answer for this long, the coordinator is stopped; noticed before JAX aborts a process.
