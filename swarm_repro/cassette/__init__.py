"""Cassettes: recorded calls on disk, in format 1."""
