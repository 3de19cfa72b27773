/*
 * mounts.c: the init makes the agent's own view of the disk, by the steps that it is given.
 *
 * What may be written is a copy of what was opened, made writable before it is mounted
 * anywhere; so nothing becomes writable that merely came to lie at its path.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "spawn.h"

#include <errno.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * A path without symbolic links, as it was when it was planned: whoever can write in a directory
 * above (an agent in another run) may put a link in its place, between two looks of ours.
 */
static int
open_real(const char *path)
{
	const struct nono_open_how how = { O_PATH | O_CLOEXEC, 0, NONO_RESOLVE_NO_SYMLINKS };

	return (int)syscall(__NR_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static int
is_directory(int fd)
{
	struct stat status;

	return fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

static int
set_read_only(int fd, int read_only, unsigned int flags)
{
	struct nono_mount_attr attr;

	memset(&attr, 0, sizeof(attr));
	if (read_only)
		attr.attr_set = NONO_MOUNT_ATTR_RDONLY;
	else
		attr.attr_clr = NONO_MOUNT_ATTR_RDONLY;
	return (int)syscall(__NR_mount_setattr, fd, "", flags | AT_EMPTY_PATH, &attr, sizeof(attr));
}

/* What is changed is a copy that is mounted nowhere yet, of the very file that was opened. */
static int
set_tree_read_only(int tree, int kind)
{
	if (kind == NONO_MOUNT_BIND)
		return 0;
	if (set_read_only(tree, kind == NONO_MOUNT_BIND_READ_ONLY, AT_RECURSIVE) == 0)
		return 0;
	/* Where a mount was read-only before us, the kernel refuses; it stays so, and what is below. */
	if (kind == NONO_MOUNT_BIND_READ_ONLY || errno != EPERM)
		return -1;
	return set_read_only(tree, 0, 0) == 0 || errno == EPERM ? 0 : -1;
}

static int
bind_mount(const struct nono_mount *mount_)
{
	int from, to = -1, tree = -1, rc = -1, error;

	from = open_real(mount_->source);
	if (from >= 0)
		to = strcmp(mount_->source, mount_->target) == 0 ? from : open_real(mount_->target);
	if (to >= 0)
		tree = (int)syscall(__NR_open_tree, from, "",
				    NONO_OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	if (tree >= 0 && set_tree_read_only(tree, mount_->kind) == 0)
		rc = (int)syscall(__NR_move_mount, tree, "", to, "",
				  NONO_MOVE_MOUNT_F_EMPTY_PATH | NONO_MOVE_MOUNT_T_EMPTY_PATH);
	error = errno;
	if (rc < 0 && tree >= 0 && is_directory(from) != is_directory(to))
		error = ENOTDIR; /* the kernel says EINVAL, which may mean much */
	if (tree >= 0)
		close(tree);
	if (to >= 0 && to != from)
		close(to);
	if (from >= 0)
		close(from);
	errno = error;
	return rc;
}

static int
change_mount(const char *path, int read_only, unsigned int flags)
{
	int rc, error, fd = open_real(path);

	if (fd < 0)
		return -1;
	rc = set_read_only(fd, read_only, flags);
	error = errno == EINVAL ? ENOENT : errno; /* nothing is mounted there: it was replaced */
	close(fd);
	errno = error;
	return rc;
}

static int
carry_out(const struct nono_mount *mount_)
{
	int fd;

	switch (mount_->kind) {
	case NONO_MOUNT_NEW:
		return mount(mount_->source, mount_->target, mount_->source, mount_->flags, mount_->data);
	case NONO_MOUNT_BIND:
	case NONO_MOUNT_BIND_READ_ONLY:
	case NONO_MOUNT_BIND_WRITABLE:
		return bind_mount(mount_);
	case NONO_MOUNT_MOVE:
		return mount(mount_->source, mount_->target, NULL, MS_MOVE, NULL);
	case NONO_MOUNT_READ_ONLY:
		return change_mount(mount_->target, 1, AT_RECURSIVE);
	case NONO_MOUNT_WRITABLE:
		return change_mount(mount_->target, 0, 0);
	case NONO_MOUNT_DIRECTORY:
		return mkdir(mount_->target, (mode_t)mount_->flags);
	case NONO_MOUNT_FILE:
		fd = open(mount_->target, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, (mode_t)mount_->flags);
		return fd < 0 ? -1 : close(fd);
	case NONO_MOUNT_LINK:
		return symlink(mount_->source, mount_->target);
	default:
		errno = EINVAL;
		return -1;
	}
}

/*
 * What has vanished since it was planned, or has become a link, is left out; what is there already
 * serves. What is out of our reach (EACCES: in a directory of another user) is out of the agent's.
 */
int
nono_set_up_mounts(struct nono_prepare *prepare)
{
	size_t index;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -1;
	for (index = 0; index < prepare->mount_count; index++) {
		const struct nono_mount *mount_ = &prepare->mounts[index];

		prepare->mount_index = index;
		if (carry_out(mount_) == 0)
			continue;
		if (!mount_->optional || (errno != ENOENT && errno != EEXIST && errno != EACCES &&
					  errno != ELOOP && errno != ENOTDIR))
			return -1;
	}
	return 0;
}

#endif
