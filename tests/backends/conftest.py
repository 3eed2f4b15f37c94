from tests.backends.library import library

__all__ = ["library"]
