/* Kernel interfaces that reach past the walls, or have been the way through them before. */
#include "attack.h"

#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <termios.h>

/* The session keyring is shared with every shell of the login: nono's session store is in reach of it. */
static int
keyring(char **a)
{
	(void)a;
	return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1) >= 0 ? LEAK : STOPPED;
}

static int
key_add(char **a)
{
	(void)a;
	return syscall(SYS_add_key, "user", "nono-attack", "x", 1, KEY_SPEC_PROCESS_KEYRING) >= 0 ? LEAK : STOPPED;
}

static int
key_request(char **a)
{
	(void)a;
	if (syscall(SYS_request_key, "user", "nono-no-such-key", NULL, 0) >= 0 || errno == ENOKEY)
		return LEAK; /* it searched */
	return STOPPED;
}

static int
bpf_map(char **a)
{
	struct { uint32_t type, key, value, entries; char rest[112]; } map = { 2, 4, 4, 1, "" };

	(void)a;
	return syscall(SYS_bpf, 0, &map, sizeof(map)) >= 0 ? LEAK : STOPPED;
}

static int
fault(char **a)
{
	(void)a;
	return syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */) >= 0 ? LEAK : STOPPED;
}

static int
perf(char **a)
{
	struct perf_event_attr attr;

	(void)a;
	memset(&attr, 0, sizeof(attr));
	attr.type = PERF_TYPE_SOFTWARE;
	attr.size = sizeof(attr);
	attr.exclude_kernel = 1;
	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) >= 0 ? LEAK : STOPPED;
}

/* a[0]: the key of a segment that was made outside */
static int
shared_memory(char **a)
{
	int id = shmget((key_t)atol(a[0]), 0, 0);
	char *content = id >= 0 ? shmat(id, NULL, SHM_RDONLY) : (char *)-1;

	return content != (char *)-1 && content[0] == 'S' ? LEAK : STOPPED;
}

static int
in_child(int (*attempt)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(attempt() == 0 ? 0 : errno);
	waitpid(pid, &status, 0);
	errno = WEXITSTATUS(status);
	return status == 0 ? LEAK : STOPPED;
}

static int try_unshare(void) { return unshare(CLONE_NEWUSER); }
static int try_unshare_time(void) { return unshare(CLONE_NEWUSER | 0x80); }
static int unshare_user(char **a) { (void)a; return in_child(try_unshare); }
static int unshare_time(char **a) { (void)a; return in_child(try_unshare_time); }

static int
finish(pid_t pid)
{
	if (pid == 0)
		_exit(0);
	if (pid < 0)
		return STOPPED;
	waitpid(pid, NULL, 0);
	return LEAK;
}

static int
clone_user(char **a)
{
	(void)a;
	return finish((pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
}

static int
clone3_user(char **a)
{
	uint64_t arguments[8] = { CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0 };

	(void)a;
	return finish((pid_t)syscall(SYS_clone3, arguments, sizeof(arguments)));
}

/* EPERM by capability and EPERM by the filter look alike; a bad pointer tells: EFAULT is the kernel's own. */
static int
reached(long result)
{
	return result >= 0 || errno == EFAULT || errno == EINVAL || errno == ENOENT ? LEAK : STOPPED;
}

static int mounting(char **a) { (void)a; return reached(mount((void *)1, (void *)1, (void *)1, 0, NULL)); }
static int filesystem_open(char **a) { (void)a; return reached(syscall(SYS_fsopen, (void *)1, 0)); }
static int change_root(char **a) { (void)a; return reached(chroot((void *)1)); }
static int handle(char **a) { (void)a; return reached(syscall(SYS_open_by_handle_at, AT_FDCWD, (void *)1, O_RDONLY)); }

static int
enter_namespace(char **a)
{
	int fd = open("/proc/self/ns/user", O_RDONLY);

	(void)a;
	/* Entering one's own user namespace is EINVAL once it is looked at. */
	return reached(syscall(SYS_setns, fd, 0));
}

static int
executable_data(char **a)
{
	(void)a;
	return personality(PER_LINUX | READ_IMPLIES_EXEC) >= 0 ? LEAK : STOPPED;
}

static int
personality_query(char **a)
{
	(void)a;
	return personality(0xffffffff) >= 0 ? LEAK : STOPPED;
}

/* Standard input is the terminal of the shell that started us: type a command for it. */
static int
type_for_shell(char **a)
{
	(void)a;
	return ioctl(0, TIOCSTI, "x") == 0 ? LEAK : STOPPED;
}

static int
type_for_shell_high_bits(char **a)
{
	(void)a;
	return syscall(SYS_ioctl, 0, 0x100000000UL | TIOCSTI, "x") == 0 ? LEAK : STOPPED;
}

/* Only a virtual console answers it; any other terminal says ENOTTY, if it is asked. */
static int
console_paste(char **a)
{
	char subcommand = 2;

	(void)a;
	return ioctl(0, TIOCLINUX, &subcommand) == 0 || errno == ENOTTY ? LEAK : STOPPED;
}

static int
line_discipline(char **a)
{
	int discipline = 0; /* the one it has */

	(void)a;
	return ioctl(0, TIOCSETD, &discipline) == 0 ? LEAK : STOPPED;
}

static int
terminal_settings(char **a)
{
	struct termios settings;
	int fd = open("/dev/tty", O_RDWR);

	(void)a;
	return fd >= 0 && tcgetattr(fd, &settings) == 0 && tcsetattr(fd, TCSANOW, &settings) == 0 ? LEAK : STOPPED;
}

const struct attack kernel_attacks[] = {
	{ "keyctl", keyring },
	{ "add_key", key_add },
	{ "request_key", key_request },
	{ "bpf", bpf_map },
	{ "userfaultfd", fault },
	{ "perf_event_open", perf },
	{ "shared_memory", shared_memory },
	{ "unshare_user", unshare_user },
	{ "unshare_time", unshare_time },
	{ "clone_user", clone_user },
	{ "clone3_user", clone3_user },
	{ "mount", mounting },
	{ "fsopen", filesystem_open },
	{ "chroot", change_root },
	{ "open_by_handle_at", handle },
	{ "setns", enter_namespace },
	{ "read_implies_exec", executable_data },
	{ "personality_query", personality_query },
	{ "tiocsti", type_for_shell },
	{ "tiocsti_high_bits", type_for_shell_high_bits },
	{ "tioclinux", console_paste },
	{ "tiocsetd", line_discipline },
	{ "terminal_settings", terminal_settings },
	{ NULL, NULL },
};
