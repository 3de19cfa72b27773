/* splice.c: tee(2), the one of its family that Python does not have. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <fcntl.h>
#include <sys/types.h>

long
nono_tee(int fd_in, int fd_out, size_t size, unsigned int flags)
{
	ssize_t rc = tee(fd_in, fd_out, size, flags);

	return rc < 0 ? -errno : (long)rc;
}

#else

long
nono_tee(int fd_in, int fd_out, size_t size, unsigned int flags)
{
	(void)fd_in, (void)fd_out, (void)size, (void)flags;
	return -ENOSYS;
}

#endif
