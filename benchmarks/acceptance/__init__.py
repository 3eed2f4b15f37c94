"""Trials of what a cassette promises, with counts that no test suite has time for."""
