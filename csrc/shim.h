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
/* syncfs(2): what was written to the file system of `fd`, to the disk. Absent: -ENOSYS. */
int nono_syncfs(int fd);

/* ---- spawn.c ------------------------------------------------------------------------ */

#define NONO_STEP_PREPARE 0       /* supervisor: the stacks */
#define NONO_STEP_CLONE 1         /* supervisor: clone(2), with its namespaces */
#define NONO_STEP_DEATH_SIGNAL 2  /* init or agent, from here on */
#define NONO_STEP_SETGROUPS 3
#define NONO_STEP_UID_MAP 4
#define NONO_STEP_GID_MAP 5
#define NONO_STEP_LOOPBACK 6
#define NONO_STEP_NETWORK 7
#define NONO_STEP_LISTEN 8
#define NONO_STEP_MOUNT 9
#define NONO_STEP_SESSION 10
#define NONO_STEP_TERMINAL 11
#define NONO_STEP_PREPARED 12
#define NONO_STEP_AGENT 13        /* init: clone(2) */
#define NONO_STEP_PROCESS_GROUP 14
#define NONO_STEP_FOREGROUND 15
#define NONO_STEP_LIMITS 16
#define NONO_STEP_CAPABILITIES 17
#define NONO_STEP_NO_NEW_PRIVS 18
#define NONO_STEP_DUMPABLE 19
#define NONO_STEP_CLOSE_RANGE 20
#define NONO_STEP_WORKDIR 21
#define NONO_STEP_SIGNALS 22
#define NONO_STEP_LANDLOCK 23
#define NONO_STEP_SECCOMP 24
#define NONO_STEP_EXEC 25

/* What the init says, and what it is told, on its socket: one message a packet. */
struct nono_message {
	int32_t kind;
	int32_t value;
};
#define NONO_EVENT_PREPARED 1     /* the first */
#define NONO_EVENT_STARTED 2      /* value: 0, or errno */
#define NONO_EVENT_EXITED 3       /* value: the agent's wait status */
#define NONO_EVENT_STOPPED 4      /* value: the signal that stopped it */
#define NONO_COMMAND_START 1      /* nono_start's own */
#define NONO_COMMAND_SIGNAL 2     /* value: for the agent's group, and itself outside of it */
#define NONO_COMMAND_FOREGROUND 3 /* value: 1 the agent's group, 0 the init's */

#define NONO_MOUNT_NEW 1          /* a file system of type `source`, with flags and data */
#define NONO_MOUNT_BIND 2         /* `source` and what is mounted below it, at `target` too */
#define NONO_MOUNT_BIND_READ_ONLY 3 /* the same, all of it read-only */
#define NONO_MOUNT_BIND_WRITABLE 4  /* the reverse; not what was read-only for the caller */
#define NONO_MOUNT_MOVE 5
#define NONO_MOUNT_READ_ONLY 6    /* what is mounted at `target`, and below it */
#define NONO_MOUNT_WRITABLE 7     /* what is mounted at `target`, without what is below it */
#define NONO_MOUNT_DIRECTORY 8    /* no mounts, but what they need; flags: the mode */
#define NONO_MOUNT_FILE 9
#define NONO_MOUNT_LINK 10        /* `target` leads to `source` */
struct nono_mount {
	int kind;
	int optional;                  /* goes on where something is missing, out of reach, or there */
	const char *source;
	const char *target;
	uint64_t flags;
	const char *data;
};

struct nono_prepare {
	/* in */
	uint64_t namespaces;           /* CLONE_NEW* bits; NEWUSER maps the caller's own ids */
	const uint16_t *listen_ports;  /* on 127.0.0.1 of the child's network; 0: any port */
	size_t listener_count;
	int *listener_fds;             /* as many; filled in, owned by the caller */
	int keep_network;              /* the caller gets the network namespace as well */
	const struct nono_mount *mounts;
	size_t mount_count;
	int terminal_like_fd;          /* a terminal like this is made for the agent; -1 none */
	const char *terminal_multiplexer; /* path of the ptmx to make it from */
	/* out */
	int step;                      /* NONO_STEP_*: the last one that was begun */
	size_t mount_index;            /* the last mount that was begun */
	int network_fd;                /* owned by the caller, like all below; -1 none */
	int terminal_fd;               /* our side of the agent's terminal */
	int pidfd;                     /* the init's */
	int control_fd;                /* the socket of messages; at its end the init ends all */
	void *handle;                  /* for the calls below */
};

struct nono_path_access {
	const char *path;
	uint64_t access;               /* Landlock rights */
};
struct nono_limit {
	int resource;                  /* setrlimit(2) */
	uint64_t soft;
	uint64_t hard;
};

/*
 * What the agent asks the kernel in the place of executing its program (probe.c). Files: opened
 * with O_NONBLOCK and O_NOCTTY, never truncated; NONO_ASK_CREATE makes something new (O_EXCL) and
 * removes it at once.
 */
