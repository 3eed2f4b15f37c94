"""Measuring which settings give one answer to one seeded request here, and their price."""
