/*
 * notify.c: system calls that wait for the supervisor, see seccomp_unotify(2).
 *
 * This is the only loop of the shim, and it knows more than the rest: a connect that waits
 * costs the child what the supervisor takes to answer, and Python takes the interpreter's lock
 * away from the proxy, or waits for it. So the plain case, a TCP connect, is carried out here,
 * by tables that Python made; everything else is handed up (NONO_NOTIFY_JUDGE), with the
 * socket and the address already safe in our hands.
 *
 * What makes it safe: nothing is judged that the child can still change. The address is copied
 * once; the socket is our own duplicate, on which its family is asked and the call is performed;
 * and after both were fetched the kernel confirms that the thread that we took them from still
 * waits in that very call (its number may have been given to another one meanwhile).
 *
 * A connect that is let through to the host's network is made to one constant address, from a
 * socket that is bound to 127.0.0.1 first: the kernel routes nothing from there to a device,
 * whatever options the child gave its socket, and the port of the source tells the proxy whom it
 * talks to (`admitted`).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "linux_compat.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif
/* linux/seccomp.h of 6.6 */
#define IOCTL_SET_FLAGS SECCOMP_IOW(4, __u64)
#define FD_SYNC_WAKE_UP 1UL
/* linux/pidfd.h of 6.9: a thread of its own and not its group. */
#define THREAD_PIDFD O_EXCL

#define ANSWERED 0
#define NOBODY_IS_LEFT (-1)

static int
thread_group_of(int tid)
{
	char path[32], text[1024];
	const char *line;
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size <= 0)
		return -1;
	text[size] = '\0';
	line = strstr(text, "\nTgid:"); /* the name before it has its line ends escaped */
	return line == NULL ? -1 : atoi(line + sizeof("\nTgid:") - 1);
}

static int
open_pidfd(int tid)
{
	int fd = (int)syscall(__NR_pidfd_open, tid, THREAD_PIDFD);

	if (fd < 0 && errno == EINVAL) /* older: the group, whose leader shares its files but for oddities */
		fd = (int)syscall(__NR_pidfd_open, thread_group_of(tid), 0U);
	return fd;
}

/* 0 or an errno. A partial read is the end of what is mapped. */
static int
read_address(const struct nono_call *call, void *address, size_t size)
{
	struct iovec ours = { address, size };
	struct iovec theirs = { (void *)(uintptr_t)call->arguments[1], size };
	ssize_t got = process_vm_readv(call->tid, &ours, 1, &theirs, 1, 0);

	if (got < 0)
		return errno;
	return (size_t)got == size ? 0 : EFAULT;
}

static int
still_waits(int notify_fd, uint64_t id)
{
	__u64 wanted = id;

	return ioctl(notify_fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &wanted) == 0;
}

/* Closes the duplicate. ENOENT (the child was killed meanwhile) is nobody's concern. */
static int
answer(int notify_fd, struct nono_call *call, int error, uint32_t flags)
{
	struct seccomp_notif_resp response = { .id = call->id, .error = -error, .flags = flags };

	if (call->fd >= 0)
		close(call->fd);
	call->fd = -1;
	return ioctl(notify_fd, SECCOMP_IOCTL_NOTIF_SEND, &response) < 0 && errno != ENOENT ? -errno : ANSWERED;
}

/*
 * 0 or an errno. A blocking socket blocks us. We are interrupted to end (closing), because the
 * child was killed, or by mistake: connect(2) goes on waiting when it is called again.
 */
static int
connect_for(struct nono_mediation *mediation, const struct nono_call *call, const void *address, socklen_t size)
{
	for (;;) {
		if (connect(call->fd, address, size) == 0)
			return 0;
		if (errno != EINTR || __atomic_load_n(&mediation->closing, __ATOMIC_ACQUIRE) ||
		    !still_waits(mediation->notify_fd, call->id))
			return errno;
	}
}

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_storage storage;
};

/* Loopback, as 127.0.0.1 or, for a socket of the other family, as ::ffff:127.0.0.1. */
static socklen_t
loopback(int domain, uint16_t port, union address *address)
{
	memset(address, 0, sizeof(*address));
	if (domain == AF_INET) {
		address->in.sin_family = AF_INET;
		address->in.sin_port = htons(port);
		address->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(address->in);
	}
	address->in6.sin6_family = AF_INET6;
	address->in6.sin6_port = htons(port);
	address->in6.sin6_addr.s6_addr[10] = address->in6.sin6_addr.s6_addr[11] = 0xff;
	address->in6.sin6_addr.s6_addr[12] = 127;
	address->in6.sin6_addr.s6_addr[15] = 1;
	return sizeof(address->in6);
}

