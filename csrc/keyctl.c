/* keyctl.c: the kernel's key retention service, without libkeyutils. */
#include "shim.h"

#include <errno.h>

#ifdef __linux__
#include <unistd.h>

#include "linux_compat.h"

int
nono_add_key(const char *type, const char *description, const void *payload, size_t size,
	     int keyring)
{
	long rc = syscall(__NR_add_key, type, description, payload, size, keyring);

	return rc < 0 ? -errno : (int)rc;
}

long
nono_keyctl(int operation, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d)
{
	long rc = syscall(__NR_keyctl, operation, a, b, c, d);

	return rc < 0 ? -errno : rc;
}

#else

int
nono_add_key(const char *type, const char *description, const void *payload, size_t size,
	     int keyring)
{
	(void)type, (void)description, (void)payload, (void)size, (void)keyring;
	return -ENOSYS;
}

long
nono_keyctl(int operation, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d)
{
	(void)operation, (void)a, (void)b, (void)c, (void)d;
	return -ENOSYS;
}

#endif
