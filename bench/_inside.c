/*
 * What bench/walls.py runs inside a wall and outside of it, and which times itself:
 *
 *     inside getpid N                    one getpid(2), in the quickest of N loops
 *     inside connect N PORT              one connect(2) to 127.0.0.1:PORT, p50 of N
 *     inside connect N PORT STUCK_PORT   the same, and again while another process waits in a
 *                                        connect to STUCK_PORT, whose backlog is full
 *
 * Prints nanoseconds. The loops are measured in CPU time, which nobody else's work is part of.
 * Connects begin when nono has long been up, and a pause is between them, so that none pays for what
 * the last one left.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 10000
#define LOOP 50000
#define PAUSE_US 1000
#define START_US 300000 /* what the supervisor still loads while the agent starts, and more */
#define STUCK_MS 100 /* a connect that has taken so long waits for room in the backlog */

static double
now(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

static double
getpids(int count)
{
	double quickest = 0, start, took;

	for (int loop = 0; loop < count; loop++) {
		start = now(CLOCK_PROCESS_CPUTIME_ID);
		for (int index = 0; index < LOOP; index++)
			syscall(SYS_getpid);
		took = (now(CLOCK_PROCESS_CPUTIME_ID) - start) / LOOP;
		quickest = loop && quickest < took ? quickest : took;
	}
	return quickest;
}

/* How long connect(2) took. The connection is reset, so that no port waits for its end. */
static double
connect_once(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((in_port_t)port) };
	struct linger at_once = { 1, 0 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	double start, took;

	if (fd < 0)
		err(1, "socket");
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	start = now(CLOCK_MONOTONIC);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		err(1, "connect to port %d", port);
	took = now(CLOCK_MONOTONIC) - start;
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(fd);
	return took;
}

static int
by_size(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

static double
connects(int port, int count)
{
	static double took[MOST];

	for (int index = 0; index < count; index++) {
		took[index] = connect_once(port);
		usleep(PAUSE_US);
	}
	qsort(took, (size_t)count, sizeof(*took), by_size);
	return took[count / 2];
}

/* The other one is a process of its own. It is an error when it does not wait, now or at the end. */
static double
connects_beside_one_that_hangs(int port, int count, int stuck_port)
{
	struct pollfd came_back = { .events = POLLIN };
	int ends[2];
	double median;
	pid_t stuck;

	if (pipe(ends) < 0 || (stuck = fork()) < 0)
		err(1, "fork");
	if (stuck == 0) {
		connect_once(stuck_port);
		_exit(0);
	}
	close(ends[1]); /* the other process's ends with it */
	came_back.fd = ends[0];
	if (poll(&came_back, 1, STUCK_MS) != 0)
		errx(1, "the backlog of port %d is not full", stuck_port);
	median = connects(port, count);
	if (poll(&came_back, 1, 0) != 0)
		errx(1, "the connect to port %d did not wait to the end", stuck_port);
	kill(stuck, SIGKILL);
	waitpid(stuck, NULL, 0);
	return median;
}

int
main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 0;

	if (count < 1 || count > MOST)
		errx(2, "usage: see the source");
	if (argc == 3 && strcmp(argv[1], "getpid") == 0) {
		printf("%.1f\n", getpids(count));
	} else if (argc > 3 && strcmp(argv[1], "connect") == 0) {
		usleep(START_US);
		printf("%.0f\n", connects(atoi(argv[3]), count));
		if (argc > 4)
			printf("%.0f\n", connects_beside_one_that_hangs(atoi(argv[3]), count, atoi(argv[4])));
	} else {
		errx(2, "usage: see the source");
	}
	return 0;
}
