/*
 * probe.c: the agent that executes nothing. Where it would call execve(2), behind the whole wall,
 * it asks the kernel what it was told to ask, and ends. No program of its own is there whose
 * grants would change what is asked about.
 *
 * The supervisor runs meanwhile, because the proxy and the mediator have to answer: so, as in the
 * init's serve(), bare system calls only, and nothing is touched but the own stack and the questions.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include "bare.h"

#define CAREFULLY (O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
#define NAMES_SIZE 1024

static int
error_of(long result)
{
	return result < 0 ? (int)-result : 0;
}

/* An existing file is never truncated, and nothing is waited for. */
static int
open_file(long directory, const struct nono_question *question, int flags)
{
	long fd = bare(__NR_openat, directory, (long)question->path, question->flags | flags | CAREFULLY, 0, 0);

	if (fd >= 0)
		bare(__NR_close, fd, 0, 0, 0, 0);
	return error_of(fd);
}

static int
list_directory(const struct nono_question *question)
{
	char names[NAMES_SIZE];
	long size, fd = bare(__NR_openat, AT_FDCWD, (long)question->path, O_RDONLY | O_DIRECTORY | CAREFULLY, 0, 0);

	if (fd < 0)
		return error_of(fd);
	size = bare(__NR_getdents64, fd, (long)names, sizeof(names), 0, 0);
	bare(__NR_close, fd, 0, 0, 0, 0);
	return size == -EINVAL ? 0 : error_of(size); /* EINVAL: a name longer than the buffer */
}

/*
 * Something new, never in the place of what is there; opened as is asked; and removed again at once.
 * All in one directory, held open: whoever can write above it may swap it for another, and what is
 * removed must not be what lies there by the same name.
 */
static int
create_file(struct nono_question *question)
{
	int error;
	long fd, directory = bare(__NR_openat, AT_FDCWD, (long)question->directory,
				  O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);

	if (directory < 0)
		return error_of(directory);
	fd = bare(__NR_openat, directory, (long)question->path,
		  O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | CAREFULLY, 0600, 0);
	error = error_of(fd);
	if (fd >= 0) {
		bare(__NR_close, fd, 0, 0, 0, 0);
		error = open_file(directory, question, O_NOFOLLOW);
		question->left_behind = bare(__NR_unlinkat, directory, (long)question->path, 0, 0, 0) < 0;
	}
	bare(__NR_close, directory, 0, 0, 0, 0);
	return error;
}

/* 1 when `fd` is ready, 0 when it is not until the deadline. */
static int
wait_for(int fd, short events, const struct timespec *deadline)
{
	struct pollfd waited = { fd, events, 0 };
	struct timespec now, left;

	bare(__NR_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0, 0);
	left.tv_sec = deadline->tv_sec - now.tv_sec;
	left.tv_nsec = deadline->tv_nsec - now.tv_nsec;
	if (left.tv_nsec < 0) {
		left.tv_sec--;
		left.tv_nsec += 1000000000;
	}
	return left.tv_sec >= 0 && bare(__NR_ppoll, (long)&waited, 1, (long)&left, 0, 0) > 0;
}

static int
connected(int fd)
{
	int error = 0;
	socklen_t size = sizeof(error);
	long rc = bare(__NR_getsockopt, fd, SOL_SOCKET, SO_ERROR, (long)&error, (long)&size);

	return rc < 0 ? error_of(rc) : error;
}

static int
has_head(const char *text, size_t size)
{
	for (size_t index = 3; index < size; index++)
		if (text[index] == '\n' && text[index - 1] == '\r' && text[index - 2] == '\n' && text[index - 3] == '\r')
			return 1;
	return 0;
}

/* What is said there in answer to the request, as far as it has room: its head is enough. */
static int
converse(struct nono_question *question, int fd, const struct timespec *deadline)
{
	const char *rest = question->request;
	size_t left = question->request_size;
	long size;

	while (left > 0) {
		size = bare(__NR_write, fd, (long)rest, (long)left, 0, 0);
		if (size == -EAGAIN && wait_for(fd, POLLOUT, deadline))
			continue;
		if (size < 0)
			return error_of(size);
		rest += size;
		left -= (size_t)size;
	}
	while (question->answered < question->answer_size && !has_head(question->answer, question->answered)) {
		size = bare(__NR_read, fd, (long)(question->answer + question->answered),
			    (long)(question->answer_size - question->answered), 0, 0);
		if (size == -EAGAIN && wait_for(fd, POLLIN, deadline))
			continue;
		if (size < 0)
			return size == -EAGAIN ? ETIMEDOUT : error_of(size);
		if (size == 0)
			break;
		question->answered += (size_t)size;
	}
	return 0;
}

static int
connect_to(struct nono_question *question)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(question->port) };
	struct timespec deadline;
	long fd, rc;
	int error;

	address.sin_addr.s_addr = htonl(question->address);
	bare(__NR_clock_gettime, CLOCK_MONOTONIC, (long)&deadline, 0, 0, 0);
	deadline.tv_sec += question->timeout_s;
	fd = bare(__NR_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return error_of(fd);
	rc = bare(__NR_connect, fd, (long)&address, sizeof(address), 0, 0);
	error = error_of(rc);
	if (error == EINPROGRESS)
		error = wait_for((int)fd, POLLOUT, &deadline) ? connected((int)fd) : ETIMEDOUT;
	if (error == 0)
		error = converse(question, (int)fd, &deadline);
	bare(__NR_close, fd, 0, 0, 0, 0);
	return error;
}

static int
ask(struct nono_question *question)
{
	switch (question->kind) {
	case NONO_ASK_OPEN:
		return open_file(AT_FDCWD, question, 0);
	case NONO_ASK_LIST:
		return list_directory(question);
	case NONO_ASK_CREATE:
		return create_file(question);
	case NONO_ASK_CONNECT:
		return connect_to(question);
	default:
		return EINVAL;
	}
}

void
nono_ask_all(const struct init *init, struct nono_probe *probe)
{
	struct nono_message started = { NONO_EVENT_STARTED, 0 };

	bare(__NR_write, init->fds[CONTROL], (long)&started, sizeof(started), 0, 0);
	for (size_t index = 0; index < probe->count; index++) {
		probe->questions[index].error = ask(&probe->questions[index]);
		probe->answered = index + 1;
	}
	bare(__NR_exit_group, 0, 0, 0, 0, 0);
}

#endif
