/*
 * shim.h: what nono needs from the kernel and Python does not offer.
 *
 * This comment and the ones below are the contract; csrc/build.py turns everything
 * after the marker line into the cffi declarations, so what follows it holds plain C
 * declarations and `#define NAME integer` only.
 *
 * One wrapper, one system call (or one thing that must happen between fork and exec).
 * A result >= 0 is the result, < 0 is -errno. No allocation that outlives the call, no
 * globals, no logging, no retries, no policy: flags and structures are built in Python.
 * The same symbols exist on every system; what a system does not have is -ENOSYS.
 */
#ifndef NONO_SHIM_H
#define NONO_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* cffi declarations start here */

/* ---- landlock.c: see landlock(7) ---------------------------------------------------- */

/* attr: struct landlock_ruleset_attr. NULL, 0 and flags 1 ask for the ABI version. */
int nono_landlock_create_ruleset(const void *attr, size_t size, uint32_t flags);
/* attr: struct landlock_path_beneath_attr (type 1) or landlock_net_port_attr (type 2). */
int nono_landlock_add_rule(int ruleset_fd, int type, const void *attr, uint32_t flags);
/* Restricts the calling thread, for good. Needs no_new_privs. */
int nono_landlock_restrict_self(int ruleset_fd, uint32_t flags);

/* ---- seccomp.c: see seccomp(2) ------------------------------------------------------ */

/*
 * Install `count` instructions (struct sock_filter) on the calling thread. Needs
 * no_new_privs. 0, or the notification fd where flags ask for one.
 */
int nono_seccomp_set_filter(const void *filter, size_t count, uint32_t flags);

/* ---- process.c ---------------------------------------------------------------------- */

/* prctl(2) with one argument, the others 0. */
int nono_prctl(int option, unsigned long argument);

/* ---- spawn.c ------------------------------------------------------------------------ */

#define NONO_STEP_PREPARE 0       /* parent: stack of the child */
#define NONO_STEP_CLONE 1         /* parent: clone(2), with its namespaces */
#define NONO_STEP_DEATH_SIGNAL 2  /* child, from here on */
#define NONO_STEP_SETGROUPS 3
#define NONO_STEP_UID_MAP 4
#define NONO_STEP_GID_MAP 5
#define NONO_STEP_LOOPBACK 6
#define NONO_STEP_NETWORK 7
#define NONO_STEP_LISTEN 8
#define NONO_STEP_PROCESS_GROUP 9
#define NONO_STEP_FOREGROUND 10
#define NONO_STEP_CAPABILITIES 11
#define NONO_STEP_NO_NEW_PRIVS 12
#define NONO_STEP_DUMPABLE 13
#define NONO_STEP_CLOSE_RANGE 14
#define NONO_STEP_WORKDIR 15
#define NONO_STEP_SIGNALS 16
#define NONO_STEP_LANDLOCK 17
#define NONO_STEP_SECCOMP 18
#define NONO_STEP_EXEC 19

struct nono_spawn {
	/* in */
	const char *path;              /* execve(2); all three NUL-terminated */
	char *const *argv;
	char *const *envp;
	const char *workdir;           /* chdir after the privileges are gone */
	uint64_t namespaces;           /* CLONE_NEW* bits; NEWUSER maps the caller's own ids */
	const uint16_t *listen_ports;  /* on 127.0.0.1 of the new network; 0: any port */
	size_t listener_count;
	int *listener_fds;             /* as many; filled in, owned by the caller */
	int keep_network;              /* the caller gets the new network namespace as well */
	int ruleset_fd;                /* Landlock; not optional: -1 fails with EBADF */
	const void *filter;            /* seccomp; not optional: 0 instructions fail with EINVAL */
	size_t filter_count;
	int new_process_group;
	int foreground_tty_fd;         /* gets the new group in the foreground; -1 none */
	int death_signal;              /* sent to the child when the calling *thread* ends */
	/* out */
	int step;                      /* NONO_STEP_*: the last one that was begun */
	int network_fd;                /* owned by the caller; -1 none */
	int pidfd;                     /* owned by the caller; -1 where pidfd_open is missing */
};

/*
 * Start `path` behind the whole wall, in one call. The pid, or -errno and `step` says
 * where; then no child, no fd and no terminal change is left. Never returns success
 * with a step left out. Side effect: the caller's memory is undumpable afterwards.
 */
int nono_spawn(struct nono_spawn *spawn);

/* ---- network.c ---------------------------------------------------------------------- */

/*
 * A TCP socket of `family`, non-blocking and close-on-exec, in the network namespace
 * `network_fd`, which belongs to a user namespace that the caller's user made below his own.
 * `call`: the name of the system call that failed.
 */
int nono_socket_in_network(int network_fd, int family, const char **call);

/* Whether setns(2) is allowed at all here: 0, or -errno. Enters nothing. */
int nono_setns_allowed(void);

/* ---- secret.c: memory for secrets --------------------------------------------------- */

int nono_memfd_secret(unsigned int flags);
/* Map `size` bytes read-write: shared from `fd`, or private and anonymous where fd is -1. */
int nono_map(size_t size, int fd, void **address);
int nono_unmap(void *address, size_t size);
int nono_mlock(void *address, size_t size);
/* Linux only. */
int nono_madvise(void *address, size_t size, int advice);
/* macOS only: minherit(2). */
int nono_minherit(void *address, size_t size, int inherit);
/* Overwrite with zeros in a way that no compiler removes. */
void nono_wipe(void *address, size_t size);

/* ---- keyctl.c: the kernel's key retention service, see keyctl(2) -------------------- */

/* The serial number of the key, always > 0. */
int nono_add_key(const char *type, const char *description, const void *payload,
		 size_t size, int keyring);
/* Pointers are passed as integers: what an argument means depends on the operation. */
long nono_keyctl(int operation, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d);

/* ---- splice.c ----------------------------------------------------------------------- */

/* tee(2); Python has splice itself as os.splice. */
long nono_tee(int fd_in, int fd_out, size_t size, unsigned int flags);

/* ---- seatbelt.c: macOS -------------------------------------------------------------- */

/*
 * sandbox_init(3) with a profile in SBPL, on the calling process, for good. On failure
 * `error` holds the kernel's own words, cut to `error_size`, NUL-terminated.
 */
int nono_sandbox_init(const char *profile, uint64_t flags, char *error, size_t error_size);

/* cffi declarations end here */
#endif
