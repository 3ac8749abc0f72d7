"""themis.models: what a name stands for, functions as models, replay and demo."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from themis.errors import (
    DataError,
    ModelError,
    ModelOutcomeError,
    ModelUnavailableError,
    RequestError,
    UnknownNameError,
    UsageError,
)
from themis.models import (
    MODELS,
    PROVIDERS,
    CallableModel,
    DemoModel,
    Model,
    OpenAIModel,
    ReplayModel,
    Response,
    load_model,
)
from themis.models.demo import UNKNOWN, WRONG_SHARE, is_wrong
from themis.models.lookup import TextIndex
from themis.records import GenerationRecord, Request
from themis.testing import ModelServer


@pytest.fixture(autouse=True)
def _no_keys_no_addresses(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith(("_proxy", "_api_key", "_base_url"))]:
        monkeypatch.delenv(name)


def request(prompt: str = "hi", **fields) -> Request:
    """A request of one sample."""
    return Request(**{"id": "r1", "prompt": prompt, "sample_id": "s1", **fields})


def answer(model: Model, asked: Request | None = None) -> str | None:
    """The text that a model answers; the model is closed."""

    async def run() -> str | None:
        try:
            return (await model.generate(asked or request())).text
        finally:
            await model.close()

    return asyncio.run(run())


# load_model


@pytest.mark.parametrize(
    ("text", "base_url", "provider", "name", "address"),
    [
        ("gpt-4", None, "openai", "gpt-4", "https://api.openai.com/v1"),
        ("openai/gpt-4o", None, "openai", "gpt-4o", "https://api.openai.com/v1"),
        ("groq/llama", None, "groq", "llama", "https://api.groq.com/openai/v1"),
        ("openrouter/meta/llama:free", None, "openrouter", "meta/llama:free", "https://openrouter.ai/api/v1"),
        ("vllm/Qwen/Qwen3-8B", None, "vllm", "Qwen/Qwen3-8B", "http://localhost:8000/v1"),
        ("openai/meta-llama/Llama-3-8B", "http://h:1/v1/", "openai", "meta-llama/Llama-3-8B", "http://h:1/v1"),
        ("openai/openai/gpt-oss-20b", "http://h:1/v1", "openai", "openai/gpt-oss-20b", "http://h:1/v1"),
        ("meta-llama/Llama-3-8B", "http://h:1/v1", "openai", "meta-llama/Llama-3-8B", "http://h:1/v1"),
        ("together/a/b", "http://h:1/v1", "together", "a/b", "http://h:1/v1"),
    ],
)
def test_a_name_is_a_provider_and_a_model(text, base_url, provider, name, address):
    """What stands before the first slash is the provider, if it is one; the rest is the model, slashes and all."""
    model = load_model(text, base_url=base_url)

    assert model.identity() == {"provider": provider, "name": name}
    assert (model.transport, model.name) == (address, f"{provider}/{name}")


def test_openai_base_url_moves_openai_alone(monkeypatch):
    """$OPENAI_BASE_URL is where openai is served, and an argument comes before it; other providers do not heed it."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://env:1/v1")

    assert load_model("gpt-4").transport == "http://env:1/v1"
    assert load_model("meta-llama/Llama-3-8B").identity()["name"] == "meta-llama/Llama-3-8B"
    assert load_model("gpt-4", base_url="http://arg:1/v1").transport == "http://arg:1/v1"
    assert load_model("groq/llama").transport == "https://api.groq.com/openai/v1"


def test_openai_base_url_is_asked(monkeypatch):
    """A bare name is answered by the server that the environment names."""
    with ModelServer("from here") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        model = load_model("any/name")

        assert answer(model) == "from here"
    assert server.requests[0].body["model"] == "any/name"


def test_an_unknown_provider_is_named_with_the_nearest_and_what_to_do():
    """Without a base_url the message has the value, the providers, the nearest one and the way out."""
    with pytest.raises(UnknownNameError, match=r"'opnai'.*'openai'\?.*groq.*base_url="):
        load_model("opnai/gpt-4")


