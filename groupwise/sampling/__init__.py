"""Planners, admission, interventions and the history of prompts; no torch."""
