/*
 * record.c: which paths the calls of a sandboxed program name, for `nono learn`.
 *
 * Nothing is decided here, and nothing is protected: each call goes on in the kernel as if nobody
 * had looked (SECCOMP_USER_NOTIF_FLAG_CONTINUE), behind Landlock and the rest of the wall. So what
 * is read may be raced: a program that swaps its argument falsifies its own record, no more. After
 * the reading the kernel confirms that the thread still waits in that call, so that what is
 * recorded came from the sandbox and not from whoever got its number meanwhile.
 *
 * A program opens the same few paths again and again. Those are known by their hash and cost the
 * reading only; what is new is appended to a buffer that Python takes away when it is full.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096u      /* the smallest there is: no read crosses the border of what may be mapped */
#define FIRST_READ 512u /* most paths are shorter */

/* The length without the NUL, or -1: not readable, or longer than the kernel takes. */
static ssize_t
read_path(int tid, uint64_t address, char *path, size_t size)
{
	size_t have = 0;

	while (have < size) {
		size_t wanted = PAGE - (size_t)((address + have) % PAGE);
		struct iovec ours = { path + have, 0 };
		struct iovec theirs = { (void *)(uintptr_t)(address + have), 0 };
		const char *end;
		ssize_t got;

		if (have == 0 && wanted > FIRST_READ)
			wanted = FIRST_READ;
		if (wanted > size - have)
			wanted = size - have;
		ours.iov_len = theirs.iov_len = wanted;
		got = process_vm_readv(tid, &ours, 1, &theirs, 1, 0);
		if (got <= 0)
			return -1;
		end = memchr(path + have, '\0', (size_t)got);
		if (end != NULL)
			return end - path;
		if ((size_t)got < wanted)
			return -1;
		have += (size_t)got;
	}
	return -1;
}

/* The directory that a relative path is taken from; its length, or -1. */
static ssize_t
read_directory(const struct nono_call *call, int argument, char *path, size_t size)
{
	int fd = argument < 0 ? AT_FDCWD : (int)call->arguments[argument];
	char link[48];
	ssize_t length;

	if (fd == AT_FDCWD)
		snprintf(link, sizeof(link), "/proc/%d/cwd", call->tid);
	else
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", call->tid, fd);
	length = readlink(link, path, size);
	return length <= 0 || (size_t)length == size || path[0] != '/' ? -1 : length;
}

/* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t
hash(uint64_t seed, const struct nono_record_head *head, const char *path)
{
	uint64_t value = (0xcbf29ce484222325u ^ seed) * 0x100000001b3u;
	size_t index;

	value = (value ^ head->row) * 0x100000001b3u;
	value = (value ^ head->flags) * 0x100000001b3u;
	for (index = 0; index < head->size; index++)
		value = (value ^ (uint8_t)path[index]) * 0x100000001b3u;
	return value | 1; /* 0 is an empty place */
}

static void
lock(struct nono_recording *recording)
{
	while (__atomic_exchange_n(&recording->lock, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void
unlock(struct nono_recording *recording)
{
	__atomic_store_n(&recording->lock, 0, __ATOMIC_RELEASE);
}

static int
append(struct nono_recording *recording, const struct nono_record_head *head, const char *path)
{
	uint64_t value = hash(recording->seed, head, path);
	uint64_t *place = &recording->seen[(value >> 17) % recording->seen_count];
	size_t size = sizeof(*head) + head->size;
	int fits;

	if (__atomic_load_n(place, __ATOMIC_RELAXED) == value)
		return 0;
	lock(recording);
	fits = size <= recording->size - recording->used;
	if (fits) {
		memcpy(recording->buffer + recording->used, head, sizeof(*head));
		memcpy(recording->buffer + recording->used + sizeof(*head), path, head->size);
		recording->used += size;
	}
	unlock(recording);
	if (!fits)
		return NONO_RECORD_FULL;
	__atomic_store_n(place, value, __ATOMIC_RELAXED);
	return 0;
}

static int
record_row(struct nono_recording *recording, int notify_fd, const struct nono_call *call, uint32_t row)
{
	const struct nono_recorded_call *how = &recording->calls[row];
	char buffer[2 * PATH_MAX], *path = buffer + PATH_MAX;
	uint64_t address = call->arguments[how->path];
	struct nono_record_head head = { 0, row, 0 };
	ssize_t length = 0;

	if (how->flags >= 0)
		head.flags = (uint32_t)call->arguments[how->flags] & how->flags_mask;
	if (address != 0 || !how->may_be_empty)
		length = read_path(call->tid, address, path, PATH_MAX);
	if (length == 0 && !how->may_be_empty)
		return 0; /* ENOENT */
	if (length >= 0 && (length == 0 || path[0] != '/')) {
		ssize_t before = read_directory(call, how->directory, buffer, PATH_MAX - 1);

		if (before < 0)
			length = -1;
		else if (length == 0) {
			path = buffer;
			length = before;
		} else { /* the two are moved together */
			path = buffer + PATH_MAX - before - 1;
			memmove(path, buffer, (size_t)before);
			path[before] = '/';
			length += before + 1;
		}
	}
	if (!nono_notify_still_waits(notify_fd, call->id))
		return 0;
	if (length < 0) {
		__atomic_add_fetch(&recording->unread, 1, __ATOMIC_RELAXED);
		return 0;
	}
	head.size = (uint32_t)length;
	return append(recording, &head, path);
}

int
nono_record(struct nono_recording *recording, int notify_fd, const struct nono_call *call)
{
	uint32_t row;

	__atomic_add_fetch(&recording->received, 1, __ATOMIC_RELAXED);
	if (__atomic_load_n(&recording->stopped, __ATOMIC_RELAXED))
		return 0;
	for (row = 0; row < recording->call_count; row++)
		if (recording->calls[row].nr == call->nr &&
		    record_row(recording, notify_fd, call, row) == NONO_RECORD_FULL)
			return NONO_RECORD_FULL;
	return 0;
}

size_t
nono_record_take(struct nono_recording *recording, void *into)
{
	size_t size;

	lock(recording);
	size = recording->used;
	memcpy(into, recording->buffer, size);
	recording->used = 0;
	unlock(recording);
	return size;
}

#else

int
nono_record(struct nono_recording *recording, int notify_fd, const struct nono_call *call)
{
	(void)recording, (void)notify_fd, (void)call;
	return -ENOSYS;
}

size_t
nono_record_take(struct nono_recording *recording, void *into)
{
	(void)recording, (void)into;
	return 0;
}

#endif
