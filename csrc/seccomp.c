/* seccomp.c: installing a filter, see seccomp(2). The filter itself is built in Python. */
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <unistd.h>

#include "linux_compat.h"

int
nono_seccomp_set_filter(const void *filter, size_t count, uint32_t flags)
{
	struct sock_fprog program = {
		.len = (unsigned short)count,
		.filter = (struct sock_filter *)(uintptr_t)filter, /* the kernel only reads it */
	};
	long rc;

	if (count > BPF_MAXINSNS) /* `len` has 16 bits: never install the rest of a long one */
		return -EINVAL;
	rc = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	return rc < 0 ? -errno : (int)rc;
}

#else

int
nono_seccomp_set_filter(const void *filter, size_t count, uint32_t flags)
{
	(void)filter, (void)count, (void)flags;
	return -ENOSYS;
}

#endif
