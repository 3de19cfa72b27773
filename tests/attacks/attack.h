/*
 * attack.h: what the attack programs share. `attack NAME [ARGUMENT...]` tries one thing
 * and prints LEAK, or the name of the errno that stopped it. Own words; no output else,
 * but for `listening PORT` where the other side has to come to us.
 *
 * The same binary runs without the sandbox first: there every attack has to succeed, so
 * that a broken one never passes for a defence.
 */
#ifndef ATTACK_H
#define ATTACK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define LEAK 1
#define STOPPED 0 /* errno says by what */

struct attack {
	const char *name;
	int (*run)(char **arguments);
};

extern const struct attack network_attacks[], mediated_attacks[], file_attacks[], pinned_attacks[], process_attacks[],
	kernel_attacks[];

#endif
