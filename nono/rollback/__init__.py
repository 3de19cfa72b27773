"""Undo: what was in the directories that the agent may write, before it ran and after.

A snapshot (snapshot.py) walks each root (tree.py, ignore.py), puts what is new into a store of objects that are named
after their contents (objects.py), and writes one file that names everything (manifest.py). Two manifests tell what
changed (changes.py). A session (sessions.py) is a directory with the manifest from before and the one from after;
restore.py goes back. Nothing here knows the sandbox, the command line or the audit log.
"""
