/* seatbelt.c: sandbox_init(3) of macOS. Deprecated for years, and still what everyone uses. */
#include "shim.h"

#include <errno.h>

#ifdef __APPLE__
#include <string.h>

/* <sandbox.h> declares these as deprecated, which -Werror makes an error. */
extern int sandbox_init(const char *profile, uint64_t flags, char **errorbuf);
extern void sandbox_free_error(char *errorbuf);

int
nono_sandbox_init(const char *profile, uint64_t flags, char *error, size_t error_size)
{
	char *words = NULL;

	if (error_size > 0)
		error[0] = '\0';
	if (sandbox_init(profile, flags, &words) == 0)
		return 0;
	if (words != NULL) {
		if (error_size > 0)
			strlcpy(error, words, error_size);
		sandbox_free_error(words);
	}
	return -EPERM;
}

#else

int
nono_sandbox_init(const char *profile, uint64_t flags, char *error, size_t error_size)
{
	(void)profile, (void)flags, (void)error, (void)error_size;
	return -ENOSYS;
}

#endif
