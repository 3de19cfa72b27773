/* Ways to a file that was not granted. Arguments: paths. */
#include "attack.h"

#include <dirent.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static int
holds_something(int fd)
{
	char content[4096];

	return fd >= 0 && read(fd, content, sizeof(content)) > 0 ? LEAK : STOPPED;
}

static int
read_file(char **a)
{
	return holds_something(open(a[0], O_RDONLY));
}

static int
read_openat2(char **a)
{
	struct open_how how = { .flags = O_RDONLY };

	return holds_something((int)syscall(SYS_openat2, AT_FDCWD, a[0], &how, sizeof(how)));
}

/* O_PATH is granted by nobody and denied by nobody; the second open is what counts. */
static int
read_opath(char **a)
{
	char again[64];
	int fd = open(a[0], O_PATH);

	if (fd < 0)
		return STOPPED;
	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	return holds_something(open(again, O_RDONLY));
}

static int
read_proc_root(char **a)
{
	char path[4096];

	snprintf(path, sizeof(path), "/proc/self/root%s", a[0]);
	return holds_something(open(path, O_RDONLY));
}

/* a[0]: a directory, a[1]: a name in it */
static int
read_after_chdir(char **a)
{
	if (chdir(a[0]) < 0)
		return STOPPED;
	return holds_something(open(a[1], O_RDONLY));
}

/* a[1] becomes a link to a[0] */
static int
read_symlink(char **a)
{
	if (symlink(a[0], a[1]) < 0)
		return STOPPED;
	return holds_something(open(a[1], O_RDONLY));
}

static int
read_hardlink(char **a)
{
	if (link(a[0], a[1]) < 0)
		return STOPPED;
	return holds_something(open(a[1], O_RDONLY));
}

static int
read_renamed(char **a)
{
	if (rename(a[0], a[1]) < 0)
		return STOPPED;
	return holds_something(open(a[1], O_RDONLY));
}

/* Two directories change places: a[0] the wanted one, a[1] a granted one, a[2] a name in both. */
static int
read_exchanged(char **a)
{
	char path[4096];

	if (syscall(SYS_renameat2, AT_FDCWD, a[0], AT_FDCWD, a[1], 2 /* RENAME_EXCHANGE */) < 0)
		return STOPPED;
	snprintf(path, sizeof(path), "%s/%s", a[1], a[2]);
	return holds_something(open(path, O_RDONLY));
}

static char **swap_arguments;
static atomic_int swap_stop;

static void *
swap_link(void *unused)
{
	char temporary[4096];

	snprintf(temporary, sizeof(temporary), "%s.new", swap_arguments[2]);
	while (!swap_stop) {
		if (symlink(swap_arguments[0], temporary) == 0)
			rename(temporary, swap_arguments[2]);
		if (symlink(swap_arguments[1], temporary) == 0)
			rename(temporary, swap_arguments[2]);
	}
	return unused;
}

/* a[2] points to a[0] (wanted, content begins with S) and a[1] (granted) by turns. */
static int
read_swapped(char **a)
{
	pthread_t thread;
	int tries, fd, denied = 0, result = STOPPED;
	time_t end = time(NULL) + 5;
	char content = 0;

	swap_arguments = a;
	if (symlink(a[1], a[2]) < 0 || pthread_create(&thread, NULL, swap_link, NULL))
		return STOPPED;
	/* Until the link has been caught at the wanted file: read, or often enough refused. */
	for (tries = 0; result == STOPPED && (tries < 5000 || denied < 50) && time(NULL) < end; tries++) {
		fd = open(a[2], O_RDONLY);
		denied += fd < 0 && errno == EACCES;
		if (fd >= 0 && read(fd, &content, 1) == 1 && content == 'S')
			result = LEAK;
		if (fd >= 0)
			close(fd);
	}
	swap_stop = 1;
	pthread_join(thread, NULL);
	errno = denied ? EACCES : 0;
	return result;
}

static int
read_descriptor(char **a)
{
	return holds_something(atoi(a[0]));
}

static int
list(char **a)
{
	DIR *directory = opendir(a[0]);

	return directory && readdir(directory) ? LEAK : STOPPED;
}

static int
append(char **a)
{
	int fd = open(a[0], O_WRONLY | O_APPEND);

	return fd >= 0 && write(fd, "x", 1) == 1 ? LEAK : STOPPED;
}

static int
create(char **a)
{
	return open(a[0], O_WRONLY | O_CREAT | O_EXCL, 0600) >= 0 ? LEAK : STOPPED;
}

