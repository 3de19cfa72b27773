/* Ways out of the machine, and ways in. Arguments: ADDRESS PORT, or a socket's path or name. */
#include "attack.h"

#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define WAIT_MS 1500
#define REQUEST "hello"

static struct sockaddr_in
address_of(char **arguments)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	inet_pton(AF_INET, arguments[0], &address.sin_addr);
	address.sin_port = htons((uint16_t)atoi(arguments[1]));
	return address;
}

/* The service answers every request: nothing has leaked before the answer is here. */
static int
answered(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	char answer[64];

	if (poll(&wait, 1, WAIT_MS) <= 0) {
		errno = ETIMEDOUT;
		return STOPPED;
	}
	return recv(fd, answer, sizeof(answer), 0) > 0 ? LEAK : STOPPED;
}

static int
exchange(int fd)
{
	if (send(fd, REQUEST, sizeof(REQUEST), MSG_NOSIGNAL) < 0)
		return STOPPED;
	return answered(fd);
}

static int
connect_stream(char **arguments, int protocol)
{
	struct sockaddr_in address = address_of(arguments);
	int fd = socket(AF_INET, SOCK_STREAM, protocol);

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return exchange(fd);
}

static int
tcp(char **arguments)
{
	return connect_stream(arguments, 0);
}

static int
mptcp(char **arguments)
{
	return connect_stream(arguments, IPPROTO_MPTCP);
}

static int
tcp_nonblocking(char **arguments)
{
	struct sockaddr_in address = address_of(arguments);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	int error = 0;
	socklen_t size = sizeof(error);

	if (fd < 0)
		return STOPPED;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno != EINPROGRESS)
			return STOPPED;
		poll(&wait, 1, WAIT_MS);
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			errno = error;
			return STOPPED;
		}
	}
	return exchange(fd);
}

static int
tcp_mapped(char **arguments)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
	char mapped[64];
	int fd = socket(AF_INET6, SOCK_STREAM, 0);

	snprintf(mapped, sizeof(mapped), "::ffff:%s", arguments[0]);
	inet_pton(AF_INET6, mapped, &address.sin6_addr);
	address.sin6_port = htons((uint16_t)atoi(arguments[1]));
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return exchange(fd);
}

static int
fastopen_sendto(char **arguments)
{
	struct sockaddr_in address = address_of(arguments);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (sendto(fd, REQUEST, sizeof(REQUEST), MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&address,
		   sizeof(address)) < 0)
		return STOPPED;
	return answered(fd);
}

static int
fastopen_sendmsg(char **arguments)
{
	struct sockaddr_in address = address_of(arguments);
	struct iovec part = { REQUEST, sizeof(REQUEST) };
	struct msghdr message = { .msg_name = &address, .msg_namelen = sizeof(address), .msg_iov = &part, .msg_iovlen = 1 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (sendmsg(fd, &message, MSG_FASTOPEN | MSG_NOSIGNAL) < 0)
		return STOPPED;
	return answered(fd);
}

static int
fastopen_sendmmsg(char **arguments)
{
	struct sockaddr_in address = address_of(arguments);
	struct iovec part = { REQUEST, sizeof(REQUEST) };
	struct mmsghdr message = { .msg_hdr = {
		.msg_name = &address, .msg_namelen = sizeof(address), .msg_iov = &part, .msg_iovlen = 1 } };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (sendmmsg(fd, &message, 1, MSG_FASTOPEN | MSG_NOSIGNAL) < 0)
		return STOPPED;
	return answered(fd);
}

/* The option form: connect() returns at once and the first send does the work. */
static int
fastopen_connect(char **arguments)
{
	struct sockaddr_in address = address_of(arguments);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return exchange(fd);
}

static int
udp(char **arguments)
{
	struct sockaddr_in address = address_of(arguments);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || sendto(fd, REQUEST, sizeof(REQUEST), 0, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return answered(fd);
}

/* Families and protocols for which having the socket is enough to begin. */
static int
open_socket(int family, int type, int protocol)
{
	return socket(family, type, protocol) >= 0 ? LEAK : STOPPED;
}

static int udplite(char **a) { (void)a; return open_socket(AF_INET, SOCK_DGRAM, 136); }
static int ping(char **a) { (void)a; return open_socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP); }
static int raw(char **a) { (void)a; return open_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static int packet(char **a) { (void)a; return open_socket(AF_PACKET, SOCK_RAW, htons(3)); }
static int vsock(char **a) { (void)a; return open_socket(AF_VSOCK, SOCK_STREAM, 0); }
static int xdp(char **a) { (void)a; return open_socket(44, SOCK_RAW, 0); }
static int netlink_diag(char **a) { (void)a; return open_socket(AF_NETLINK, SOCK_RAW, 4); }
static int netlink_route(char **a) { (void)a; return open_socket(AF_NETLINK, SOCK_RAW, 0); }

static int
wait_for_visitor(int fd)
{
	struct sockaddr_in address;
	socklen_t size = sizeof(address);
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	if (getsockname(fd, (struct sockaddr *)&address, &size) < 0)
		return STOPPED;
	printf("listening %d\n", ntohs(address.sin_port));
	fflush(stdout);
	/* Standard input ends when the visitor has tried. */
	struct pollfd both[2] = { wait, { .fd = 0, .events = POLLIN } };
	poll(both, 2, WAIT_MS);
	if (poll(&wait, 1, 0) > 0)
		return LEAK;
	errno = ETIMEDOUT;
	return STOPPED;
}

static int
listen_any(char **arguments)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)arguments;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 5) < 0)
		return STOPPED;
	return wait_for_visitor(fd);
}

