/* Ways into another process of the same user. First argument: its pid. */
#include "attack.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int
open_proc(char **a, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/%s", a[0], name);
	return open(path, flags);
}

static int
read_proc(char **a, const char *name)
{
	char content[4096];
	int fd = open_proc(a, name, O_RDONLY);

	return fd >= 0 && read(fd, content, sizeof(content)) > 0 ? LEAK : STOPPED;
}

static int proc_environ(char **a) { return read_proc(a, "environ"); }
static int proc_maps(char **a) { return read_proc(a, "maps"); }
static int proc_auxv(char **a) { return read_proc(a, "auxv"); }
static int proc_io(char **a) { return read_proc(a, "io"); }
static int proc_root(char **a) { return read_proc(a, "root/etc/passwd"); }

/* a[1]: address of readable memory, hexadecimal */
static int
proc_mem(char **a)
{
	char content[8];
	int fd = open_proc(a, "mem", O_RDONLY);

	if (fd < 0)
		return STOPPED;
	return pread(fd, content, sizeof(content), (off_t)strtoul(a[1], NULL, 16)) == sizeof(content) ? LEAK : STOPPED;
}

static int
proc_cwd(char **a)
{
	char path[64], target[4096];

	snprintf(path, sizeof(path), "/proc/%s/cwd", a[0]);
	return readlink(path, target, sizeof(target)) > 0 ? LEAK : STOPPED;
}

static int proc_fd(char **a) { return open_proc(a, "fd/0", O_RDONLY | O_NONBLOCK) >= 0 ? LEAK : STOPPED; }
static int proc_namespace(char **a) { return open_proc(a, "ns/net", O_RDONLY) >= 0 ? LEAK : STOPPED; }

static int
oom_score(char **a)
{
	int fd = open_proc(a, "oom_score_adj", O_WRONLY);

	return fd >= 0 && write(fd, "900", 3) == 3 ? LEAK : STOPPED;
}

static int
trace(char **a)
{
	pid_t pid = atoi(a[0]);

	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
		return STOPPED;
	return LEAK; /* our exit detaches */
}

static int
vm_read(char **a)
{
	char content[8];
	struct iovec local = { content, sizeof(content) };
	struct iovec remote = { (void *)strtoul(a[1], NULL, 16), sizeof(content) };

	return process_vm_readv(atoi(a[0]), &local, 1, &remote, 1, 0) == sizeof(content) ? LEAK : STOPPED;
}

static int
take_descriptor(char **a)
{
	long pidfd = syscall(SYS_pidfd_open, atoi(a[0]), 0);

	return pidfd >= 0 && syscall(SYS_pidfd_getfd, pidfd, 0, 0) >= 0 ? LEAK : STOPPED;
}

/* SIGWINCH is ignored by default: the permission is the same, the victim lives on. */
static int
signal_kill(char **a)
{
	return kill(atoi(a[0]), SIGWINCH) == 0 ? LEAK : STOPPED;
}

static int
signal_thread(char **a)
{
	return syscall(SYS_tgkill, atoi(a[0]), atoi(a[0]), SIGWINCH) == 0 ? LEAK : STOPPED;
}

static int
signal_queue(char **a)
{
	union sigval value = { 0 };

	return sigqueue(atoi(a[0]), SIGWINCH, value) == 0 ? LEAK : STOPPED;
}

static int
signal_pidfd(char **a)
{
	long pidfd = syscall(SYS_pidfd_open, atoi(a[0]), 0);

	return pidfd >= 0 && syscall(SYS_pidfd_send_signal, pidfd, SIGWINCH, NULL, 0) == 0 ? LEAK : STOPPED;
}

static int
limit(char **a)
{
	struct rlimit old;

	if (prlimit(atoi(a[0]), RLIMIT_NOFILE, NULL, &old) < 0)
		return STOPPED;
	return prlimit(atoi(a[0]), RLIMIT_NOFILE, &old, NULL) == 0 ? LEAK : STOPPED;
}

static int
limit_self(char **a)
{
	struct rlimit old;

	(void)a;
	return prlimit(0, RLIMIT_NOFILE, NULL, &old) == 0 && prlimit(0, RLIMIT_NOFILE, &old, NULL) == 0 ? LEAK : STOPPED;
}

static int
compare(char **a)
{
	return syscall(SYS_kcmp, getpid(), atoi(a[0]), 0, 0, 0) >= 0 ? LEAK : STOPPED;
}

/* What an agent does all day: its own children. */
static int
own_child(char **a)
{
	int status;
	pid_t pid = fork();

	(void)a;
	if (pid == 0) {
		pause();
		_exit(0);
	}
	return kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) ? LEAK : STOPPED;
}

const struct attack process_attacks[] = {
	{ "environ", proc_environ },
	{ "maps", proc_maps },
	{ "auxv", proc_auxv },
	{ "io", proc_io },
	{ "root", proc_root },
	{ "mem", proc_mem },
	{ "cwd", proc_cwd },
	{ "fd", proc_fd },
	{ "namespace", proc_namespace },
	{ "oom_score", oom_score },
	{ "ptrace", trace },
	{ "process_vm_readv", vm_read },
	{ "pidfd_getfd", take_descriptor },
	{ "kill", signal_kill },
	{ "tgkill", signal_thread },
	{ "sigqueue", signal_queue },
	{ "pidfd_send_signal", signal_pidfd },
	{ "prlimit", limit },
	{ "prlimit_self", limit_self },
	{ "kcmp", compare },
	{ "own_child", own_child },
	{ NULL, NULL },
};