@pytest.mark.parametrize("text", ["", " ", "/x", "openai/", "openai", "ollama/ ", "replay/", "demo/x", "demo/"])
def test_a_name_without_a_model_is_an_error(text):
    """Empty names, and providers without a model, are found when the model is loaded."""
    with pytest.raises(UsageError, match="model="):
        load_model(text)


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://h/v1", "http://user:pw@h/v1", "http://h/v1?key=k"])
def test_a_base_url_that_is_none_or_tells_secrets_is_refused(base_url):
    """A base_url is an http(s) address; passwords and queries would stand in every record."""
    with pytest.raises(UsageError) as raised:
        load_model("m", base_url=base_url)

    assert "pw" not in str(raised.value)
    assert "key=k" not in str(raised.value)


def test_options_that_mean_nothing_are_refused():
    """A base_url for a function, a class for an instance, a name for a named model: each is a clear error."""
    for model, options in [
        (str.upper, {"base_url": "http://h/v1"}),
        ("demo", {"base_url": "http://h/v1"}),
        (DemoModel, {}),
        (3, {}),
        ("gpt-4", {"name": "mine"}),
        (DemoModel([]), {"name": "mine"}),
    ]:
        with pytest.raises(UsageError):
            load_model(model, **options)


def test_a_model_is_taken_as_it_is():
    """A Model instance comes back unchanged, whatever the defaults."""
    model = DemoModel([])

    assert load_model(model) is model


def test_names_lists_every_provider():
    """The table of models has the providers, demo and replay."""
    assert set(MODELS.names()) >= {"demo", "replay", *PROVIDERS}


def test_other_packages_add_providers_and_models(monkeypatch):
    """An entry of the table may be a function from the rest of the name to a Model."""
    monkeypatch.setattr(MODELS, "_table", dict(MODELS._table))
    MODELS.add("mine", lambda rest: CallableModel(lambda prompt: rest, name=rest))

    assert answer(load_model("mine/a/b")) == "a/b"


def test_loading_imports_nothing_heavy():
    """Making models of every kind loads neither aiohttp nor pyarrow."""
    script = (
        "import sys; from themis.models import load_model; load_model('gpt-4'); load_model(str.upper); "
        "print([m for m in ('aiohttp', 'pyarrow', 'fsspec', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


# Functions


async def shout(prompt):
    """The prompt in capitals, later."""
    await asyncio.sleep(0)
    return prompt.upper()


class Shouter:
    async def __call__(self, prompt):
        return prompt.upper()


@pytest.mark.parametrize(
    ("func", "blocking"),
    [
        (lambda prompt: prompt.upper(), True),
        (shout, False),
        (functools.partial(shout), False),
        (Shouter(), False),
        (lambda prompt: shout(prompt), True),  # noqa: PLW0108 - a plain function that returns an awaitable
        (lambda prompt: Response(text=prompt.upper(), output_tokens=3), True),
    ],
)
def test_a_function_is_a_model(func, blocking):
    """Plain functions, coroutine functions and objects with either answer; only the plain ones hold their thread."""
    model = load_model(func)

    assert answer(model) == "HI"
    assert model.blocking is blocking


def test_a_function_gets_the_messages_of_a_chat_that_has_them():
    """A chat with messages is given as messages; a completion always as text."""
    messages = [{"role": "user", "content": "hi"}]
    seen = []
    model = load_model(lambda prompt: seen.append(prompt) or "ok")
    answer(model, request("text", messages=messages))
    answer(model, request("text", messages=messages, kind="completion"))

    assert seen == [messages, "text"]


@pytest.mark.parametrize("wrong", [None, 42, ["text"], b"text"])
def test_a_function_that_returns_no_text_is_told_so(wrong):
    """What a function may return is said with what it did return."""
    with pytest.raises(ModelError, match=f"returned a {type(wrong).__name__}; it has to return text"):
        answer(load_model(lambda prompt: wrong))


def test_the_error_of_a_function_is_its_own():
    """An exception inside a function arrives with its own type."""

    def fails(prompt):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        answer(load_model(fails))


def test_the_identity_of_a_function_is_its_code_or_its_name():
    """Equal code is equal, other code is not; a name replaces the code; an object without a name has none."""

    def model_of(suffix):
        return load_model(lambda prompt: prompt + suffix)

    assert model_of("a").identity() == model_of("a").identity()
    assert model_of("a").identity() != model_of("b").identity()
    assert load_model(str.upper, name="up").identity() == {"provider": "function", "name": "up"}
    assert load_model(Shouter()).identity() is None
    assert load_model(shout).name == "shout"


# Replay

ROWS = [
    {"id": "r1", "sample_id": "s1", "repeat": 0, "prompt": "one?", "response": "1", "output_tokens": 0},
    {"id": "r2", "sample_id": "s1", "repeat": 1, "prompt": "one?", "response": "uno"},
    {"id": "r3", "sample_id": "s2", "repeat": 0, "prompt": "two?", "response": "2", "reasoning": "hm"},
]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request("?", id="r3", sample_id="x"), "2"),
        (request("?", id="r2", sample_id="x", repeat=1), "uno"),
        (request("?", id="x", sample_id="s1", repeat=1), "uno"),
        (request("  two?\n", id="x", sample_id="x"), "2"),
    ],
)
def test_a_recording_is_looked_up_by_id_then_sample_then_prompt(asked, text):
    """The request's id comes first, then its sample and repeat, then its prompt without blank space around it."""
    assert answer(ReplayModel(ROWS), asked) == text