#define NONO_ASK_OPEN 1    /* path; flags: O_RDONLY, O_WRONLY or O_RDWR */
#define NONO_ASK_LIST 2    /* path, of a directory */
#define NONO_ASK_CREATE 3  /* path; flags: O_WRONLY, or O_RDWR to read it, too */
#define NONO_ASK_CONNECT 4 /* TCP: address, port; then the request is sent, if there is one */

struct nono_question {
	/* in */
	int kind;
	int flags;
	const char *path;        /* NONO_ASK_CREATE: a name */
	const char *directory;   /* NONO_ASK_CREATE: where */
	uint32_t address;        /* IPv4, in the byte order of this machine */
	uint16_t port;
	int timeout_s;
	const char *request;
	size_t request_size;
	char *answer;            /* room for the head of what comes back; 0 bytes: nothing is waited for */
	size_t answer_size;
	/* out */
	int error;               /* errno, 0 for none */
	int left_behind;         /* what was made could not be removed */
	size_t answered;         /* bytes of the answer */
};

struct nono_probe {
	struct nono_question *questions;
	size_t count;
	size_t answered; /* out: how many questions */
};

struct nono_start {
	/* in */
	const char *path;              /* execve(2); all three NUL-terminated */
	char *const *argv;
	char *const *envp;
	const char *workdir;           /* chdir after the privileges are gone */
	int ruleset_fd;                /* Landlock; not optional: -1 fails with EBADF */
	uint32_t landlock_flags;       /* LANDLOCK_RESTRICT_SELF_* */
	const char *comm;              /* what audit records call the domain's maker; NULL: as it is */
	const struct nono_path_access *rules; /* added to it, opened behind the mounts */
	size_t rule_count;
	uint64_t terminal_access;      /* rights on the agent's terminal; 0 where a rule has it */
	const void *filter;            /* seccomp; not optional: 0 instructions fail with EINVAL */
	size_t filter_count;
	uint32_t filter_flags;         /* SECCOMP_FILTER_FLAG_*; with any, NEW_LISTENER is one */
	const int *procs_fds;          /* cgroup.procs files, into which the agent is written */
	size_t procs_count;
	const struct nono_limit *limits;
	size_t limit_count;
	unsigned int terminal_descriptors; /* bits of 0, 1, 2 that become the terminal */
	int in_foreground;             /* the agent's group has the terminal */
	struct nono_probe *probe;      /* NULL: none; see nono_start() */
	/* out */
	int step;
	int notify_fd;                 /* owned by the caller; -1 none */
};

/*
 * Make the init, and all around the agent. Its pid, or -errno and `step` says where; then no
 * child and no fd is left. Side effect: the caller's memory is undumpable afterwards. The
 * calling *thread* must live as long as the init: at its end the kernel kills that one.
 */
int nono_prepare(struct nono_prepare *prepare);
/*
 * Start `path` behind the whole wall. 0, or -errno and `step` says where. Never returns
 * success with a step left out. After a failure: nono_abandon.
 *
 * With a probe, nothing is executed: the agent answers the questions, beside the running caller,
 * and ends; an event tells of that (any EVENT_STARTED before it means nothing). Everything that
 * `start` points to stays until nono_abandon, which is to be called then, too.
 */
int nono_start(void *handle, int control_fd, int pidfd, struct nono_start *start);
/*
 * Without an init, and without anybody who stays: the calling process, which must have one
 * thread only, becomes the program, behind new namespaces (no PID and no mount namespace),
 * Landlock and seccomp. Only -errno is returned, `step` says where; what was given up by then
 * is given up for good. Needs to be dumpable, for CLONE_NEWUSER. Of `start`, what is about a
 * terminal and the probe is not looked at.
 */
int nono_wrap(uint64_t namespaces, struct nono_start *start);
/* End an init whose agent was not started; its descriptors stay the caller's. */
void nono_abandon(void *handle, int pid);

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

/* ---- notify.c: calls that wait for the supervisor, see seccomp_unotify(2) ----------- */

#define NONO_NOTIFY_ENDED 0   /* no process is left behind the filter, or `closing` was set */
#define NONO_NOTIFY_JUDGE 1   /* the call waits for nono_notify_answer */

#define NONO_CALL_OTHER 0
#define NONO_CALL_CONNECT 1
#define NONO_CALL_BIND 2
#define NONO_CALL_LISTEN 3

struct nono_recording;

