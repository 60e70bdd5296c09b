"""Compiled sampling and training of the dense block of Llama, Qwen2 and Qwen3 on a processor; optional, with a fallback."""
