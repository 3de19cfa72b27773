/*
 * spawn.h: what the supervisor's side (spawn.c), the init (init.c, mounts.c) and the agent
 * (agent.c) share. spawn.c says how they work together.
 */
#ifndef NONO_SPAWN_H
#define NONO_SPAWN_H

#include "shim.h"

#include <signal.h>
#include <sys/types.h>

#include "linux_compat.h"

#define STACK_SIZE (64 * 1024) /* the deepest step needs less than 1 KiB */
#define GUARD_SIZE (64 * 1024) /* the largest page size of aarch64 */
#define MAP_TEXT_SIZE 32       /* "4294967295 4294967295 1" */

/* The descriptors that the init keeps. */
enum {
	CONTROL,    /* its end of the socket of messages */
	CHILDREN,   /* a signalfd: SIGCHLD */
	TERMINAL,   /* the agent's side */
	SUPERVISOR, /* a pidfd: readable when the supervisor has ended */
	OWN_FDS
};

/* One id each, mapped to itself: the program sees who it is, and can become no one else. */
struct ids {
	char uid_map[MAP_TEXT_SIZE];
	char gid_map[MAP_TEXT_SIZE];
};

/* Lies at the top of the init's stack, for as long as the init lives. */
struct init {
	struct nono_prepare *prepare; /* while nono_prepare() waits */
	struct nono_start *start;     /* while nono_start() waits */
	sigset_t signal_mask;         /* the caller's, for the program */
	pid_t parent;
	pid_t pid;                    /* its own, as it sees it */
	pid_t agent;
	uid_t uid;
	int is_first;                 /* in a PID namespace of its own */
	int fds[OWN_FDS];             /* -1: none */
	int error;                    /* errno of the step that failed */
	char *agent_stack;
	struct ids ids;
};

#define STEP(name, failed)                                                                    \
	do {                                                                                  \
		args->step = (name);                                                          \
		if (failed)                                                                   \
			goto fail;                                                            \
	} while (0)

/* init.c; what clone(2) runs, on shared memory and with all signals blocked; the supervisor sleeps. */
int nono_run_init(void *init);
/* init.c: in new namespaces, become the one user that they have, and have a loopback. 0, or -1 and errno. */
int nono_settle(uint64_t namespaces, const struct ids *ids, int *step);
/* init.c: 0, or -1 and errno. */
int nono_reset_signal_actions(void);
/* mounts.c: 0, or -1 and errno; `mount_index` says at which. */
int nono_set_up_mounts(struct nono_prepare *prepare);
/* agent.c; what clone(2) runs, on the memory and the file table of init and supervisor, which both sleep. */
int nono_run_agent(void *init);
/* probe.c: in the place of execve(2). Does not return. */
void nono_ask_all(const struct init *init, struct nono_probe *probe);
/* agent.c: give up all that the program must not have, 0, 1 and 2 aside its files close at exec. 0, or -1 and errno. */
int nono_confine(struct nono_start *start, uid_t uid, int terminal_fd);
/*
 * agent.c: empty every capability set. The bounding set matters for uid 0 only, which regains
 * what is in it at every exec, no_new_privs or not; an ordinary user outside a user namespace
 * may not lower it (EPERM) and, with no_new_privs, can gain nothing from it.
 */
int nono_drop_capabilities(uid_t uid);

#endif
