"""Interception: the program that calls a model does not know it is recorded."""
