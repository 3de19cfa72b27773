/* process.c: attributes of the calling process, see prctl(2). */
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <sys/prctl.h>

int
nono_prctl(int option, unsigned long argument)
{
	int rc = prctl(option, argument, 0UL, 0UL, 0UL);

	return rc < 0 ? -errno : rc;
}

#else

int
nono_prctl(int option, unsigned long argument)
{
	(void)option, (void)argument;
	return -ENOSYS;
}

#endif
