/* secret.c: mapping, locking and wiping the memory that holds secrets. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __linux__
#include "linux_compat.h"
#endif

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

int
nono_memfd_secret(unsigned int flags)
{
#ifdef __linux__
	long rc = syscall(__NR_memfd_secret, flags);

	return rc < 0 ? -errno : (int)rc;
#else
	(void)flags;
	return -ENOSYS;
#endif
}

int
nono_map(size_t size, int fd, void **address)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (mapped == MAP_FAILED)
		return -errno;
	*address = mapped;
	return 0;
}

int
nono_unmap(void *address, size_t size)
{
	return munmap(address, size) < 0 ? -errno : 0;
}

int
nono_mlock(void *address, size_t size)
{
	return mlock(address, size) < 0 ? -errno : 0;
}

int
nono_madvise(void *address, size_t size, int advice)
{
#ifdef __linux__
	return madvise(address, size, advice) < 0 ? -errno : 0;
#else
	(void)address, (void)size, (void)advice;
	return -ENOSYS;
#endif
}

int
nono_minherit(void *address, size_t size, int inherit)
{
#ifdef __APPLE__
	return minherit(address, size, inherit) < 0 ? -errno : 0;
#else
	(void)address, (void)size, (void)inherit;
	return -ENOSYS;
#endif
}

void
nono_wipe(void *address, size_t size)
{
	memset(address, 0, size);
	/* explicit_bzero(3) and memset_s are each missing somewhere; a barrier is not. */
	__asm__ __volatile__("" : : "r"(address) : "memory");
}
