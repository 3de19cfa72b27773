/*
 * spawn.c: from one process to a sandboxed one, by way of an init.
 *
 *     supervisor --clone--> init --vfork--> agent
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
 *   own stack: serve().
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
#include "shim.h"

#include <errno.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "linux_compat.h"

#define STACK_SIZE (64 * 1024) /* the deepest step needs less than 1 KiB */
#define GUARD_SIZE (64 * 1024) /* the largest page size of aarch64 */
#define LISTEN_BACKLOG 4096    /* net.core.somaxconn since Linux 5.4 */
#define LAST_SIGNAL 64         /* _NSIG of x86-64 and aarch64 */
#define KERNEL_SIGSET_SIZE 8
#define MAP_TEXT_SIZE 32       /* "4294967295 4294967295 1" */
#define OWN_FDS 4              /* that the init keeps */

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
	int control_fd;
	int children_fd;              /* a signalfd: SIGCHLD */
	int terminal_fd;              /* the agent's side */
	int supervisor_fd;            /* a pidfd: readable when the supervisor has ended */
	int error;                    /* errno of the step that failed */
	int shared_fds[OWN_FDS];      /* the four above, as the supervisor's table has them */
	char *agent_stack;
	char uid_map[MAP_TEXT_SIZE];
	char gid_map[MAP_TEXT_SIZE];
};

/* struct sigaction as the kernel has it: glibc's refuses signals 32 and 33. */
struct kernel_sigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	unsigned long mask;
};

static int
write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t written;
	int error;

	if (fd < 0)
		return -1;
	written = write(fd, text, strlen(text));
	error = errno;
	close(fd);
	errno = error;
	return written < 0 ? -1 : 0;
}

static int
loopback_up(void)
{
	struct ifreq request;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc, error;

	if (fd < 0)
		return -1;
	memset(&request, 0, sizeof(request));
	memcpy(request.ifr_name, "lo", sizeof("lo"));
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	rc = ioctl(fd, SIOCSIFFLAGS, &request);
	error = errno;
	close(fd);
	errno = error;
	return rc;
}

