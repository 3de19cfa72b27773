/*
 * network.c: a socket in the child's network, for a supervisor that stays in its own.
 *
 * A socket belongs for ever to the network namespace of whoever made it, and to enter the
 * child's one needs rights that only its user namespace gives; what enters that one never
 * comes back, and must have a single thread. So somebody else goes: a process that shares our
 * memory and file table (clone with CLONE_VM | CLONE_VFORK | CLONE_FILES, as spawn.c does),
 * enters both namespaces, makes the socket, which is in our table at once, and is gone. We
 * wait meanwhile. No page is copied, so no second copy of a secret exists for a moment.
 *
 * The visitor is not within the child's reach: the memory is undumpable, and was so before
 * the child ran, and the visitor has every capability in the child's user namespace, of which
 * the child has none (ptrace(2)); the child's Landlock domain and seccomp filter say no as well.
 *
 * Rejected: a process that stays in the child's network for the whole run and hands sockets
 * out (one more to keep, within the child's sight), and sockets made at the spawn (how many?).
 *
 * It sends no signal when it ends (exit signal 0), so that who waits for his children never
 * hears of it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE (16 * 1024) /* four system calls need less than 1 KiB */

struct visit {
	int user_fd;
	int network_fd;
	int family;
	int socket_fd;
	int error;
	const char *call;
};

/* Visitor, on shared memory and with all signals blocked. */
static int
make_socket(void *argument)
{
	struct visit *visit = argument;

	visit->call = "setns";
	if (setns(visit->user_fd, CLONE_NEWUSER) == 0 && setns(visit->network_fd, CLONE_NEWNET) == 0) {
		visit->call = "socket";
		visit->socket_fd = socket(visit->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	}
	visit->error = visit->socket_fd < 0 ? errno : 0;
	_exit(0);
}

int
nono_socket_in_network(int network_fd, int family, const char **call)
{
	char stack[STACK_SIZE] __attribute__((aligned(16))); /* ours: we wait until it is free */
	struct visit visit = { .network_fd = network_fd, .family = family, .socket_fd = -1, .error = EINTR };
	sigset_t all_signals, signal_mask;
	int pid;

	*call = "ioctl(NS_GET_USERNS)";
	visit.user_fd = ioctl(network_fd, NS_GET_USERNS);
	if (visit.user_fd < 0)
		return -errno;
	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &signal_mask);
	visit.call = "clone";
	pid = clone(make_socket, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_FILES, &visit);
	if (pid < 0)
		visit.error = errno;
	else
		waitpid(pid, NULL, __WALL); /* no EINTR: signals are blocked */
	pthread_sigmask(SIG_SETMASK, &signal_mask, NULL);
	close(visit.user_fd);
	*call = visit.call;
	if (visit.error != 0 && visit.socket_fd >= 0)
		close(visit.socket_fd); /* killed between the two stores */
	return visit.error != 0 ? -visit.error : visit.socket_fd;
}

int
nono_setns_allowed(void)
{
	return setns(-1, CLONE_NEWNET) == 0 || errno == EBADF ? 0 : -errno;
}

#else

int
nono_socket_in_network(int network_fd, int family, const char **call)
{
	(void)network_fd, (void)family, (void)call;
	return -ENOSYS;
}

int
nono_setns_allowed(void)
{
	return -ENOSYS;
}

#endif
