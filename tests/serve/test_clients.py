"""What others wrote for such servers: OpenAI's own client."""

import json
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from answering import taught
from served import serving

from tiny_llm.serve.batch import Wish

pytestmark = pytest.mark.clients
openai = pytest.importorskip("openai")

ASK = [{"role": "user", "content": "who sleeps?"}]


@pytest.fixture(scope="module")
def server():
    with serving(taught("the cat.", context_length=64), api_key="secret") as server:
        yield server


@pytest.fixture
def client(server):
    port = server.server_address[1]
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=0)


def test_models_and_completions(client):
    assert [model.id for model in client.models.list()] == ["m"]
    answer = client.completions.create(
        model="m", prompt="the cat", max_tokens=5, temperature=8, seed=1, logprobs=2
    )
    choice = answer.choices[0]
    assert len(choice.logprobs.tokens) == answer.usage.completion_tokens <= 5
    assert "".join(choice.logprobs.tokens) == choice.text or "\\x" in "".join(
        choice.logprobs.tokens
    )


def test_a_conversation_whole_and_streamed(client):
    whole = client.chat.completions.create(
        model="m", messages=ASK, temperature=0, logprobs=True, top_logprobs=2
    )
    choice = whole.choices[0]
    assert choice.message.content == "the cat." and choice.finish_reason == "stop"
    assert "".join(entry.token for entry in choice.logprobs.content) == "the cat."
    chunks = list(
        client.chat.completions.create(
            model="m", messages=ASK, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "the cat." and chunks[-1].usage == whole.usage and not chunks[-1].choices


def test_stops(client):
    answer = client.chat.completions.create(
        model="m", messages=ASK, temperature=0, stop=["zz", "cat"]
    )
    assert answer.choices[0].message.content == "the "
    assert answer.choices[0].finish_reason == "stop"


def test_errors_are_its_own_exceptions(client, server):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="m", prompt="a", temperature=-1)
    with pytest.raises(openai.BadRequestError, match="100 tokens") as found:
        client.completions.create(model="m", prompt=[1] * 100)
    assert found.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="m", input="a")
    with pytest.raises(openai.BadRequestError, match="12 at most"):
        client.completions.create(model="m", prompt="a", n=100)

    others = server.batch.submit([Wish([1], 10**9, seed=0)] * 12, SimpleQueue())  # all places
    with pytest.raises(openai.RateLimitError, match="try again"):
        client.completions.create(model="m", prompt="a")
    for other in others:
        other.cancel()


def test_a_stream_that_is_cancelled_frees_its_place(client, server):
    stream = client.completions.create(
        model="m", prompt="the cat", max_tokens=10**6, temperature=8, stream=True
    )
    for _, _ in zip(range(3), stream):
        pass
    stream.close()
    deadline = time.monotonic() + 20
    while server.batch.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server.batch.running


PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
ADDRESS = "127.0.0.1:8080"


@pytest.fixture(scope="module")
def open_server():
    with serving(taught("the cat.", context_length=64)) as server:
        yield server


def here(text, server):
    return text.replace(ADDRESS, f"127.0.0.1:{server.server_address[1]}")


def test_the_page_shows_what_its_client_prints(open_server, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(here(code, open_server).replace("The model", "the cat"), {})
    assert capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_page_shows_a_command_that_answers(open_server):
    (line,) = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
    words = shlex.split(here(line, open_server))
    done = subprocess.run([*words, "-s"], capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"
