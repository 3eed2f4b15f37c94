"""Cassettes in the formats of other tools."""
