"""Credentials: where a key comes from, and how it reaches locked memory as the only copy in the supervisor.

`loading.Loader` is the door for a run; `stores` is the door for `nono credential`. Everything else serves those two.
"""
