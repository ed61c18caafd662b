"""Reports of a run while it trains: rows of metrics, curves, the terminal, and the bottleneck."""
