/* Ways to change a file that may only be read, in a directory that may be written. Arguments: paths. */
#include "attack.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static int
writes(int fd)
{
	return fd >= 0 && write(fd, "x", 1) == 1 ? LEAK : STOPPED;
}

static int
append_proc_root(char **a)
{
	char path[4096];

	snprintf(path, sizeof(path), "/proc/self/root%s", a[0]);
	return writes(open(path, O_WRONLY | O_APPEND));
}

/* a[0]: a directory, a[1]: a name in it */
static int
append_in_directory(char **a)
{
	int directory = open(a[0], O_PATH | O_DIRECTORY);

	return writes(openat(directory, a[1], O_WRONLY | O_APPEND));
}

static int
append_opath(char **a)
{
	char again[64];
	int fd = open(a[0], O_PATH);

	if (fd < 0)
		return STOPPED;
	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	return writes(open(again, O_WRONLY | O_APPEND));
}

/* What may be read is opened again for writing. */
static int
append_reopened(char **a)
{
	char again[64];
	int fd = open(a[0], O_RDONLY);

	if (fd < 0)
		return STOPPED;
	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	return writes(open(again, O_WRONLY | O_APPEND));
}

static int
append_linked(char **a)
{
	return link(a[0], a[1]) == 0 ? writes(open(a[1], O_WRONLY | O_APPEND)) : STOPPED;
}

/* By the descriptor, which belongs to the mount. */
static int
append_linked_descriptor(char **a)
{
	char from[64];
	int fd = open(a[0], O_RDONLY);

	if (fd < 0)
		return STOPPED;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, from, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW) < 0)
		return STOPPED;
	return writes(open(a[1], O_WRONLY | O_APPEND));
}

static int
append_by_handle(char **a)
{
	struct {
		struct file_handle handle;
		unsigned char data[MAX_HANDLE_SZ];
	} found = { .handle = { .handle_bytes = MAX_HANDLE_SZ } };
	char directory[4096], *name;
	int id;

	snprintf(directory, sizeof(directory), "%s", a[0]);
	if ((name = strrchr(directory, '/')))
		*name = '\0';
	if (name_to_handle_at(AT_FDCWD, a[0], &found.handle, &id, 0) < 0)
		return STOPPED;
	return writes(open_by_handle_at(open(directory, O_RDONLY | O_DIRECTORY), &found.handle, O_WRONLY | O_APPEND));
}

static int
write_mapped(char **a)
{
	int fd = open(a[0], O_RDWR);
	char *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (mapped == MAP_FAILED)
		return STOPPED;
	*mapped = 'x';
	return LEAK;
}

static int
change_owner(char **a)
{
	return chown(a[0], getuid(), getgid()) == 0 ? LEAK : STOPPED;
}

static int
change_times(char **a)
{
	struct timespec times[2] = { { 1, 0 }, { 1, 0 } };

	return utimensat(AT_FDCWD, a[0], times, 0) == 0 ? LEAK : STOPPED;
}

static int
change_xattr(char **a)
{
	return setxattr(a[0], "user.nono-test", "x", 1, 0) == 0 ? LEAK : STOPPED;
}

/* By a descriptor that was opened for reading. */
static int
change_mode_open(char **a)
{
	return fchmod(open(a[0], O_RDONLY), 0600) == 0 ? LEAK : STOPPED;
}

/* a[0] changes places with a[1]. */
static int
exchange(char **a)
{
	if (syscall(SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], RENAME_EXCHANGE) < 0)
		return STOPPED;
	return LEAK;
}

static int
remove_directory(char **a)
{
	return rmdir(a[0]) == 0 ? LEAK : STOPPED;
}

/* The directory a[0] goes to a[1], and another takes its place, with a file a[2] in it. */
static int
replace_directory(char **a)
{
	char path[4096];

	if (rename(a[0], a[1]) < 0 || mkdir(a[0], 0700) < 0)
		return STOPPED;
	snprintf(path, sizeof(path), "%s/%s", a[0], a[2]);
	return writes(open(path, O_WRONLY | O_CREAT, 0600));
}

/* Without a sandbox there is nothing to unmount: then writing is the attack. */
static int
unmount(char **a)
{
	if (umount2(a[0], MNT_DETACH) < 0 && errno != EINVAL)
		return STOPPED;
	return writes(open(a[0], O_WRONLY | O_APPEND));
}

static int
unmount_in_namespace(char **a)
{
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return STOPPED;
	return unmount(a);
}

static int
remount(char **a)
{
	if (mount(NULL, a[0], NULL, MS_REMOUNT | MS_BIND, NULL) < 0 && errno != EINVAL)
		return STOPPED;
	return writes(open(a[0], O_WRONLY | O_APPEND));
}

const struct attack pinned_attacks[] = {
	{ "append_proc_root", append_proc_root },
	{ "append_in_directory", append_in_directory },
	{ "append_opath", append_opath },
	{ "append_reopened", append_reopened },
	{ "append_linked", append_linked },
	{ "append_linked_descriptor", append_linked_descriptor },
	{ "append_by_handle", append_by_handle },
	{ "write_mapped", write_mapped },
	{ "change_owner", change_owner },
	{ "change_times", change_times },
	{ "change_xattr", change_xattr },
	{ "change_mode_open", change_mode_open },
	{ "exchange", exchange },
	{ "remove_directory", remove_directory },
	{ "replace_directory", replace_directory },
	{ "unmount", unmount },
	{ "unmount_in_namespace", unmount_in_namespace },
	{ "remount", remount },
	{ NULL, NULL },
};
