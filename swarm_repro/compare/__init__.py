"""Comparing recordings with one another and with a live model."""
