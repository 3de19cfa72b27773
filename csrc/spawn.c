/*
 * spawn.c: from one process to a sandboxed one, by way of an init.
 *
 *     supervisor --clone--> init --vfork--> agent
 *     spawn.c               init.c          agent.c
 *                           mounts.c
 *
 * nono_prepare() makes the init: the first process of the new namespaces (process 1, where
 * there is a PID namespace), which sets them up: ids, loopback, listeners, mounts, the
 * agent's terminal. It then waits, so that the supervisor can still try another wall when
 * this one is not to be had here. nono_start() lets it start the agent, and returns when the
 * agent has executed its program or a step failed.
 *
 * The init stays as long as the run: it is the parent of the agent and of every orphan, the
 * leader of the agent's session, and tells the supervisor when the agent stops or ends; the
 * supervisor tells it which signals to send (struct nono_message, on a socket). When the
 * supervisor dies, the kernel kills the init, and with a PID namespace's init everything in it.
 *
 * Memory. The init runs on the supervisor's memory (CLONE_VM), on a stack of its own. So no
 * page is copied (a fork of this size costs 0.4 ms, and 3 ms of page faults afterwards), a
 * failure is a plain store, and PR_SET_DUMPABLE, an attribute of the memory, protects
 * supervisor and init alike before the agent's first instruction. The price:
 * - while init or agent use the C library, the calling thread of the supervisor sleeps
 *   (their thread-local storage, so `errno`, is the same). What the init does afterwards,
 *   beside a running supervisor, it does by bare system calls and touches nothing but its
 *   own stack: serve() in init.c.
 * - between clone and exec nothing may touch what another thread may hold: no malloc, no
 *   stdio. All signals are blocked, so no handler of the supervisor ever runs there.
 * - the init's stack is never given back.
 *
 * CLONE_FILES: the file table is shared until the agent runs, so what init and agent open
 * for the supervisor (listeners, the network, the terminal, the seccomp notifier) is in its
 * table at once, without SCM_RIGHTS.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#include <errno.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Supervisor: sleep until the init says something. Its message's value, or -EINTR when it died. */
static int
await(int control_fd, int pidfd)
{
	struct pollfd waited[2] = { { control_fd, POLLIN, 0 }, { pidfd, POLLIN, 0 } };
	struct nono_message message;

	for (;;) {
		if (poll(waited, 2, -1) < 0)
			continue; /* all signals are blocked: EAGAIN */
		if (waited[0].revents & POLLIN && read(control_fd, &message, sizeof(message)) == sizeof(message))
			return message.value;
		if (waited[1].revents)
			return -EINTR;
	}
}

/* The init's own descriptors, in the supervisor's table; the init goes on to read their numbers. */
static void
close_shared(const struct init *init)
{
	size_t index;

	for (index = 0; index < OWN_FDS; index++)
		if (init->fds[index] >= 0)
			close(init->fds[index]);
}

static void
release_memory(struct init *init)
{
	munmap(init->agent_stack - STACK_SIZE - GUARD_SIZE, 2 * (GUARD_SIZE + STACK_SIZE));
}

static void
own_ids(struct ids *ids)
{
	snprintf(ids->uid_map, sizeof(ids->uid_map), "%u %u 1", geteuid(), geteuid());
	snprintf(ids->gid_map, sizeof(ids->gid_map), "%u %u 1", getegid(), getegid());
}

