"""Record multi-agent LLM simulations on llama.cpp once, replay them bit for bit."""

__version__ = "0.1.0"
