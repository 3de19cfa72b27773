#include "attack.h"

int
main(int argc, char **argv)
{
	const struct attack *tables[] = { network_attacks, mediated_attacks, file_attacks,
					  pinned_attacks, process_attacks, kernel_attacks };
	const struct attack *attack;
	size_t i;

	for (i = 0; argc > 1 && i < sizeof(tables) / sizeof(tables[0]); i++)
		for (attack = tables[i]; attack->name; attack++)
			if (!strcmp(attack->name, argv[1])) {
				errno = 0;
				if (attack->run(argv + 2) == LEAK)
					puts("LEAK");
				else
					puts(errno ? strerrorname_np(errno) : "STOPPED");
				return 0;
			}
	puts("UNKNOWN");
	return 2;
}
