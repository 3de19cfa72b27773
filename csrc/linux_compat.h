/*
 * linux_compat.h: numbers that older kernel and C library headers do not know.
 *
 * Every one is the same on x86-64 and aarch64 (system calls from 424 on share one table,
 * see arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h).
 */
#ifndef NONO_LINUX_COMPAT_H
#define NONO_LINUX_COMPAT_H

#include <sys/syscall.h>

#ifndef __NR_open_tree
#define __NR_open_tree 428
#endif
#ifndef __NR_move_mount
#define __NR_move_mount 429
#endif
#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#endif
#ifndef __NR_landlock_add_rule
#define __NR_landlock_add_rule 445
#endif
#ifndef __NR_landlock_restrict_self
#define __NR_landlock_restrict_self 446
#endif
#ifndef __NR_memfd_secret
#define __NR_memfd_secret 447
#endif

#ifndef PR_CAP_AMBIENT /* linux/prctl.h, 4.3 */
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif
#ifndef CLONE_PIDFD /* linux/sched.h, 5.2 */
#define CLONE_PIDFD 0x00001000
#endif
#ifndef TIOCGPTPEER /* asm/ioctls.h, 4.13 */
#define TIOCGPTPEER _IO('T', 0x41)
#endif
#ifndef AT_RECURSIVE /* linux/fcntl.h, 5.2 */
#define AT_RECURSIVE 0x8000
#endif
#ifndef CLOSE_RANGE_UNSHARE /* linux/close_range.h, 5.9 and 5.11 */
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

/* struct mount_attr (linux/mount.h, 5.12), which glibc has only since 2.36. */
struct nono_mount_attr {
	unsigned long long attr_set;
	unsigned long long attr_clr;
	unsigned long long propagation;
	unsigned long long userns_fd;
};
#define NONO_MOUNT_ATTR_RDONLY 1ULL
/* linux/mount.h, 5.2 */
#define NONO_OPEN_TREE_CLONE 1U
#define NONO_MOVE_MOUNT_F_EMPTY_PATH 0x04U
#define NONO_MOVE_MOUNT_T_EMPTY_PATH 0x40U

/* struct open_how (linux/openat2.h, 5.6). */
struct nono_open_how {
	unsigned long long flags;
	unsigned long long mode;
	unsigned long long resolve;
};
#define NONO_RESOLVE_NO_SYMLINKS 4ULL

/* struct landlock_path_beneath_attr (linux/landlock.h, 5.13). */
struct nono_path_rule {
	unsigned long long access;
	int parent_fd;
} __attribute__((packed));
#define NONO_LANDLOCK_PATH_BENEATH 1

#endif