/* The fd lands in *listener_fd at once, so that the supervisor can close it on failure. */
static int
open_listener(uint16_t port, int *listener_fd)
{
	struct sockaddr_in address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int yes = 1;

	if (fd < 0)
		return -1;
	*listener_fd = fd;
	/* On the host's loopback: connections of an earlier run that are in TIME_WAIT do not hold the port. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0)
		return -1;
	memset(&address, 0, sizeof(address));
	address.sin_family = AF_INET;
	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return listen(fd, LISTEN_BACKLOG);
}

/*
 * A path without symbolic links, as it was when it was planned: whoever can write in a directory
 * above (an agent in another run) may put a link in its place, between two looks of ours.
 */
static int
open_real(const char *path)
{
	const struct nono_open_how how = { O_PATH | O_CLOEXEC, 0, NONO_RESOLVE_NO_SYMLINKS };

	return (int)syscall(__NR_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static int
is_directory(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

static int
set_read_only(int fd, int read_only, unsigned int flags)
{
	struct nono_mount_attr attr;

	memset(&attr, 0, sizeof(attr));
	if (read_only)
		attr.attr_set = NONO_MOUNT_ATTR_RDONLY;
	else
		attr.attr_clr = NONO_MOUNT_ATTR_RDONLY;
	return (int)syscall(__NR_mount_setattr, fd, "", flags | AT_EMPTY_PATH, &attr, sizeof(attr));
}

/* What is changed is a copy that is mounted nowhere yet, of the very file that was opened. */
static int
set_tree_read_only(int tree, int kind)
{
	if (kind == NONO_MOUNT_BIND)
		return 0;
	if (set_read_only(tree, kind == NONO_MOUNT_BIND_READ_ONLY, AT_RECURSIVE) == 0)
		return 0;
	/* Where a mount was read-only before us, the kernel refuses; it stays so, and what is below. */
	if (kind == NONO_MOUNT_BIND_READ_ONLY || errno != EPERM)
		return -1;
	return set_read_only(tree, 0, 0) == 0 || errno == EPERM ? 0 : -1;
}

static int
bind_mount(const struct nono_mount *mount_)
{
	int from, to = -1, tree = -1, rc = -1, error;

	from = open_real(mount_->source);
	if (from >= 0)
		to = strcmp(mount_->source, mount_->target) == 0 ? from : open_real(mount_->target);
	if (to >= 0)
		tree = (int)syscall(__NR_open_tree, from, "",
				    NONO_OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	if (tree >= 0 && set_tree_read_only(tree, mount_->kind) == 0)
		rc = (int)syscall(__NR_move_mount, tree, "", to, "",
				  NONO_MOVE_MOUNT_F_EMPTY_PATH | NONO_MOVE_MOUNT_T_EMPTY_PATH);
	error = errno;
	if (rc < 0 && tree >= 0 && is_directory(from) != is_directory(to))
		error = ENOTDIR; /* the kernel says EINVAL, which may mean much */
	if (tree >= 0)
		close(tree);
	if (to >= 0 && to != from)
		close(to);
	if (from >= 0)
		close(from);
	errno = error;
	return rc;
}

static int
change_mount(const char *path, int read_only, unsigned int flags)
{
	int rc, error, fd = open_real(path);

	if (fd < 0)
		return -1;
	rc = set_read_only(fd, read_only, flags);
	error = errno == EINVAL ? ENOENT : errno; /* nothing is mounted there: it was replaced */
	close(fd);
	errno = error;
	return rc;
}

static int
carry_out(const struct nono_mount *mount_)
{
	int fd;

	switch (mount_->kind) {
	case NONO_MOUNT_NEW:
		return mount(mount_->source, mount_->target, mount_->source, mount_->flags, mount_->data);
	case NONO_MOUNT_BIND:
	case NONO_MOUNT_BIND_READ_ONLY:
	case NONO_MOUNT_BIND_WRITABLE:
		return bind_mount(mount_);
	case NONO_MOUNT_MOVE:
		return mount(mount_->source, mount_->target, NULL, MS_MOVE, NULL);
	case NONO_MOUNT_READ_ONLY:
		return change_mount(mount_->target, 1, AT_RECURSIVE);
	case NONO_MOUNT_WRITABLE:
		return change_mount(mount_->target, 0, 0);
	case NONO_MOUNT_DIRECTORY:
		return mkdir(mount_->target, (mode_t)mount_->flags);
	case NONO_MOUNT_FILE:
		fd = open(mount_->target, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, (mode_t)mount_->flags);
		return fd < 0 ? -1 : close(fd);
	case NONO_MOUNT_LINK:
		return symlink(mount_->source, mount_->target);
	default:
		errno = EINVAL;
		return -1;
	}
}

/*
 * What has vanished since it was planned, or has become a link, is left out; what is there already
 * serves. What is out of our reach (EACCES: in a directory of another user) is out of the agent's.
 */
static int
set_up_mounts(struct nono_prepare *prepare)
{
	size_t index;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -1;
	for (index = 0; index < prepare->mount_count; index++) {
		const struct nono_mount *mount_ = &prepare->mounts[index];

		prepare->mount_index = index;
		if (carry_out(mount_) == 0)
			continue;
		if (!mount_->optional || (errno != ENOENT && errno != EEXIST && errno != EACCES &&
					  errno != ELOOP && errno != ENOTDIR))
			return -1;
	}
	return 0;
}

/* Both sides of a new terminal that looks like the user's; ours becomes the session's own. */
static int
open_terminal(struct init *init, struct nono_prepare *prepare)
{
	struct termios attributes;
	struct winsize size;
	int unlocked = 0;

	prepare->terminal_fd =
		open(prepare->terminal_multiplexer, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (prepare->terminal_fd < 0 || ioctl(prepare->terminal_fd, TIOCSPTLCK, &unlocked) < 0)
		return -1;
	init->terminal_fd = ioctl(prepare->terminal_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (init->terminal_fd < 0)
		return -1;
	if (tcgetattr(prepare->terminal_like_fd, &attributes) == 0)
		tcsetattr(init->terminal_fd, TCSANOW, &attributes);
	if (ioctl(prepare->terminal_like_fd, TIOCGWINSZ, &size) == 0)
		ioctl(init->terminal_fd, TIOCSWINSZ, &size);
	return ioctl(init->terminal_fd, TIOCSCTTY, 0);
}

/*
 * Empty every capability set. The bounding set matters for uid 0 only, which regains what
 * is in it at every exec, no_new_privs or not; an ordinary user outside a user namespace
 * may not lower it (EPERM) and, with no_new_privs, can gain nothing from it.
 */
static int
drop_capabilities(uid_t uid)
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

static int
reset_signal_actions(void)
{
	struct kernel_sigaction action;
	int number;

	memset(&action, 0, sizeof(action)); /* SIG_DFL */
	for (number = 1; number <= LAST_SIGNAL; number++) {
		if (number == SIGKILL || number == SIGSTOP)
			continue;
		if (syscall(__NR_rt_sigaction, number, &action, NULL, KERNEL_SIGSET_SIZE) < 0)
			return -1;
	}
	return 0;
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

#define STEP(name, failed)                                                                    \
	do {                                                                                  \
		args->step = (name);                                                          \
		if (failed)                                                                   \
			goto fail;                                                            \
	} while (0)

/* The agent, on the memory and the file table of the init and the supervisor, which both sleep. */
static int
run_agent(void *argument)
{
	struct init *init = argument;
	struct nono_start *args = init->start;
	size_t index;
	int rc;

	/* Outside of a PID namespace the end of the init would not be ours. */
	STEP(NONO_STEP_DEATH_SIGNAL, prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0UL, 0UL, 0UL) < 0);
	if (getppid() != init->pid) { /* it ended before the call */
		errno = ESRCH;
		goto fail;
	}
	/* SIGTTOU is blocked, so taking the terminal from the background does not stop us. */
	STEP(NONO_STEP_PROCESS_GROUP, setpgid(0, 0) < 0);
	if (init->terminal_fd >= 0 && args->in_foreground)
		STEP(NONO_STEP_FOREGROUND, tcsetpgrp(init->terminal_fd, getpgrp()) < 0);
	for (index = 0; index < args->procs_count; index++)
		STEP(NONO_STEP_LIMITS, write(args->procs_fds[index], "0", 1) < 0);
	for (index = 0; index < args->limit_count; index++) {
		struct rlimit limit = { args->limits[index].soft, args->limits[index].hard };

		STEP(NONO_STEP_LIMITS, setrlimit((__rlimit_resource_t)args->limits[index].resource, &limit) < 0);
	}
	STEP(NONO_STEP_CAPABILITIES, drop_capabilities(init->uid) < 0);
	STEP(NONO_STEP_NO_NEW_PRIVS, prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) < 0);
	STEP(NONO_STEP_WORKDIR, chdir(args->workdir) < 0);
	/* Python ignores SIGPIPE, and exec keeps what is ignored. */
	STEP(NONO_STEP_SIGNALS, reset_signal_actions() < 0);
	STEP(NONO_STEP_LANDLOCK, add_late_rules(args, init->terminal_fd) < 0);
	rc = nono_landlock_restrict_self(args->ruleset_fd, 0);
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
	for (rc = 0; rc < 3; rc++)
		if (init->terminal_fd >= 0 && args->terminal_descriptors & 1U << rc)
			STEP(NONO_STEP_TERMINAL, dup2(init->terminal_fd, rc) < 0);
	/* Before the mask: a signal that waited kills the program, which did start. */
	args->step = NONO_STEP_EXEC;
	sigprocmask(SIG_SETMASK, &init->signal_mask, NULL);
	execve(args->path, args->argv, args->envp);
fail:
	init->error = errno;
	_exit(127);
}

/* Init, at the supervisor's word; the supervisor sleeps until it is told. Returns errno. */
static int
start_agent(struct init *init)
{
	struct nono_start *args = init->start;

	init->error = 0;
	args->step = NONO_STEP_AGENT;
	init->agent = clone(run_agent, init->agent_stack,
			    CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, init);
	if (init->agent < 0)
		return errno;
	if (init->error == 0 && args->step != NONO_STEP_EXEC)
		init->error = EINTR; /* killed on the way */
	if (init->error != 0)
		return init->error;
	/* From here on nothing is needed but what serve() waits for, and the terminal. */
	prctl(PR_SET_NAME, "nono-init", 0UL, 0UL, 0UL);
	if (drop_capabilities(init->uid) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) < 0 ||
	    unshare(CLONE_FILES) < 0) {
		args->step = NONO_STEP_CAPABILITIES;
		return errno;
	}
	if (!init->is_first)
		prctl(PR_SET_PDEATHSIG, 0UL, 0UL, 0UL, 0UL); /* see end_all() */
	for (unsigned int fd = 0, kept = 0; kept <= OWN_FDS; kept++) {
		int next[OWN_FDS] = { init->control_fd, init->children_fd, init->terminal_fd,
				      init->supervisor_fd };
		unsigned int least = ~0U;

		for (int index = 0; index < OWN_FDS; index++)
			if (next[index] >= 0 && (unsigned int)next[index] >= fd && (unsigned int)next[index] < least)
				least = (unsigned int)next[index];
		if (least > fd)
			syscall(__NR_close_range, fd, least == ~0U ? ~0U : least - 1, 0U);
		if (least == ~0U)
			break;
		fd = least + 1;
	}
	return 0;
}

/* A system call that leaves `errno` alone: it belongs to a thread that runs beside us. */
static long
bare(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
#else
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "memory");
	return x0;
#endif
}

static void
tell(const struct init *init, int kind, int value)
{
	struct nono_message message = { kind, value };

	bare(__NR_write, init->control_fd, (long)&message, sizeof(message), 0, 0);
}

/* Reap whatever has ended; report what happened to the agent. */
static void
reap(struct init *init)
{
	int status;
	long pid;

	while ((pid = bare(__NR_wait4, -1, (long)&status, WNOHANG | WUNTRACED | __WALL, 0, 0)) > 0) {
		if (pid != init->agent)
			continue;
		if (WIFSTOPPED(status)) {
			tell(init, NONO_EVENT_STOPPED, WSTOPSIG(status));
			continue;
		}
		init->agent = -1;
		/* A process that outlives the agent keeps its terminal, and nobody else does. */
		if (init->terminal_fd >= 0)
			bare(__NR_close, init->terminal_fd, 0, 0, 0, 0);
		init->terminal_fd = -1;
		tell(init, NONO_EVENT_EXITED, status);
	}
}

static void
obey(struct init *init, const struct nono_message *command)
{
	int group;

	if (init->agent <= 0)
		return;
	if (command->kind == NONO_COMMAND_SIGNAL) {
		if (bare(__NR_getpgid, init->agent, 0, 0, 0, 0) != init->agent)
			bare(__NR_kill, init->agent, command->value, 0, 0, 0);
		bare(__NR_kill, -init->agent, command->value, 0, 0, 0);
	} else if (command->kind == NONO_COMMAND_FOREGROUND && init->terminal_fd >= 0) {
		group = command->value ? init->agent : (int)bare(__NR_getpgid, 0, 0, 0, 0, 0);
		bare(__NR_ioctl, init->terminal_fd, TIOCSPGRP, (long)&group, 0, 0);
	}
}

/*
 * The supervisor is gone, or wants the end. A PID namespace ends with its process 1. Without
 * one, whatever the agent left is our child, or becomes it when its parent is killed.
 */
static void
end_all(const struct init *init)
{
	char children[4096];
	long size, index, pid, fd;

	while (!init->is_first) {
		size = -1;
		fd = bare(__NR_openat, AT_FDCWD, (long)"/proc/thread-self/children", O_RDONLY | O_CLOEXEC, 0, 0);
		if (fd >= 0) {
			size = bare(__NR_read, fd, (long)children, sizeof(children), 0, 0);
			bare(__NR_close, fd, 0, 0, 0, 0);
		}
		if (size <= 0) /* none; or the kernel does not tell (CONFIG_PROC_CHILDREN) */
			break;
		for (index = 0, pid = 0; index < size; index++) {
			if (children[index] != ' ') {
				pid = 10 * pid + children[index] - '0';
			} else {
				bare(__NR_kill, pid, SIGKILL, 0, 0, 0);
				pid = 0;
			}
		}
		/* At least one of them ends, and its children are ours then. */
		bare(__NR_wait4, -1, 0, __WALL, 0, 0);
	}
	bare(__NR_exit_group, 0, 0, 0, 0, 0);
}

/* The rest of the init's life. */
static void
serve(struct init *init)
{
	struct pollfd waited[3] = { { init->control_fd, POLLIN, 0 },
				    { init->children_fd, POLLIN, 0 },
				    { init->supervisor_fd, POLLIN, 0 } };
	struct signalfd_siginfo signals[8];
	struct nono_message command;
	long size;

	for (;;) {
		bare(__NR_ppoll, (long)waited, 3, 0, 0, 0);
		if (waited[2].revents)
			end_all(init);
		if (waited[1].revents) {
			bare(__NR_read, init->children_fd, (long)signals, sizeof(signals), 0, 0);
			reap(init);
		}
		if (!waited[0].revents)
			continue;
		size = bare(__NR_read, init->control_fd, (long)&command, sizeof(command), 0, 0);
		if (size == 0 || (size < 0 && size != -EINTR && size != -EAGAIN))
			end_all(init);
		if (size != sizeof(command))
			continue;
		if (command.kind == NONO_COMMAND_START)
			tell(init, NONO_EVENT_STARTED, start_agent(init));
		else
			obey(init, &command);
	}
}

/* Init, after clone, on shared memory and with all signals blocked; the supervisor sleeps. */
static int
run_init(void *argument)
{
	struct init *init = argument;
	struct nono_prepare *args = init->prepare;
	sigset_t children;
	size_t index;

	/*
	 * A supervisor that was killed with -9 takes the init with it, and so the PID
	 * namespace. It may have died before the call; the socket does not end then, because we
	 * share the other end, so serve() watches the process, too. Without a PID namespace the
	 * end of the socket is enough later on, and lets us end the others first.
	 */
	init->pid = getpid();
	init->is_first = init->pid == 1;
	STEP(NONO_STEP_DEATH_SIGNAL, prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0UL, 0UL, 0UL) < 0);
	if (!init->is_first && getppid() != init->parent) {
		errno = ESRCH;
		goto fail;
	}
	/* Python's own handlers must not be called here, nor SIGCHLD be ignored. */
	STEP(NONO_STEP_SIGNALS, reset_signal_actions() < 0);
	if (args->namespaces & CLONE_NEWUSER) {
		/* gid_map without CAP_SETGID outside: only once setgroups is given up. */
		STEP(NONO_STEP_SETGROUPS, write_file("/proc/self/setgroups", "deny") < 0);
		STEP(NONO_STEP_UID_MAP, write_file("/proc/self/uid_map", init->uid_map) < 0);
		STEP(NONO_STEP_GID_MAP, write_file("/proc/self/gid_map", init->gid_map) < 0);
	}
	if (args->namespaces & CLONE_NEWNET)
		STEP(NONO_STEP_LOOPBACK, loopback_up() < 0);
	if (args->keep_network) {
		args->step = NONO_STEP_NETWORK;
		args->network_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		if (args->network_fd < 0)
			goto fail;
	}
	/* The supervisor's memory, not before uid_map: an undumpable process does not own it. */
	STEP(NONO_STEP_DUMPABLE, prctl(PR_SET_DUMPABLE, 0UL, 0UL, 0UL, 0UL) < 0);
	for (index = 0; index < args->listener_count; index++)
		STEP(NONO_STEP_LISTEN, open_listener(args->listen_ports[index], &args->listener_fds[index]) < 0);
	if (args->namespaces & CLONE_NEWNS)
		STEP(NONO_STEP_MOUNT, set_up_mounts(args) < 0);
	STEP(NONO_STEP_SESSION, setsid() < 0);
	if (args->terminal_like_fd >= 0)
		STEP(NONO_STEP_TERMINAL, open_terminal(init, args) < 0);
	if (!init->is_first)
		STEP(NONO_STEP_SESSION, prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL) < 0);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	init->children_fd = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	STEP(NONO_STEP_SESSION, init->children_fd < 0);
	args->step = NONO_STEP_PREPARED;
	init->shared_fds[0] = init->control_fd;
	init->shared_fds[1] = init->children_fd;
	init->shared_fds[2] = init->terminal_fd;
	init->shared_fds[3] = init->supervisor_fd;
	tell(init, NONO_EVENT_PREPARED, 0);
	serve(init);
fail:
	init->error = errno;
	_exit(127);
}

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

/* The init's own descriptors, in the supervisor's table. */
static void
close_shared(struct init *init)
{
	size_t index;

	for (index = 0; index < OWN_FDS; index++)
		close_fd(&init->shared_fds[index]);
}

static void
release_memory(struct init *init)
{
	munmap(init->agent_stack - STACK_SIZE - GUARD_SIZE, 2 * (GUARD_SIZE + STACK_SIZE));
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
	init->control_fd = ends[1];
	init->supervisor_fd = supervisor_fd;
	init->children_fd = init->terminal_fd = -1;
	/* One id, mapped to itself: the program sees who it is, and can become no one else. */
	snprintf(init->uid_map, sizeof(init->uid_map), "%u %u 1", geteuid(), geteuid());
	snprintf(init->gid_map, sizeof(init->gid_map), "%u %u 1", getegid(), getegid());

	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &init->signal_mask);
	prepare->step = NONO_STEP_CLONE;
	pid = clone(run_init, top, CLONE_VM | CLONE_FILES | CLONE_PIDFD | SIGCHLD | (int)prepare->namespaces,
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
		close_fd(&init->control_fd);
		close_fd(&init->children_fd);
		close_fd(&init->terminal_fd);
		close_fd(&init->supervisor_fd);
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
	close_shared(init); /* the init has a table of its own now */
	return 0;
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

void
nono_abandon(void *handle, int pid)
{
	(void)handle, (void)pid;
}

#endif