static int
make_directory(char **a)
{
	return mkdir(a[0], 0700) == 0 ? LEAK : STOPPED;
}

/* mkdir -p a[0] and a file a[1] in it: settings that were not there when the sandbox was made */
static int
plant(char **a)
{
	char path[4096];

	if (mkdir(a[0], 0700) < 0 && errno != EEXIST)
		return STOPPED;
	snprintf(path, sizeof(path), "%s/%s", a[0], a[1]);
	return open(path, O_WRONLY | O_CREAT, 0600) >= 0 ? LEAK : STOPPED;
}

static int
emerge(char **a)
{
	char from[64];
	int fd = open(a[0], O_TMPFILE | O_RDWR, 0600);

	if (fd < 0)
		return STOPPED;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, from, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW) == 0 ? LEAK : STOPPED;
}

static int
truncate_path(char **a)
{
	return truncate(a[0], 0) == 0 ? LEAK : STOPPED;
}

static int
truncate_open(char **a)
{
	struct stat status;

	return open(a[0], O_RDONLY | O_TRUNC) >= 0 && stat(a[0], &status) == 0 && status.st_size == 0 ? LEAK : STOPPED;
}

/* Access mode 3: no access asked for, ioctl only. */
static int
truncate_open_3(char **a)
{
	struct stat status;

	return open(a[0], 3 | O_TRUNC) >= 0 && stat(a[0], &status) == 0 && status.st_size == 0 ? LEAK : STOPPED;
}

static int
remove_file(char **a)
{
	return unlink(a[0]) == 0 ? LEAK : STOPPED;
}

static int
move(char **a)
{
	return rename(a[0], a[1]) == 0 ? LEAK : STOPPED;
}

static int
execute(char **a)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execl(a[0], a[0], (char *)NULL);
		_exit(errno);
	}
	waitpid(pid, &status, 0);
	errno = WEXITSTATUS(status);
	return status == 0 ? LEAK : STOPPED;
}

static int
make_device(char **a)
{
	return mknod(a[0], S_IFCHR | 0600, (1 << 8) | 3) == 0 ? LEAK : STOPPED;
}

static int
set_user_id_chmod(char **a)
{
	int fd = open(a[0], O_WRONLY | O_CREAT, 0700);

	return fd >= 0 && chmod(a[0], 04755) == 0 ? LEAK : STOPPED;
}

static int
set_user_id_fchmod(char **a)
{
	int fd = open(a[0], O_WRONLY | O_CREAT, 0700);

	return fd >= 0 && fchmod(fd, 04755) == 0 ? LEAK : STOPPED;
}

static int
set_user_id_open(char **a)
{
	struct stat status;

	return open(a[0], O_WRONLY | O_CREAT, 04755) >= 0 && stat(a[0], &status) == 0 && status.st_mode & S_ISUID ? LEAK : STOPPED;
}

static int
set_user_id_openat2(char **a)
{
	struct open_how how = { .flags = O_WRONLY | O_CREAT, .mode = 04755 };

	return syscall(SYS_openat2, AT_FDCWD, a[0], &how, sizeof(how)) >= 0 ? LEAK : STOPPED;
}

static int
change_mode(char **a)
{
	return chmod(a[0], 0600) == 0 ? LEAK : STOPPED;
}

const struct attack file_attacks[] = {
	{ "read", read_file },
	{ "read_openat2", read_openat2 },
	{ "read_opath", read_opath },
	{ "read_proc_root", read_proc_root },
	{ "read_after_chdir", read_after_chdir },
	{ "read_symlink", read_symlink },
	{ "read_hardlink", read_hardlink },
	{ "read_renamed", read_renamed },
	{ "read_exchanged", read_exchanged },
	{ "read_swapped", read_swapped },
	{ "read_descriptor", read_descriptor },
	{ "list", list },
	{ "append", append },
	{ "create", create },
	{ "mkdir", make_directory },
	{ "plant", plant },
	{ "emerge", emerge },
	{ "truncate", truncate_path },
	{ "truncate_open", truncate_open },
	{ "truncate_open_3", truncate_open_3 },
	{ "remove", remove_file },
	{ "move", move },
	{ "execute", execute },
	{ "make_device", make_device },
	{ "set_user_id_chmod", set_user_id_chmod },
	{ "set_user_id_fchmod", set_user_id_fchmod },
	{ "set_user_id_open", set_user_id_open },
	{ "set_user_id_openat2", set_user_id_openat2 },
	{ "change_mode", change_mode },
	{ NULL, NULL },
};
