"""Backends: calling a real model."""
