"""vLLM as an engine: a process, and an environment, of its own."""
