"""The actions of `nono trust`, one module each, and what they share (keyref, keep, writing, place)."""