def test_replay_gives_back_what_was_recorded_beside_the_text():
    """Tokens, reasoning and the rest come with the response, 0 as 0."""
    model = ReplayModel(ROWS)

    assert asyncio.run(model.generate(request(id="r1"))).output_tokens == 0
    assert asyncio.run(model.generate(request(id="r3"))).reasoning == "hm"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request("three?", id="r9", sample_id="s9"), "'r9'.*'s9'.*'three\\?'"),
        (request("one?", id="r9", repeat=2), "2 answers to .*none for repeat 2"),
    ],
)
def test_what_was_not_recorded_is_an_input_error(asked, words):
    """A request without a recorded answer says what was looked up; nothing is made up for further repeats."""
    with pytest.raises(RequestError, match=words) as raised:
        answer(ReplayModel(ROWS), asked)

    assert (raised.value.kind, raised.value.attempts) == ("input", 0)


def test_rows_without_repeats_answer_in_their_order():
    """The n-th row of a sample is its answer to repeat n."""
    model = ReplayModel([{"sample_id": 1, "response": "a"}, {"sample_id": 1, "response": "b"}])

    assert [answer(model, request(sample_id="1", repeat=n)) for n in (0, 1)] == ["a", "b"]


def test_samples_of_another_benchmark_are_not_mistaken():
    """A recording that names its benchmark answers only for that one by sample."""
    model = ReplayModel([{"benchmark": "math", "sample_id": "1", "response": "m"}])

    assert answer(model, request(sample_id="1", benchmark="math")) == "m"
    with pytest.raises(RequestError):
        answer(model, request(sample_id="1", benchmark="gsm8k"))


@pytest.mark.parametrize(
    ("kind", "error"),
    [("model", ModelOutcomeError), ("input", RequestError), ("infrastructure", ModelUnavailableError)],
)
def test_recorded_errors_are_errors_again(kind, error):
    """A recorded error is raised with its kind and message."""
    row = GenerationRecord("r1", "hi", None, status="error", error_kind=kind, error_message="as recorded")
    with pytest.raises(error, match="as recorded"):
        answer(ReplayModel([row]))


def test_generation_records_can_be_replayed():
    """What a storage gives back is a recording."""
    model = ReplayModel([GenerationRecord("x", "hi", "hello", sample_id="s1", benchmark="b")])

    assert answer(model, request("other", benchmark="b")) == "hello"


