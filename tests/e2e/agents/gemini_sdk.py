"""The official google-genai SDK, used as its README does; knows nothing of nono. One JSON line a call."""

import asyncio
import json

from google import genai

QUESTION = {"model": "stand-in-1", "contents": "Who are you?"}


def tell(call, text):
    print(json.dumps({"call": call, "text": text, "sdk": genai.__version__}), flush=True)


def sync(client):
    tell("content", client.models.generate_content(**QUESTION).text)
    tell("content stream", "".join(chunk.text for chunk in client.models.generate_content_stream(**QUESTION)))


async def asynchronous(client):
    tell("async content", (await client.aio.models.generate_content(**QUESTION)).text)
    chunks = await client.aio.models.generate_content_stream(**QUESTION)
    tell("async content stream", "".join([chunk.text async for chunk in chunks]))


client = genai.Client()
sync(client)
asyncio.run(asynchronous(client))
