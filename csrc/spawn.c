/*
 * spawn.c: from one process to a sandboxed one, in one call.
 *
 * clone(CLONE_VM | CLONE_VFORK): the child runs on the parent's memory, on a stack of its
 * own, while the calling thread waits until the child has executed its program or died.
 * So nothing is copied (a fork of a 2 GB parent costs 20 ms), a failure is reported by
 * plain stores into *spawn, and PR_SET_DUMPABLE, an attribute of the memory, protects the
 * *parent* before the program's first instruction runs.
 *
 * The price: between clone and exec the child must not touch anything that another thread
 * may hold. It makes system calls and nothing else: no malloc, no stdio, no Python. All
 * signals are blocked throughout, so no handler of the parent ever runs in the child.
 *
 * CLONE_FILES: the file table is shared until close_range() unshares it, so the listeners
 * that the child opens inside its network are in the parent's table at once, without a
 * socket pair and SCM_RIGHTS, and so is the network namespace itself where the parent wants
 * to make sockets in it later (network.c). The child opens nothing else that outlives its step.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "linux_compat.h"

#define STACK_SIZE (64 * 1024) /* the deepest step needs less than 1 KiB */
#define GUARD_SIZE (64 * 1024) /* the largest page size of aarch64 */
#define LISTEN_BACKLOG 4096    /* net.core.somaxconn since Linux 5.4 */
#define LAST_SIGNAL 64         /* _NSIG of x86-64 and aarch64 */
#define KERNEL_SIGSET_SIZE 8
#define MAP_TEXT_SIZE 32       /* "4294967295 4294967295 1" */