def test_the_identity_of_a_recording_is_its_content():
    """Equal rows are one model, other rows another; a name replaces the content."""
    assert ReplayModel(ROWS).identity() == ReplayModel(ROWS[::-1]).identity()
    assert ReplayModel(ROWS).identity() != ReplayModel(ROWS[:2]).identity()
    assert ReplayModel(ROWS, name="mine").identity() == {"provider": "replay", "name": "mine"}


def test_a_replay_model_pickles():
    """A copy answers alike, also after the original has built its index."""
    model = ReplayModel(ROWS, key="prompt")
    assert answer(model, request("Q: two? A:")) == "2"
    copy = pickle.loads(pickle.dumps(model))

    assert answer(copy, request("Q: two? A:")) == "2"
    assert copy.identity() == model.identity()


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst", "r.json", "r.json.gz", "r.parquet"])
def test_recordings_are_read_from_files(tmp_path, name):
    """Lines, lists and Parquet, compressed or not, by path and by file:// URL."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        text = json.dumps(ROWS) if ".json" in name and "jsonl" not in name else "\n".join(map(json.dumps, ROWS))
        compression = {"gz": "gzip", "zst": "zstd"}.get(name.rsplit(".", 1)[1])
        with pa.output_stream(str(path), compression=compression) as stream:
            stream.write(text.encode())

    assert answer(load_model(f"replay/{path}"), request(id="r3")) == "2"
    assert answer(ReplayModel(path.as_uri()), request(id="r3")) == "2"


def test_the_folder_of_a_run_is_a_recording(tmp_path):
    """Of several rows of one id an answer beats an error, then the later one wins."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def part(name, rows):
        (tmp_path / "generations").mkdir(exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "generations" / name)

    row = {"id": "r1", "sample_id": "s1", "repeat": 0, "launch": "1", "token_logprobs": '[{"token":"a"}]'}
    part("a-1.parquet", [{**row, "response": "first", "status": "ok", "seq": 1}])
    part("a-2.parquet", [{**row, "response": "second", "status": "ok", "seq": 2}])
    part("b-1.parquet", [{**row, "response": None, "status": "error", "launch": "2", "seq": 1}])
    response = asyncio.run(load_model(f"replay/{tmp_path}").generate(request()))

    assert (response.text, response.token_logprobs) == ("second", [{"token": "a"}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"response": "a", "id": 1}\n[1]', "row 2 is a list"),
        ('{"response": "a", "id": 1}\n\n{"resp', "row 3 is not JSON"),
        ("", "no rows"),
        ('{"answer": "a", "id": 1}', "no field 'response'.*answer"),
        ('{"response": "a", "index": 1}', "key=.*index"),
    ],
)
def test_a_file_that_is_no_recording_says_why(tmp_path, content, words):
    """Rows are numbered from 1; missing fields are named with those that there are."""
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(DataError, match=words):
        load_model(f"replay/{tmp_path}/r.jsonl")


def test_a_place_that_is_no_recording_says_why(tmp_path):
    """A missing file, another format, another machine and an unknown option each have their sentence."""
    with pytest.raises(DataError, match="there is no file"):
        load_model(f"replay/{tmp_path}/none.jsonl")
    (tmp_path / "r.txt").write_text("x")
    with pytest.raises(UsageError, match="no known format"):
        load_model(f"replay/{tmp_path}/r.txt")
    with pytest.raises(UsageError, match=r"not from s3://.*load_generation_records"):
        load_model("replay/s3://bucket/run")
    with pytest.raises(UsageError, match=r"no option respons; known:.*response"):
        load_model("replay/r.jsonl?respons=x")


