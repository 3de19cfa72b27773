"""The official openai SDK, used as its README does; knows nothing of nono. One JSON line a call."""

import asyncio
import json

import openai

QUESTION = {"model": "stand-in-1", "messages": [{"role": "user", "content": "Who are you?"}]}


def tell(call, text):
    print(json.dumps({"call": call, "text": text, "sdk": openai.__version__}), flush=True)


def sync():
    client = openai.OpenAI(max_retries=0)
    tell("chat", client.chat.completions.create(**QUESTION).choices[0].message.content)
    chunks = client.chat.completions.create(stream=True, **QUESTION)
    tell("chat stream", "".join(chunk.choices[0].delta.content or "" for chunk in chunks))
    tell("responses", client.responses.create(model="stand-in-1", input="Who are you?").output_text)
    with client.responses.stream(model="stand-in-1", input="Who are you?") as stream:
        tell("responses stream", stream.get_final_response().output_text)


async def asynchronous():
    client = openai.AsyncOpenAI(max_retries=0)
    answer = await client.chat.completions.create(**QUESTION)
    tell("async chat", answer.choices[0].message.content)
    chunks = await client.chat.completions.create(stream=True, **QUESTION)
    tell("async chat stream", "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]))


sync()
asyncio.run(asynchronous())
