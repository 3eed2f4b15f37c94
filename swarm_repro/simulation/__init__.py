"""Simulation: running unmodified SWARM under a session."""
