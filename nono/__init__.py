"""nono: run an AI agent that holds no real key and touches only what was granted."""

__version__ = "0.1.0"
