"""What a run reports while it trains: rows of metrics, curves, the terminal, and what limits its speed."""