int
nono_prepare(struct nono_prepare *prepare)
{
	sigset_t all_signals;
	struct init *init;
	size_t index;
	char *stack, *top;
	int pid, supervisor_fd = -1, error = 0, ends[2], pidfd = -1;

	prepare->step = NONO_STEP_PREPARE;
	for (index = 0; index < prepare->listener_count; index++)
		prepare->listener_fds[index] = -1;
	prepare->network_fd = prepare->terminal_fd = prepare->pidfd = prepare->control_fd = -1;
	prepare->handle = NULL;
	prepare->mount_index = 0;

	/* guard, the agent's stack, guard, the init's stack */
	stack = mmap(NULL, 2 * (GUARD_SIZE + STACK_SIZE), PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	top = stack + 2 * (GUARD_SIZE + STACK_SIZE);
	if (mprotect(stack + GUARD_SIZE, STACK_SIZE, PROT_READ | PROT_WRITE) < 0 ||
	    mprotect(top - STACK_SIZE, STACK_SIZE, PROT_READ | PROT_WRITE) < 0 ||
	    (supervisor_fd = (int)syscall(__NR_pidfd_open, getpid(), 0U)) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		error = errno;
		close_fd(&supervisor_fd);
		munmap(stack, 2 * (GUARD_SIZE + STACK_SIZE));
		return -error;
	}
	top -= (sizeof(*init) + 63) & ~(size_t)63;
	init = (struct init *)(void *)top;
	memset(init, 0, sizeof(*init));
	init->prepare = prepare;
	init->agent_stack = stack + GUARD_SIZE + STACK_SIZE;
	init->parent = getpid();
	init->uid = geteuid();
	init->fds[CONTROL] = ends[1];
	init->fds[SUPERVISOR] = supervisor_fd;
	init->fds[CHILDREN] = init->fds[TERMINAL] = -1;
	own_ids(&init->ids);

	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &init->signal_mask);
	prepare->step = NONO_STEP_CLONE;
	pid = clone(nono_run_init, top, CLONE_VM | CLONE_FILES | CLONE_PIDFD | SIGCHLD | (int)prepare->namespaces,
		    init, &pidfd);
	if (pid < 0) {
		error = errno;
	} else if (await(ends[0], pidfd) < 0) {
		error = init->error ? init->error : EINTR;
		waitpid(pid, NULL, 0); /* no EINTR: signals are blocked */
	}
	prepare->handle = init;
	prepare->pidfd = pidfd;
	prepare->control_fd = ends[0];
	pthread_sigmask(SIG_SETMASK, &init->signal_mask, NULL);
	if (error != 0) {
		close_shared(init);
		for (index = 0; index < prepare->listener_count; index++)
			close_fd(&prepare->listener_fds[index]);
		close_fd(&prepare->network_fd);
		close_fd(&prepare->terminal_fd);
		close_fd(&prepare->pidfd);
		close_fd(&prepare->control_fd);
		prepare->handle = NULL;
		release_memory(init);
		return -error;
	}
	init->prepare = NULL;
	return pid;
}

int
nono_start(void *handle, int control_fd, int pidfd, struct nono_start *start)
{
	struct init *init = handle;
	struct nono_message command = { NONO_COMMAND_START, 0 };
	sigset_t all_signals, mask;
	int error;

	start->notify_fd = -1;
	start->step = NONO_STEP_AGENT;
	init->start = start;
	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &mask);
	init->signal_mask = mask;
	error = write(control_fd, &command, sizeof(command)) == sizeof(command) ? 0 : errno;
	if (error == 0)
		error = await(control_fd, pidfd);
	init->start = NULL;
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	if (error != 0) {
		close_fd(&start->notify_fd);
		return error < 0 ? error : -error;
	}
	if (start->probe == NULL)
		close_shared(init); /* the init has a table of its own now */
	return 0;
}

int
nono_wrap(uint64_t namespaces, struct nono_start *start)
{
	struct ids ids;

	start->notify_fd = -1;
	own_ids(&ids); /* outside: in a new user namespace there is none yet */
	start->step = NONO_STEP_CLONE;
	if (namespaces != 0 && unshare((int)namespaces) < 0)
		return -errno;
	if (nono_settle(namespaces, &ids, &start->step) < 0)
		return -errno;
	start->step = NONO_STEP_SIGNALS;
	if (nono_reset_signal_actions() < 0 || nono_confine(start, geteuid(), -1) < 0)
		return -errno;
	start->step = NONO_STEP_EXEC;
	execve(start->path, start->argv, start->envp);
	return -errno;
}

void
nono_abandon(void *handle, int pid)
{
	struct init *init = handle;

	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	close_shared(init);
	release_memory(init);
}

#else

int
nono_prepare(struct nono_prepare *prepare)
{
	prepare->step = NONO_STEP_CLONE;
	prepare->network_fd = prepare->terminal_fd = prepare->pidfd = prepare->control_fd = -1;
	prepare->handle = NULL;
	return -ENOSYS;
}

int
nono_start(void *handle, int control_fd, int pidfd, struct nono_start *start)
{
	(void)handle, (void)control_fd, (void)pidfd;
	start->step = NONO_STEP_AGENT;
	start->notify_fd = -1;
	return -ENOSYS;
}

int
nono_wrap(uint64_t namespaces, struct nono_start *start)
{
	(void)namespaces;
	start->step = NONO_STEP_CLONE;
	return -ENOSYS;
}

void
nono_abandon(void *handle, int pid)
{
	(void)handle, (void)pid;
}

#endif
