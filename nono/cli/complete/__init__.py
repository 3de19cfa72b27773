"""Completion scripts, one module a shell; words.py says what there is to complete."""