/* One for all threads that serve a notification fd. The arrays are the caller's. */
struct nono_mediation {
	int notify_fd;
	struct nono_recording *recording; /* NULL: calls of kind OTHER are refused; else they go on */
	int as_it_is;                /* TCP and UDP connects: 1 as they are, 0 by the tables */
	size_t port_count;
	const uint16_t *asked_ports; /* on 127.0.0.1 or ::ffff:127.0.0.1 */
	const uint16_t *real_ports;  /* as many: where on 127.0.0.1 they lead */
	uint16_t guarded_port;       /* a real port; 0: none */
	uint32_t *admitted;          /* 65536: second (CLOCK_MONOTONIC, plus 1) in which a connect to
	                                guarded_port from that port began; 0 none. Atomic */
	int reports_left;            /* > 0: refused connects are handed up; of those that are made as
	                                they are, where calls are recorded. Atomic, as all below */
	int waiting;                 /* threads that wait for a call */
	int crowded;                 /* set when a call was received and none waits for the next */
	int crowded_fd;              /* an eventfd, written to when `crowded` was not set before */
	int closing;
};

struct nono_call {
	uint64_t id;
	uint64_t arguments[6];
	uint8_t address[128];        /* connect, bind: a copy, zero beyond address_size */
	size_t address_size;
	uint32_t kind;               /* NONO_CALL_* */
	uint32_t nr;                 /* of the system call */
	int tid;
	int fd;                      /* our duplicate of the socket; -1 where `error` says why not */
	int domain, type, protocol;
	int error;                   /* an errno > 0: the answer that C would give */
};

/* 0, or -errno: what mediation needs and this system has not, or forbids. */
int nono_notify_check(void);
/* Wake who waits on the CPU of who answers: faster. Linux 6.6, -EINVAL before. */
int nono_notify_sync_wake_up(int notify_fd);
/*
 * Receive calls and answer those that need no judgement, until one does (NONO_NOTIFY_*), or
 * -errno. Blocks; many threads may.
 */
int nono_notify_serve(struct nono_mediation *mediation, struct nono_call *call);
/* error: an errno > 0, or 0. flags: SECCOMP_USER_NOTIF_FLAG_*. Closes call->fd. */
int nono_notify_answer(int notify_fd, struct nono_call *call, int error, uint32_t flags);
/* 1 while the thread waits in the call. */
int nono_notify_still_waits(int notify_fd, uint64_t id);
/* connect(2) on call->fd. Interrupted only when nobody waits for it. */
int nono_notify_connect(struct nono_mediation *mediation, const struct nono_call *call, const void *address,
			size_t size);
/* Block every signal but the one of nono_notify_interrupt in the calling thread. */
int nono_notify_prepare_thread(void);
/* Make a blocking call of a thread of ours return; to be repeated until it has. */
int nono_notify_interrupt(int tid);
/* bind(2), listen(2), getsockname(2) (the true size), openat2(2) with mode 0. */
int nono_bind(int fd, const void *address, size_t size);
int nono_listen(int fd, int backlog);
int nono_getsockname(int fd, void *address, size_t size);
int nono_openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve);

/* ---- record.c: the paths that calls name --------------------------------------------- */

/* One row for each path of a call, so a call may have two. */
struct nono_recorded_call {
	uint32_t nr;
	int directory;               /* index of the argument: a descriptor; -1: the working directory */
	int path;                    /* index of the argument: a string */
	int flags;                   /* index of the argument; -1: none */
	uint32_t flags_mask;
	int may_be_empty;            /* without a path the directory is meant */
};

/* What stands in the buffer for each path that is new: this, and `size` bytes, absolute. */
struct nono_record_head {
	uint32_t size;
	uint32_t row;                /* index of the row */
	uint32_t flags;
};

/* One for all threads, like nono_mediation. The arrays are the caller's. */
struct nono_recording {
	const struct nono_recorded_call *calls;
	size_t call_count;
	uint64_t *seen;              /* zero; hashes of what was recorded. Atomic */
	size_t seen_count;
	uint64_t seed;
	uint8_t *buffer;             /* of `size`; under `lock`, as `used` */
	size_t size;
	size_t used;
	int lock;
	int stopped;                 /* record no more. Atomic, as all below */
	uint32_t received;
	uint32_t unread;             /* paths that could not be read from their process */
};

#define NONO_RECORD_FULL 1    /* nono_record_take, and again; nono_notify_serve hands the call up */

/* Record the paths of a call that waits: 0 or NONO_RECORD_FULL. */
int nono_record(struct nono_recording *recording, int notify_fd, const struct nono_call *call);
/* Copy what is in the buffer to `into`, which is as large, and empty it: the bytes. */
size_t nono_record_take(struct nono_recording *recording, void *into);

/* ---- seatbelt.c: macOS -------------------------------------------------------------- */

/*
 * sandbox_init(3) with a profile in SBPL, on the calling process, for good. On failure
 * `error` holds the kernel's own words, cut to `error_size`, NUL-terminated.
 */
int nono_sandbox_init(const char *profile, uint64_t flags, char *error, size_t error_size);

/* cffi declarations end here */
#endif
