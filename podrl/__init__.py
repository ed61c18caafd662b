"""podrl: deep reinforcement learning on TPU pods and GPU clusters. Start at `podrl.train`."""
