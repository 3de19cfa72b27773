"""The official anthropic SDK, used as its README does; knows nothing of nono. One JSON line a call.

An argument is a directory to import it from, for an older generation beside the current one.
"""

import asyncio
import json
import sys

sys.path[:0] = sys.argv[1:]

import anthropic  # noqa: E402

QUESTION = {"model": "stand-in-1", "max_tokens": 64, "messages": [{"role": "user", "content": "Who are you?"}]}


def tell(call, text):
    print(json.dumps({"call": call, "text": text, "sdk": anthropic.__version__}), flush=True)


def sync():
    client = anthropic.Anthropic(max_retries=0)
    tell("messages", client.messages.create(**QUESTION).content[0].text)
    with client.messages.stream(**QUESTION) as stream:
        tell("messages stream", "".join(stream.text_stream))


async def asynchronous():
    client = anthropic.AsyncAnthropic(max_retries=0)
    tell("async messages", (await client.messages.create(**QUESTION)).content[0].text)
    async with client.messages.stream(**QUESTION) as stream:
        tell("async messages stream", "".join([text async for text in stream.text_stream]))


sync()
asyncio.run(asynchronous())