struct child {
	struct nono_spawn *spawn;
	sigset_t signal_mask;      /* the caller's, for the program */
	pid_t parent;
	uid_t uid;
	char uid_map[MAP_TEXT_SIZE];
	char gid_map[MAP_TEXT_SIZE];
	int error;                 /* errno of the step that failed */
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

/* The fd lands in *listener_fd at once, so that the parent can close it on failure. */
static int
open_listener(uint16_t port, int *listener_fd)
{
	struct sockaddr_in address;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	*listener_fd = fd;
	memset(&address, 0, sizeof(address));
	address.sin_family = AF_INET;
	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -1;
	return listen(fd, LISTEN_BACKLOG);
}

/* Parent: the file table is its own again. */
static void
close_kept(struct nono_spawn *spawn)
{
	size_t index;

	for (index = 0; index < spawn->listener_count; index++) {
		if (spawn->listener_fds[index] >= 0)
			close(spawn->listener_fds[index]);
		spawn->listener_fds[index] = -1;
	}
	if (spawn->network_fd >= 0)
		close(spawn->network_fd);
	spawn->network_fd = -1;
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

/* Child, after clone, on shared memory and with all signals blocked. */
static int
run_child(void *argument)
{
	struct child *child = argument;
	struct nono_spawn *spawn = child->spawn;
	size_t index;
	int rc;

#define STEP(name, failed)                                                                    \
	do {                                                                                  \
		spawn->step = (name);                                                         \
		if (failed)                                                                   \
			goto fail;                                                            \
	} while (0)

	/*
	 * A supervisor that was killed with -9 takes the program with it. The proxy's socket
	 * dies with the supervisor anyway, so this is tidiness and no wall: the program can
	 * switch it off for itself, and it does not cover what the program started. The
	 * parent may have died before the call: then no signal will ever come.
	 */
	STEP(NONO_STEP_DEATH_SIGNAL,
	     spawn->death_signal != 0 &&
		     prctl(PR_SET_PDEATHSIG, (unsigned long)spawn->death_signal, 0UL, 0UL, 0UL) < 0);
	if (spawn->death_signal != 0 && getppid() != child->parent) {
		errno = ESRCH;
		goto fail;
	}
	if (spawn->namespaces & CLONE_NEWUSER) {
		/* gid_map without CAP_SETGID outside: only once setgroups is given up. */
		STEP(NONO_STEP_SETGROUPS, write_file("/proc/self/setgroups", "deny") < 0);
		STEP(NONO_STEP_UID_MAP, write_file("/proc/self/uid_map", child->uid_map) < 0);
		STEP(NONO_STEP_GID_MAP, write_file("/proc/self/gid_map", child->gid_map) < 0);
	}
	if (spawn->namespaces & CLONE_NEWNET)
		STEP(NONO_STEP_LOOPBACK, loopback_up() < 0);
	if (spawn->keep_network) {
		spawn->step = NONO_STEP_NETWORK;
		spawn->network_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		if (spawn->network_fd < 0)
			goto fail;
	}
	for (index = 0; index < spawn->listener_count; index++)
		STEP(NONO_STEP_LISTEN,
		     open_listener(spawn->listen_ports[index], &spawn->listener_fds[index]) < 0);

	/* SIGTTOU is blocked, so taking the terminal from the background does not stop us. */
	if (spawn->new_process_group)
		STEP(NONO_STEP_PROCESS_GROUP, setpgid(0, 0) < 0);
	if (spawn->foreground_tty_fd >= 0)
		STEP(NONO_STEP_FOREGROUND, tcsetpgrp(spawn->foreground_tty_fd, getpgrp()) < 0);

	STEP(NONO_STEP_CAPABILITIES, drop_capabilities(child->uid) < 0);
	STEP(NONO_STEP_NO_NEW_PRIVS, prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) < 0);
	/* The parent's memory, not before uid_map: an undumpable process does not own it. */
	STEP(NONO_STEP_DUMPABLE, prctl(PR_SET_DUMPABLE, 0UL, 0UL, 0UL, 0UL) < 0);
	/* A file table of our own, of which only 0, 1 and 2 survive the exec. */
	STEP(NONO_STEP_CLOSE_RANGE,
	     syscall(__NR_close_range, 3U, ~0U, CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) < 0);
	STEP(NONO_STEP_WORKDIR, chdir(spawn->workdir) < 0);
	/* Python ignores SIGPIPE, and exec keeps what is ignored. */
	STEP(NONO_STEP_SIGNALS, reset_signal_actions() < 0);

	spawn->step = NONO_STEP_LANDLOCK;
	rc = nono_landlock_restrict_self(spawn->ruleset_fd, 0);
	if (rc < 0) {
		errno = -rc;
		goto fail;
	}
	/* Last, so that the filter need not allow what only the steps above call. */
	spawn->step = NONO_STEP_SECCOMP;
	rc = nono_seccomp_set_filter(spawn->filter, spawn->filter_count, 0);
	if (rc < 0) {
		errno = -rc;
		goto fail;
	}
	/* Before the mask: a signal that waited kills the program, which did start. */
	spawn->step = NONO_STEP_EXEC;
	sigprocmask(SIG_SETMASK, &child->signal_mask, NULL);
	execve(spawn->path, spawn->argv, spawn->envp);
fail:
	child->error = errno;
	_exit(127);
#undef STEP
}

int
nono_spawn(struct nono_spawn *spawn)
{
	struct child child;
	sigset_t all_signals;
	pid_t foreground = -1;
	size_t index;
	char *stack;
	int pid, error;

	spawn->step = NONO_STEP_PREPARE;
	for (index = 0; index < spawn->listener_count; index++)
		spawn->listener_fds[index] = -1;
	spawn->network_fd = -1;
	spawn->pidfd = -1;
	memset(&child, 0, sizeof(child));
	child.spawn = spawn;
	child.parent = getpid();
	child.uid = geteuid();
	/* One id, mapped to itself: the program sees who it is, and can become no one else. */
	snprintf(child.uid_map, sizeof(child.uid_map), "%u %u 1", geteuid(), geteuid());
	snprintf(child.gid_map, sizeof(child.gid_map), "%u %u 1", getegid(), getegid());

	stack = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return -errno;
	if (mprotect(stack + GUARD_SIZE, STACK_SIZE, PROT_READ | PROT_WRITE) < 0) {
		error = errno;
		munmap(stack, GUARD_SIZE + STACK_SIZE);
		return -error;
	}

	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &child.signal_mask);
	if (spawn->foreground_tty_fd >= 0)
		foreground = tcgetpgrp(spawn->foreground_tty_fd);
	spawn->step = NONO_STEP_CLONE;
	pid = clone(run_child, stack + GUARD_SIZE + STACK_SIZE,
		    CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD | (int)spawn->namespaces, &child);
	error = pid < 0 ? errno : child.error;
	if (pid > 0 && error == 0 && spawn->step != NONO_STEP_EXEC)
		error = EINTR; /* killed on the way */
	if (pid > 0 && error != 0)
		waitpid(pid, NULL, 0); /* no EINTR: signals are blocked */
	if (error != 0) {
		if (foreground > 0 && spawn->step > NONO_STEP_FOREGROUND)
			tcsetpgrp(spawn->foreground_tty_fd, foreground);
		close_kept(spawn);
	} else {
		spawn->pidfd = (int)syscall(__NR_pidfd_open, pid, 0U);
	}
	pthread_sigmask(SIG_SETMASK, &child.signal_mask, NULL);
	munmap(stack, GUARD_SIZE + STACK_SIZE);
	return error != 0 ? -error : pid;
}

#else

int
nono_spawn(struct nono_spawn *spawn)
{
	spawn->step = NONO_STEP_CLONE;
	spawn->network_fd = -1;
	spawn->pidfd = -1;
	return -ENOSYS;
}

#endif
