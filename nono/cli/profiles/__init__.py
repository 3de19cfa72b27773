"""The actions of `nono profile`, a module each; sources.py says which profiles there are."""