static uint16_t
port_of(const union address *address)
{
	return ntohs(address->any.sa_family == AF_INET ? address->in.sin_port : address->in6.sin6_port);
}

static int
is_loopback(const union address *address)
{
	union address wanted;

	if (address->any.sa_family == AF_INET)
		return address->in.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
	loopback(AF_INET6, 0, &wanted);
	return memcmp(&address->in6.sin6_addr, &wanted.in6.sin6_addr, sizeof(struct in6_addr)) == 0;
}

/* 0 or an errno. A socket that somebody bound elsewhere is refused. */
static int
bind_to_loopback(int fd, int domain, uint16_t *port)
{
	union address bound;
	int attempt, off = 0;

	for (attempt = 0; attempt < 2; attempt++) {
		socklen_t size = sizeof(bound);

		memset(&bound, 0, sizeof(bound));
		if (getsockname(fd, &bound.any, &size) < 0)
			return errno;
		*port = port_of(&bound);
		if (*port != 0)
			return bound.any.sa_family == domain && is_loopback(&bound) ? 0 : EACCES;
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &off, sizeof(off));
		size = loopback(domain, 0, &bound);
		if (bind(fd, &bound.any, size) < 0)
			return errno == EADDRINUSE ? EADDRNOTAVAIL : errno;
	}
	return EADDRNOTAVAIL;
}

static uint32_t
this_second(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint32_t)now.tv_sec + 1;
}

/* To the host's own loopback: 0 or an errno. */
static int
connect_by_table(struct nono_mediation *mediation, const struct nono_call *call, int *refused)
{
	socklen_t least = call->domain == AF_INET ? sizeof(struct sockaddr_in) : 24; /* SIN6_LEN_RFC2133 */
	union address asked, real, peer;
	socklen_t peer_size = sizeof(peer);
	uint32_t *admitted = NULL;
	uint16_t port;
	size_t index;
	int error;

	memcpy(&asked, call->address, sizeof(asked)); /* zero beyond its size */
	if (call->address_size >= sizeof(asked.any.sa_family) && asked.any.sa_family == AF_UNSPEC)
		return connect_for(mediation, call, &asked, (socklen_t)call->address_size); /* disconnects */
	if (call->address_size < least)
		return EINVAL;
	if (asked.any.sa_family != call->domain)
		return EAFNOSUPPORT;
	for (index = 0; index < mediation->port_count; index++)
		if (mediation->asked_ports[index] == port_of(&asked))
			break;
	if (index == mediation->port_count || !is_loopback(&asked)) {
		*refused = 1;
		return ECONNREFUSED;
	}
	error = bind_to_loopback(call->fd, call->domain, &port);
	if (error != 0)
		return error;
	/* Not for a socket that is connected: the proxy has seen it already. */
	if (mediation->real_ports[index] == mediation->guarded_port &&
	    getpeername(call->fd, &peer.any, &peer_size) < 0) {
		admitted = &mediation->admitted[port];
		__atomic_store_n(admitted, this_second(), __ATOMIC_RELEASE);
	}
	error = connect_for(mediation, call, &real, loopback(call->domain, mediation->real_ports[index], &real));
	/* EISCONN: it was in progress and is connected by now, or it listens. */
	if (admitted != NULL && error != 0 && error != EINPROGRESS && error != EALREADY &&
	    (error != EISCONN || getpeername(call->fd, &peer.any, &peer_size) < 0))
		__atomic_store_n(admitted, 0, __ATOMIC_RELEASE);
	return error;
}

