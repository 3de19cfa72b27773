"""`nono demo`: the whole main job on one machine, against stand-ins, in seconds.

    certificates.py  a throw-away certificate authority, made for one run
    answers.py       what the three services answer, whole and streamed (pure)
    upstream.py      a TLS server on loopback that answers so, to the holder of the right key only
    collector.py     where stolen things would arrive: a TCP port, a UDP port, a unix socket
    agent.py         the program in the sandbox: asks the services, then tries to steal. Imports nothing of nono
    stage.py         builds all this in a temporary directory and runs the agent twice, without nono and with it
    verdict.py       judges what happened and tells it (pure)

Nothing here is used by a real run: no other part of nono imports this package.
"""
