"""swarm_repro in somebody's project: its files, its git, its CI."""
