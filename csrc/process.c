/* process.c: attributes of the calling process, see prctl(2); syncfs(2). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <sys/prctl.h>
#include <unistd.h>

int
nono_prctl(int option, unsigned long argument)
{
	int rc = prctl(option, argument, 0UL, 0UL, 0UL);

	return rc < 0 ? -errno : rc;
}

int
nono_syncfs(int fd)
{
	int rc = syncfs(fd);

	return rc < 0 ? -errno : rc;
}

#else

int
nono_prctl(int option, unsigned long argument)
{
	(void)option, (void)argument;
	return -ENOSYS;
}

int
nono_syncfs(int fd)
{
	(void)fd;
	return -ENOSYS;
}

#endif
