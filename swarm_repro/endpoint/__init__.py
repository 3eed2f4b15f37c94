"""An OpenAI-compatible endpoint in front of a session, for programs in any language."""