@pytest.mark.parametrize("name", ["6b_finetuning", "175b_verification"])
def test_replays_the_graded_gsm8k_by_question(name):
    """Each of the 1,319 questions inside a few-shot prompt gets its own recorded solution, in under 5 seconds."""
    if "THEMIS_DATA" not in os.environ:
        pytest.skip("THEMIS_DATA is not set")
    path = Path(os.environ["THEMIS_DATA"], "gsm8k_graded", f"{name}.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    by_question = load_model(f"replay/{path}?response=solution&key=question")
    by_index = load_model(f"replay/{path}?response=solution&sample_id=index")
    example = f"Question: {rows[0]['question']}\nAnswer: 18\n\nQuestion: "
    start = time.perf_counter()
    asked = [request(f"{example}{row['question']}\nAnswer:", sample_id=str(row["index"])) for row in rows]

    async def texts(model):
        return [response.text for response in await model.generate_many(asked)]

    assert asyncio.run(texts(by_question)) == [row["solution"] for row in rows]
    assert asyncio.run(texts(by_index)) == [row["solution"] for row in rows]
    assert time.perf_counter() - start < 5


# The index


def test_the_index_finds_what_a_search_through_all_texts_finds():
    """Over random texts and prompts it gives the known text that ends last, the longest of those."""
    draw = random.Random(3)

    def text(longest):
        return "".join(draw.choices("ab ", k=draw.randint(1, longest)))

    for _ in range(300):
        known = {t for t in (text(30).strip() for _ in range(8)) if t}
        prompt = text(60)
        ends = [(prompt.rfind(t) + len(t), len(t), t) for t in known if t in prompt]

        assert TextIndex(known).last_in(prompt) == (max(ends)[2] if ends else None)


# Demo

QUESTIONS = [
    {"question": f"Ada has {n} apples and buys {n}. How many has she?", "answer": f"{2 * n:,}"} for n in range(1000)
]


def test_the_demo_answers_what_it_knows_and_is_wrong_by_one_on_its_share():
    """Answers are right, or wrong by one exactly where is_wrong() says, which is a fifth of them."""
    model = DemoModel(QUESTIONS)
    wrong = 0
    for row in QUESTIONS:
        given = answer(model, request(f"Question: {row['question']}\nAnswer:")).rsplit("#### ", 1)[1]
        off = int(given.replace(",", "")) - int(row["answer"].replace(",", ""))
        assert off == is_wrong(row["question"])
        wrong += off

    assert abs(wrong / len(QUESTIONS) - WRONG_SHARE) < 0.04


def test_the_demo_errs_elsewhere_at_another_repeat():
    """Which answers are wrong depends on the repeat, and on nothing else."""
    model = DemoModel(QUESTIONS)

    def answers(repeat):
        return [answer(model, request(row["question"], repeat=repeat)) for row in QUESTIONS[:100]]

    assert answers(0) == answers(0) != answers(1)


def test_the_demo_answers_the_last_question_of_the_last_user_message():
    """Examples before the question and earlier turns are not answered."""
    first, last = QUESTIONS[1]["question"], QUESTIONS[2]["question"]
    model = DemoModel(QUESTIONS)
    messages = [{"role": "user", "content": f"{first}\n{last}"}, {"role": "assistant", "content": first}]

    assert answer(model, request(messages=messages)) == answer(model, request(last))


def test_the_demo_says_what_it_does_not_know():
    """Any other prompt gets one fixed sentence and no number."""
    assert answer(DemoModel(QUESTIONS), request("Who wrote Faust?")) == UNKNOWN


def test_the_embedded_questions_are_known_to_the_demo():
    """load_model("demo") answers the questions that ship with the package."""
    question = "Kofi buys 302 maps on Monday, 269 on Tuesday and 132 on Friday. How many maps does Kofi buy in all?"
    model = load_model("demo")

    assert answer(model, request(question)).endswith(f"#### {703 + is_wrong(question)}")
    assert pickle.loads(pickle.dumps(model)).identity() == model.identity()
    assert model.identity() != DemoModel(QUESTIONS).identity()


def test_the_openai_class_can_be_made_by_hand():
    """A key may be given outright; it stays out of repr, and it comes before the environment's."""
    with ModelServer(api_key="given") as server:
        model = OpenAIModel("m", base_url=server.base_url, api_key="given")

        assert answer(model) == "ok"
    assert "given" not in repr(model)
