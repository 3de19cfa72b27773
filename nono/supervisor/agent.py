"""Gone: see nono/supervisor/job.py. Kept until session/run.py imports Job from there."""

from nono.supervisor.job import Job as Job
