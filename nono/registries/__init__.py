"""Which hosts the user's package managers install from: the members of the network group `package_registries`.

No host of a registry is written down in nono. Each package manager that the user has is asked for its own settings and
default, as it would act for him in the directory `/`, so that a company's mirror is allowed without being named:

    managers   which managers there are, what each of them obeys, and whether the agent of this run could change that
    cache      earlier answers, in the state directory; one holds until what its manager obeys changes
    ask        runs a manager and reads its answer; nono itself speaks to no registry
    domain     the Landlock domain that a manager runs in
    recorder   a proxy on loopback that refuses everything and notes what it was asked for
    helper     the process that asks beside the child's start; refresh is the supervisor's end of it

    group      the group as one run has it: known hosts, managers to be asked, managers that are left out

A run uses what the cache has at once; it never waits for an answer. What the agent can write is never believed: neither
a program, nor a file of settings, nor the working tree. A host of this group is never one that the operator *named*:
the proxy dials only its public addresses, and a mirror on a private one needs --allow-domain.
"""