static int
listen_unbound(char **arguments)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)arguments;
	if (listen(fd, 5) < 0)
		return STOPPED;
	return wait_for_visitor(fd);
}

/* The child's own loopback has to work: servers and tests that an agent starts. */
static int
own_server(char **arguments)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t size = sizeof(address);
	int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);

	(void)arguments;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(server, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(server, 1) < 0 ||
	    getsockname(server, (struct sockaddr *)&address, &size) < 0 ||
	    connect(client, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return send(client, REQUEST, sizeof(REQUEST), 0) > 0 && answered(accept(server, NULL, NULL)) ? LEAK : STOPPED;
}

static struct sockaddr_un
unix_address(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	return address;
}

static int
unix_stream(char **arguments)
{
	struct sockaddr_un address = unix_address(arguments[0]);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return exchange(fd);
}

static int
unix_datagram(char **arguments, int type)
{
	struct sockaddr_un address = unix_address(arguments[0]);
	int fd = socket(AF_UNIX, type, 0);

	if (fd < 0)
		return STOPPED;
	return sendto(fd, REQUEST, 5, 0, (struct sockaddr *)&address, sizeof(address)) > 0 ? LEAK : STOPPED;
}

static int unix_dgram(char **a) { return unix_datagram(a, SOCK_DGRAM); }
static int unix_raw(char **a) { return unix_datagram(a, SOCK_RAW); }

static int
pair_sendto(char **arguments, int type)
{
	struct sockaddr_un address = unix_address(arguments[0]);
	int pair[2];

	if (socketpair(AF_UNIX, type, 0, pair) < 0)
		return STOPPED;
	return sendto(pair[0], REQUEST, 5, 0, (struct sockaddr *)&address, sizeof(address)) > 0 ? LEAK : STOPPED;
}

static int pair_dgram(char **a) { return pair_sendto(a, SOCK_DGRAM); }
static int pair_raw(char **a) { return pair_sendto(a, SOCK_RAW); }

static int
pair_connect(char **arguments)
{
	struct sockaddr_un address = unix_address(arguments[0]);
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0 ||
	    connect(pair[0], (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return send(pair[0], REQUEST, 5, 0) > 0 ? LEAK : STOPPED;
}

/* Even without a sandbox a connected pair stays one: this is why it may be had. */
static int
pair_turned(char **arguments)
{
	struct sockaddr_un address = unix_address(arguments[0]);
	struct sockaddr nowhere = { .sa_family = AF_UNSPEC };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return STOPPED;
	connect(pair[0], &nowhere, sizeof(nowhere));
	close(pair[1]);
	if (connect(pair[0], (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	return exchange(pair[0]);
}

/* What shells and Node need, and what leads nowhere: a pair that is connected for good. */
static int
pair_stream(char **arguments)
{
	char byte;
	int pair[2];

	(void)arguments;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return STOPPED;
	return write(pair[0], "x", 1) == 1 && read(pair[1], &byte, 1) == 1 ? LEAK : STOPPED;
}

static int
connect_abstract(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(address.sun_path + 1, name, sizeof(address.sun_path) - 2);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address,
			      (socklen_t)(sizeof(sa_family_t) + 1 + strlen(name))) < 0)
		return -1;
	return fd;
}

static int
abstract(char **arguments)
{
	int fd = connect_abstract(arguments[0]);

	return fd >= 0 ? exchange(fd) : STOPPED;
}

/* An accomplice outside hands over an open file. */
static int
abstract_fd(char **arguments)
{
	char byte, secret[64], control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd = connect_abstract(arguments[0]);

	if (fd < 0 || recvmsg(fd, &message, 0) <= 0 || !CMSG_FIRSTHDR(&message))
		return STOPPED;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return read(fd, secret, sizeof(secret)) > 0 ? LEAK : STOPPED;
}

/* io_uring makes the socket in the kernel, past every filter on socket(2). */
static int
uring_socket(char **arguments)
{
	struct io_uring_params params;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *done;
	char *submissions, *completions;
	int ring;

	(void)arguments;
	memset(&params, 0, sizeof(params));
	ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0)
		return STOPPED;
	submissions = mmap(NULL, params.sq_off.array + params.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE,
			   MAP_SHARED, ring, IORING_OFF_SQ_RING);
	completions = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(*done), PROT_READ | PROT_WRITE,
			   MAP_SHARED, ring, IORING_OFF_CQ_RING);
	entries = mmap(NULL, params.sq_entries * sizeof(*entries), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		       IORING_OFF_SQES);
	memset(&entries[0], 0, sizeof(entries[0]));
	entries[0].opcode = 45; /* IORING_OP_SOCKET, Linux 5.19 */
	entries[0].fd = AF_INET;
	entries[0].off = SOCK_DGRAM;
	*(unsigned *)(submissions + params.sq_off.array) = 0;
	*(unsigned *)(submissions + params.sq_off.tail) += 1;
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return STOPPED;
	done = (struct io_uring_cqe *)(completions + params.cq_off.cqes);
	if (done[0].res < 0) {
		errno = -done[0].res;
		return STOPPED;
	}
	return LEAK;
}

#ifdef __x86_64__
/* The 32-bit entry has its own numbers: socket is 359 there. */
static int
int80_socket(char **arguments)
{
	long result;

	(void)arguments;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(359L), "b"((long)AF_INET), "c"((long)SOCK_DGRAM), "d"(0L)
			 : "memory", "r8", "r9", "r10", "r11");
	if (result >= 0)
		return LEAK;
	errno = (int)-result;
	return STOPPED;
}

static int
x32_socket(char **arguments)
{
	(void)arguments;
	return syscall(0x40000000L | SYS_socket, AF_INET, SOCK_DGRAM, 0) >= 0 ? LEAK : STOPPED;
}
#endif

const struct attack network_attacks[] = {
	{ "tcp", tcp },
	{ "tcp_nonblocking", tcp_nonblocking },
	{ "tcp_mapped", tcp_mapped },
	{ "mptcp", mptcp },
	{ "fastopen_sendto", fastopen_sendto },
	{ "fastopen_sendmsg", fastopen_sendmsg },
	{ "fastopen_sendmmsg", fastopen_sendmmsg },
	{ "fastopen_connect", fastopen_connect },
	{ "udp", udp },
	{ "udplite", udplite },
	{ "ping", ping },
	{ "raw", raw },
	{ "packet", packet },
	{ "vsock", vsock },
	{ "xdp", xdp },
	{ "netlink_diag", netlink_diag },
	{ "netlink_route", netlink_route },
	{ "listen_any", listen_any },
	{ "listen_unbound", listen_unbound },
	{ "own_server", own_server },
	{ "unix_stream", unix_stream },
	{ "unix_dgram", unix_dgram },
	{ "unix_raw", unix_raw },
	{ "pair_dgram", pair_dgram },
	{ "pair_raw", pair_raw },
	{ "pair_connect", pair_connect },
	{ "pair_turned", pair_turned },
	{ "pair_stream", pair_stream },
	{ "abstract", abstract },
	{ "abstract_fd", abstract_fd },
	{ "uring_socket", uring_socket },
#ifdef __x86_64__
	{ "int80_socket", int80_socket },
	{ "x32_socket", x32_socket },
#endif
	{ NULL, NULL },
};
