from tests.support.llama_cpp_stand_in import library

__all__ = ["library"]
