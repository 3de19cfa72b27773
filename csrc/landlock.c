/* landlock.c: the three system calls of landlock(7), which no C library wraps. */
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <unistd.h>

#include "linux_compat.h"

int
nono_landlock_create_ruleset(const void *attr, size_t size, uint32_t flags)
{
	long rc = syscall(__NR_landlock_create_ruleset, attr, size, flags);

	return rc < 0 ? -errno : (int)rc;
}

int
nono_landlock_add_rule(int ruleset_fd, int type, const void *attr, uint32_t flags)
{
	long rc = syscall(__NR_landlock_add_rule, ruleset_fd, type, attr, flags);

	return rc < 0 ? -errno : (int)rc;
}

int
nono_landlock_restrict_self(int ruleset_fd, uint32_t flags)
{
	long rc = syscall(__NR_landlock_restrict_self, ruleset_fd, flags);

	return rc < 0 ? -errno : (int)rc;
}

#else

int
nono_landlock_create_ruleset(const void *attr, size_t size, uint32_t flags)
{
	(void)attr, (void)size, (void)flags;
	return -ENOSYS;
}

int
nono_landlock_add_rule(int ruleset_fd, int type, const void *attr, uint32_t flags)
{
	(void)ruleset_fd, (void)type, (void)attr, (void)flags;
	return -ENOSYS;
}

int
nono_landlock_restrict_self(int ruleset_fd, uint32_t flags)
{
	(void)ruleset_fd, (void)flags;
	return -ENOSYS;
}

#endif