/* ANSWERED or NONO_NOTIFY_JUDGE, with the verdict so far in call->error. */
static int
handle(struct nono_mediation *mediation, struct nono_call *call)
{
	int pidfd = open_pidfd(call->tid);
	socklen_t size = sizeof(int);
	int refused = 0;

	if (pidfd < 0)
		call->error = errno;
	else if (call->kind != NONO_CALL_LISTEN) {
		int wanted = (int)call->arguments[2];

		if (wanted < 0 || (size_t)wanted > sizeof(call->address)) {
			close(pidfd); /* the kernel's own answer; nothing has been looked at */
			return answer(mediation->notify_fd, call, EINVAL, 0);
		}
		call->address_size = (size_t)wanted;
		call->error = wanted == 0 ? 0 : read_address(call, call->address, call->address_size);
	}
	if (call->error == 0) {
		call->fd = (int)syscall(__NR_pidfd_getfd, pidfd, (int)call->arguments[0], 0U);
		if (call->fd < 0)
			call->error = errno;
	}
	if (pidfd >= 0)
		close(pidfd);
	/* From here on the kernel vouches for the thread that this was taken from. */
	if (!still_waits(mediation->notify_fd, call->id))
		return answer(mediation->notify_fd, call, EINTR, 0);
	if (call->error == EFAULT || call->error == EBADF)
		return answer(mediation->notify_fd, call, call->error, 0);
	if (call->error != 0)
		return NONO_NOTIFY_JUDGE; /* closed to us: undumpable, or no descriptor is left here */

	if (getsockopt(call->fd, SOL_SOCKET, SO_DOMAIN, &call->domain, &size) < 0 ||
	    getsockopt(call->fd, SOL_SOCKET, SO_TYPE, &call->type, &size) < 0 ||
	    getsockopt(call->fd, SOL_SOCKET, SO_PROTOCOL, &call->protocol, &size) < 0)
		return answer(mediation->notify_fd, call, errno, 0);
	if (call->kind != NONO_CALL_CONNECT || (call->domain != AF_INET && call->domain != AF_INET6))
		return NONO_NOTIFY_JUDGE;
	if (mediation->as_it_is) {
		call->error = connect_for(mediation, call, call->address, (socklen_t)call->address_size);
		refused = mediation->recording != NULL && (call->error == ECONNREFUSED || call->error == ENETUNREACH);
	} else if (call->type != SOCK_STREAM || call->protocol != IPPROTO_TCP)
		call->error = EPERM;
	else
		call->error = connect_by_table(mediation, call, &refused);
	if (refused && __atomic_load_n(&mediation->reports_left, __ATOMIC_ACQUIRE) > 0)
		return NONO_NOTIFY_JUDGE;
	return answer(mediation->notify_fd, call, call->error, 0);
}

static uint32_t
kind_of(int nr)
{
	switch (nr) {
	case __NR_connect:
		return NONO_CALL_CONNECT;
	case __NR_bind:
		return NONO_CALL_BIND;
	case __NR_listen:
		return NONO_CALL_LISTEN;
	default:
		return NONO_CALL_OTHER;
	}
}

int
nono_notify_check(void)
{
	struct seccomp_notif_sizes sizes;

	memset(&sizes, 0, sizeof(sizes));
	if (syscall(__NR_seccomp, SECCOMP_GET_NOTIF_SIZES, 0U, &sizes) < 0)
		return -errno;
	if (sizes.seccomp_notif != sizeof(struct seccomp_notif) ||
	    sizes.seccomp_notif_resp != sizeof(struct seccomp_notif_resp) ||
	    sizes.seccomp_data != sizeof(struct seccomp_data))
		return -E2BIG; /* a kernel that would write more than we have room for */
	if (syscall(__NR_pidfd_getfd, -1, -1, 0U) < 0 && errno != EBADF)
		return -errno;
	if (process_vm_readv(getpid(), NULL, 0, NULL, 0, 0) < 0)
		return -errno;
	return 0;
}

int
nono_notify_sync_wake_up(int notify_fd)
{
	return ioctl(notify_fd, IOCTL_SET_FLAGS, FD_SYNC_WAKE_UP) < 0 ? -errno : 0;
}

/* 0 with a call in *call, an errno, or NOBODY_IS_LEFT. */
static int
receive(struct nono_mediation *mediation, struct nono_call *call)
{
	struct seccomp_notif notification;
	struct pollfd state = { .fd = mediation->notify_fd, .events = POLLIN };
	int error, waiting;

	memset(&notification, 0, sizeof(notification));
	__atomic_add_fetch(&mediation->waiting, 1, __ATOMIC_SEQ_CST);
	error = ioctl(mediation->notify_fd, SECCOMP_IOCTL_NOTIF_RECV, &notification) < 0 ? errno : 0;
	waiting = __atomic_sub_fetch(&mediation->waiting, 1, __ATOMIC_SEQ_CST);
	if (error == ENOENT && poll(&state, 1, 0) == 1 && (state.revents & POLLHUP))
		return NOBODY_IS_LEFT;
	if (error != 0)
		return error;
	if (waiting == 0 && __atomic_exchange_n(&mediation->crowded, 1, __ATOMIC_SEQ_CST) == 0) {
		uint64_t one = 1;
		ssize_t written = write(mediation->crowded_fd, &one, sizeof(one));

		(void)written; /* an eventfd takes it */
	}
	memset(call, 0, sizeof(*call));
	call->fd = -1;
	call->id = notification.id;
	call->tid = (int)notification.pid;
	call->kind = kind_of(notification.data.nr);
	call->nr = (uint32_t)notification.data.nr;
	memcpy(call->arguments, notification.data.args, sizeof(call->arguments));
	return 0;
}

