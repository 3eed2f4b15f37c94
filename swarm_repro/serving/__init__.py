"""Finding, starting, watching and stopping llama-server, and fetching models."""
