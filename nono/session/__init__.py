"""One run (run.py), or the proxy alone (serve.py): the only room in which the others are put together."""
