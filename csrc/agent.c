/*
 * agent.c: from the init's child to the agent's program: it gives up what it must not have,
 * and executes. Its signal actions are the init's, which has reset them.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#include <errno.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

int
nono_drop_capabilities(uid_t uid)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
	int capability;

	for (capability = 0; capability < 64; capability++) {
		if (prctl(PR_CAPBSET_DROP, (unsigned long)capability, 0UL, 0UL, 0UL) == 0)
			continue;
		if (errno == EINVAL && capability > 0)
			break; /* past the last one that this kernel knows */
		if (errno == EPERM && uid != 0)
			break;
		return -1;
	}
	if (prctl(PR_CAP_AMBIENT, (unsigned long)PR_CAP_AMBIENT_CLEAR_ALL, 0UL, 0UL, 0UL) < 0)
		return -1;
	memset(none, 0, sizeof(none));
	return (int)syscall(__NR_capset, &header, none);
}

/* The rights on what the mounts have made, which could not be opened before, and on the terminal. */
static int
add_late_rules(struct nono_start *start, int terminal_fd)
{
	struct nono_path_rule rule;
	size_t index;
	int rc, fd;

	for (index = 0; index <= start->rule_count; index++) {
		if (index < start->rule_count) {
			rule.access = start->rules[index].access;
			fd = open(start->rules[index].path, O_PATH | O_CLOEXEC);
			if (fd < 0 && errno == ENOENT)
				continue;
		} else {
			rule.access = start->terminal_access;
			fd = terminal_fd;
			if (fd < 0 || rule.access == 0)
				break;
		}
		if (fd < 0)
			return -1;
		rule.parent_fd = fd;
		rc = nono_landlock_add_rule(start->ruleset_fd, NONO_LANDLOCK_PATH_BENEATH, &rule, 0);
		if (fd != terminal_fd)
			close(fd);
		if (rc < 0) {
			errno = -rc;
			return -1;
		}
	}
	return 0;
}

int
nono_confine(struct nono_start *args, uid_t uid, int terminal_fd)
{
	size_t index;
	int rc;

	for (index = 0; index < args->procs_count; index++)
		STEP(NONO_STEP_LIMITS, write(args->procs_fds[index], "0", 1) < 0);
	for (index = 0; index < args->limit_count; index++) {
		struct rlimit limit = { args->limits[index].soft, args->limits[index].hard };

		STEP(NONO_STEP_LIMITS, setrlimit((__rlimit_resource_t)args->limits[index].resource, &limit) < 0);
	}
	STEP(NONO_STEP_CAPABILITIES, nono_drop_capabilities(uid) < 0);
	STEP(NONO_STEP_NO_NEW_PRIVS, prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) < 0);
	STEP(NONO_STEP_WORKDIR, chdir(args->workdir) < 0);
	STEP(NONO_STEP_LANDLOCK, add_late_rules(args, terminal_fd) < 0);
	/* Until the exec: the kernel notes it with the domain, see nono/kernel/audit.py. */
	if (args->comm != NULL)
		prctl(PR_SET_NAME, (unsigned long)args->comm, 0UL, 0UL, 0UL);
	rc = nono_landlock_restrict_self(args->ruleset_fd, args->landlock_flags);
	if (rc < 0) {
		errno = -rc;
		goto fail;
	}
	/* After what only the steps above call. A notifier lands in the shared table. */
	args->step = NONO_STEP_SECCOMP;
	rc = nono_seccomp_set_filter(args->filter, args->filter_count, args->filter_flags);
	if (rc < 0) {
		errno = -rc;
		goto fail;
	}
	if (args->filter_flags != 0)
		args->notify_fd = rc;
	/* A file table of our own, of which only 0, 1 and 2 survive the exec. */
	STEP(NONO_STEP_CLOSE_RANGE,
	     syscall(__NR_close_range, 3U, ~0U, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) < 0);
	return 0;
fail:
	return -1;
}

int
nono_run_agent(void *argument)
{
	struct init *init = argument;
	struct nono_start *args = init->start;
	int terminal_fd = init->fds[TERMINAL];
	int fd;

	/* Outside of a PID namespace the end of the init would not be ours. */
	STEP(NONO_STEP_DEATH_SIGNAL, prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0UL, 0UL, 0UL) < 0);
	if (getppid() != init->pid) { /* it ended before the call */
		errno = ESRCH;
		goto fail;
	}
	/* SIGTTOU is blocked, so taking the terminal from the background does not stop us. */
	STEP(NONO_STEP_PROCESS_GROUP, setpgid(0, 0) < 0);
	if (terminal_fd >= 0 && args->in_foreground)
		STEP(NONO_STEP_FOREGROUND, tcsetpgrp(terminal_fd, getpgrp()) < 0);
	if (nono_confine(args, init->uid, terminal_fd) < 0)
		goto fail;
	for (fd = 0; fd < 3; fd++)
		if (terminal_fd >= 0 && args->terminal_descriptors & 1U << fd)
			STEP(NONO_STEP_TERMINAL, dup2(terminal_fd, fd) < 0);
	args->step = NONO_STEP_EXEC;
	if (args->probe != NULL)
		nono_ask_all(init, args->probe);
	/* Before the exec: a signal that waited kills the program, which did start. */
	sigprocmask(SIG_SETMASK, &init->signal_mask, NULL);
	execve(args->path, args->argv, args->envp);
fail:
	init->error = errno;
	_exit(127);
}

#endif