int
nono_notify_serve(struct nono_mediation *mediation, struct nono_call *call)
{
	while (!__atomic_load_n(&mediation->closing, __ATOMIC_ACQUIRE)) {
		int error = receive(mediation, call);

		if (error == NOBODY_IS_LEFT)
			break;
		if (error == ENOENT || error == EINTR) /* he who called was killed before we took his call */
			continue;
		if (error != 0)
			return -error;
		if (call->kind == NONO_CALL_OTHER && mediation->recording != NULL) {
			if (nono_record(mediation->recording, mediation->notify_fd, call) == NONO_RECORD_FULL)
				return NONO_NOTIFY_JUDGE;
			answer(mediation->notify_fd, call, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
		} else if (call->kind == NONO_CALL_OTHER)
			answer(mediation->notify_fd, call, EPERM, 0);
		else if (handle(mediation, call) == NONO_NOTIFY_JUDGE)
			return NONO_NOTIFY_JUDGE;
	}
	return NONO_NOTIFY_ENDED;
}

int
nono_notify_answer(int notify_fd, struct nono_call *call, int error, uint32_t flags)
{
	return answer(notify_fd, call, error, flags);
}

int
nono_notify_still_waits(int notify_fd, uint64_t id)
{
	return still_waits(notify_fd, id);
}

int
nono_notify_connect(struct nono_mediation *mediation, const struct nono_call *call, const void *address,
		    size_t size)
{
	return -connect_for(mediation, call, address, (socklen_t)size);
}

static void
ignore(int number)
{
	(void)number; /* a handler, because a signal that is ignored interrupts nothing */
}

int
nono_notify_prepare_thread(void)
{
	struct sigaction action;
	sigset_t mask;

	memset(&action, 0, sizeof(action)); /* no SA_RESTART: it is to interrupt */
	action.sa_handler = ignore;
	if (sigaction(SIGRTMAX - 1, &action, NULL) < 0)
		return -errno;
	sigfillset(&mask);
	sigdelset(&mask, SIGRTMAX - 1);
	return -pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

int
nono_notify_interrupt(int tid)
{
	return syscall(__NR_tgkill, getpid(), tid, SIGRTMAX - 1) < 0 ? -errno : 0;
}

int
nono_bind(int fd, const void *address, size_t size)
{
	return bind(fd, address, (socklen_t)size) < 0 ? -errno : 0;
}

int
nono_listen(int fd, int backlog)
{
	return listen(fd, backlog) < 0 ? -errno : 0;
}

int
nono_getsockname(int fd, void *address, size_t size)
{
	socklen_t length = (socklen_t)size;

	return getsockname(fd, address, &length) < 0 ? -errno : (int)length;
}

int
nono_openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
	const struct nono_open_how how = { flags, 0, resolve };
	long rc = syscall(__NR_openat2, directory_fd, path, &how, sizeof(how));

	return rc < 0 ? -errno : (int)rc;
}

#else

int
nono_notify_check(void)
{
	return -ENOSYS;
}

int
nono_notify_sync_wake_up(int notify_fd)
{
	(void)notify_fd;
	return -ENOSYS;
}

int
nono_notify_serve(struct nono_mediation *mediation, struct nono_call *call)
{
	(void)mediation, (void)call;
	return -ENOSYS;
}

int
nono_notify_answer(int notify_fd, struct nono_call *call, int error, uint32_t flags)
{
	(void)notify_fd, (void)call, (void)error, (void)flags;
	return -ENOSYS;
}

int
nono_notify_still_waits(int notify_fd, uint64_t id)
{
	(void)notify_fd, (void)id;
	return -ENOSYS;
}

int
nono_notify_connect(struct nono_mediation *mediation, const struct nono_call *call, const void *address,
		    size_t size)
{
	(void)mediation, (void)call, (void)address, (void)size;
	return -ENOSYS;
}

int
nono_notify_prepare_thread(void)
{
	return -ENOSYS;
}

int
nono_notify_interrupt(int tid)
{
	(void)tid;
	return -ENOSYS;
}

int
nono_bind(int fd, const void *address, size_t size)
{
	(void)fd, (void)address, (void)size;
	return -ENOSYS;
}

int
nono_listen(int fd, int backlog)
{
	(void)fd, (void)backlog;
	return -ENOSYS;
}

int
nono_getsockname(int fd, void *address, size_t size)
{
	(void)fd, (void)address, (void)size;
	return -ENOSYS;
}

int
nono_openat2(int directory_fd, const char *path, uint64_t flags, uint64_t resolve)
{
	(void)directory_fd, (void)path, (void)flags, (void)resolve;
	return -ENOSYS;
}

#endif
