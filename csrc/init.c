/*
 * init.c: the first process of the new namespaces. It sets them up, starts the agent when it
 * is told to, and then serves: it reaps, passes signals on, and ends everything at the end.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#include <errno.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "bare.h"

#define LISTEN_BACKLOG 4096 /* net.core.somaxconn since Linux 5.4 */
#define LAST_SIGNAL 64      /* _NSIG of x86-64 and aarch64 */
#define KERNEL_SIGSET_SIZE 8

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

int
nono_settle(uint64_t namespaces, const struct ids *ids, int *step)
{
	if (namespaces & CLONE_NEWUSER) {
		*step = NONO_STEP_SETGROUPS;
		/* gid_map without CAP_SETGID outside: only once setgroups is given up. */
		if (write_file("/proc/self/setgroups", "deny") < 0)
			return -1;
		*step = NONO_STEP_UID_MAP;
		if (write_file("/proc/self/uid_map", ids->uid_map) < 0)
			return -1;
		*step = NONO_STEP_GID_MAP;
		if (write_file("/proc/self/gid_map", ids->gid_map) < 0)
			return -1;
	}
	*step = NONO_STEP_LOOPBACK;
	return namespaces & CLONE_NEWNET ? loopback_up() : 0;
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

/* Both sides of a new terminal that looks like the user's; ours becomes the session's own. */
static int
open_terminal(struct init *init, struct nono_prepare *prepare)
{
	struct termios attributes;
	struct winsize size;
	int unlocked = 0, fd;

	prepare->terminal_fd =
		open(prepare->terminal_multiplexer, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (prepare->terminal_fd < 0 || ioctl(prepare->terminal_fd, TIOCSPTLCK, &unlocked) < 0)
		return -1;
	init->fds[TERMINAL] = fd = ioctl(prepare->terminal_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (tcgetattr(prepare->terminal_like_fd, &attributes) == 0)
		tcsetattr(fd, TCSANOW, &attributes);
	if (ioctl(prepare->terminal_like_fd, TIOCGWINSZ, &size) == 0)
		ioctl(fd, TIOCSWINSZ, &size);
	return ioctl(fd, TIOCSCTTY, 0);
}

int
nono_reset_signal_actions(void)
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

/* Init, at the supervisor's word; the supervisor sleeps until it is told. Returns errno. */
static int
start_agent(struct init *init)
{
	struct nono_start *args = init->start;

	init->error = 0;
	args->step = NONO_STEP_AGENT;
	init->agent = clone(nono_run_agent, init->agent_stack,
			    CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, init);
	if (init->agent < 0)
		return errno;
	if (init->error == 0 && args->step != NONO_STEP_EXEC)
		init->error = EINTR; /* killed on the way */
	if (init->error != 0) {
		init->agent = -1; /* of which nothing is to be told */
		return init->error;
	}
	if (args->probe != NULL)
		return 0; /* the supervisor runs already, and is about to end us */
	/* From here on nothing is needed but what serve() waits for, and the terminal. */
	prctl(PR_SET_NAME, "nono-init", 0UL, 0UL, 0UL);
	if (nono_drop_capabilities(init->uid) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) < 0 ||
	    unshare(CLONE_FILES) < 0) {
		args->step = NONO_STEP_CAPABILITIES;
		return errno;
	}
	if (!init->is_first)
		prctl(PR_SET_PDEATHSIG, 0UL, 0UL, 0UL, 0UL); /* see end_all() */
	for (unsigned int fd = 0, kept = 0; kept <= OWN_FDS; kept++) {
		unsigned int least = ~0U;

		for (int index = 0; index < OWN_FDS; index++) {
			unsigned int own = (unsigned int)init->fds[index]; /* none: the largest */

			if (own >= fd && own < least)
				least = own;
		}
		if (least > fd)
			syscall(__NR_close_range, fd, least == ~0U ? ~0U : least - 1, 0U);
		if (least == ~0U)
			break;
		fd = least + 1;
	}
	return 0;
}

static void
tell(const struct init *init, int kind, int value)
{
	struct nono_message message = { kind, value };

	bare(__NR_write, init->fds[CONTROL], (long)&message, sizeof(message), 0, 0);
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
		if (init->fds[TERMINAL] >= 0)
			bare(__NR_close, init->fds[TERMINAL], 0, 0, 0, 0);
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
	} else if (command->kind == NONO_COMMAND_FOREGROUND && init->fds[TERMINAL] >= 0) {
		group = command->value ? init->agent : (int)bare(__NR_getpgid, 0, 0, 0, 0, 0);
		bare(__NR_ioctl, init->fds[TERMINAL], TIOCSPGRP, (long)&group, 0, 0);
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
	struct pollfd waited[3] = { { init->fds[CONTROL], POLLIN, 0 },
				    { init->fds[CHILDREN], POLLIN, 0 },
				    { init->fds[SUPERVISOR], POLLIN, 0 } };
	struct signalfd_siginfo signals[8];
	struct nono_message command;
	long size;

	for (;;) {
		bare(__NR_ppoll, (long)waited, 3, 0, 0, 0);
		if (waited[2].revents)
			end_all(init);
		if (waited[1].revents) {
			bare(__NR_read, init->fds[CHILDREN], (long)signals, sizeof(signals), 0, 0);
			reap(init);
		}
		if (!waited[0].revents)
			continue;
		size = bare(__NR_read, init->fds[CONTROL], (long)&command, sizeof(command), 0, 0);
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

int
nono_run_init(void *argument)
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
	STEP(NONO_STEP_SIGNALS, nono_reset_signal_actions() < 0);
	if (nono_settle(args->namespaces, &init->ids, &args->step) < 0)
		goto fail;
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
		STEP(NONO_STEP_MOUNT, nono_set_up_mounts(args) < 0);
	STEP(NONO_STEP_SESSION, setsid() < 0);
	if (args->terminal_like_fd >= 0)
		STEP(NONO_STEP_TERMINAL, open_terminal(init, args) < 0);
	if (!init->is_first)
		STEP(NONO_STEP_SESSION, prctl(PR_SET_CHILD_SUBREAPER, 1UL, 0UL, 0UL, 0UL) < 0);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	init->fds[CHILDREN] = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	STEP(NONO_STEP_SESSION, init->fds[CHILDREN] < 0);
	args->step = NONO_STEP_PREPARED;
	tell(init, NONO_EVENT_PREPARED, 0);
	serve(init);
fail:
	init->error = errno;
	_exit(127);
}

#endif
