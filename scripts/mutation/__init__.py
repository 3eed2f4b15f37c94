"""Mutation testing: put small faults into the package, and see whether a test notices."""
