"""The actions of `nono rollback`, one module each, and what they share (places, changed)."""
