"""Logs of lm-eval and of Inspect become runs that can be scored, compared and kept."""

from __future__ import annotations

import json
import zipfile

import pytest
from other_tools import (
    choice_row,
    generated_row,
    inspect_head,
    inspect_sample,
    write_eval,
    write_lm_eval,
)

from themis import compare, evaluate, score
from themis.backends import FsspecStorageBackend
from themis.cli import run
from themis.errors import DataError, RunMismatchError, UnknownNameError, UsageError
from themis.importing import import_inspect, import_lm_eval, import_log

GENERATED = [
    generated_row(0, "2 + 3?", "5", ["It is 5."], "5", 1.0),
    generated_row(1, "7 * 6?", "42", ["none"], "[invalid]", 0.0),
    generated_row(0, "2 + 3?", "5", ["It is 5."], "It is 5.", 0.0, chosen="whole"),
    generated_row(1, "7 * 6?", "42", ["none"], "none", 0.0, chosen="whole"),
]


@pytest.fixture
def storage(tmp_path):
    """A storage in an empty folder."""
    with FsspecStorageBackend((tmp_path / "runs").as_uri()) as store:
        yield store


def by_pair(records):
    """Records by the ids of their samples and the numbers of the repeats."""
    return {(record.sample_id, record.repeat): record for record in records}


def test_answers_of_lm_eval(tmp_path, storage):
    """One generation for each document, whatever the filters, with prompt, parameters and model."""
    found = import_lm_eval(write_lm_eval(tmp_path, "sums", GENERATED), storage_backend=storage)

    generations = by_pair(found.generations)
    assert generations.keys() == {("0", 0), ("1", 0)}
    first = generations["0", 0]
    assert (first.prompt, first.response, first.kind) == ("Q: 2 + 3?\nA:", "It is 5.", "completion")
    assert first.params == {"stop": ["\n"], "do_sample": True, "temperature": 0.5, "max_tokens": 64}
    assert (first.benchmark, first.model, first.group) == ("sums", "some/model", "sums")
    samples = {sample.id: sample for sample in found.samples}
    assert (samples["1"].target, samples["1"].metadata["question"]) == ("42", "7 * 6?")


def test_scores_of_lm_eval(tmp_path, storage):
    """One score for each filter, under a name that is not ours; what a filter found is the answer, or none."""
    found = import_lm_eval(write_lm_eval(tmp_path, "sums", GENERATED), storage_backend=storage)

    assert found.metrics == {"lm-eval:exact_match,strict": 0.5, "lm-eval:exact_match,whole": 0.0}
    result = found.report.metrics["lm-eval:exact_match,strict"]
    assert (result.n_scored, result.n_attempted, result.n_unanswered) == (2, 2, 1)
    scored = [record for record in found.evaluations if record.metric == "lm-eval:exact_match,strict"]
    assert {record.scorer for record in scored} == {"lm-eval:exact_match,strict@3.0"}
    assert by_pair(scored)["0", 0].answer == "5"
    assert by_pair(scored)["1", 0].answer is None


def test_what_a_run_keeps_of_lm_eval(tmp_path, storage):
    """The run has the tool, its numbers over all and the shots, and nothing of the arguments that may be a key."""
    found = import_lm_eval(write_lm_eval(tmp_path, "sums", GENERATED), storage_backend=storage)

    metadata = storage.load_run_metadata(found.run_id)
    assert metadata["imported"]["results"]["exact_match,strict"] == 0.5
    assert (metadata["imported"]["n-shot"], metadata["imported"]["version"]) == (5, "0.4.13")
    assert metadata["config"]["model"] == {
        "provider": "lm-eval",
        "name": "some/model",
        "source": "hf",
        "revision": "main",
    }
    assert "SECRET" not in json.dumps(metadata) + json.dumps(vars(found.report), default=dict)


def test_repeats_of_lm_eval(tmp_path, storage):
    """Several responses of a document are repeats, and its score, over all of them, is one of the sample."""
    rows = [generated_row(n, "?", "5", ["5", "6", "5"], "5", n % 2) for n in range(4)]
    found = import_lm_eval(write_lm_eval(tmp_path, "sums", rows), storage_backend=storage)

    assert len(found.generations) == 12
    assert (found.report.n_rows, found.report.n_repeats) == (4, 3)
    result = found.report.metrics["lm-eval:exact_match,strict"]
    assert (result.mean, result.n_scored, result.n_attempted) == (0.5, 4, 4)
    assert {len(record.generation_ids) for record in found.evaluations} == {3}
    again = score(found.run_id, "exact_match", storage_backend=storage)
    assert again.metrics["exact_match"] == pytest.approx(2 / 3)


def test_chats_of_lm_eval(tmp_path, storage):
    """Messages, which lm-eval keeps as JSON text in a list, are messages again."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    row = generated_row(0, "2 + 3?", "5", ["5"], "5", 1.0)
    row["arguments"]["gen_args_0"]["arg_0"] = [json.dumps(messages)]
    found = import_lm_eval(write_lm_eval(tmp_path, "sums", [row]), storage_backend=storage)

    (generation,) = found.generations
    assert (generation.kind, generation.messages) == ("chat", messages)


def test_choices_of_lm_eval(tmp_path, storage):
    """Log-likelihoods of choices are numbers again, and answer and target are letters, by each metric's own length."""
    rows = [choice_row(0, ["four", "5"], [-2.0, -1.9], 0, acc=0.0, acc_norm=1.0)]
    found = import_lm_eval(write_lm_eval(tmp_path, "letters", rows), storage_backend=storage)

    (generation,), (sample,) = found.generations, found.samples
    assert (generation.kind, generation.response) == ("loglikelihood", None)
    assert (generation.choice_logprobs, generation.choice_is_greedy) == ([-2.0, -1.9], [False, False])
    assert (sample.choices, sample.target) == (["four", "5"], "A")
    assert {record.metric: record.answer for record in found.evaluations} == {
        "lm-eval:acc": "B",
        "lm-eval:acc_norm": "A",
    }
    ours = score(found.run_id, ["acc", "acc_norm"], storage_backend=storage).metrics
    assert ours == {"lm-eval:acc": 0.0, "lm-eval:acc_norm": 1.0, "acc": 0.0, "acc_norm": 1.0}


def test_log_likelihoods_without_a_number(tmp_path, storage):
    """An infinite one, which no storage keeps, is left out and said; the others are kept."""
    row = choice_row(0, ["a", "b"], ["-inf", -1.5], 1, acc=1.0)
    found = import_lm_eval(write_lm_eval(tmp_path, "x", [row]), storage_backend=storage)
    assert found.generations[0].choice_logprobs == [None, -1.5]
    assert found.left_out == {"log-likelihoods that are not finite": 1}


def test_contexts_that_differ(tmp_path, storage):
    """Where each choice has a context of its own, all contexts are kept."""
    row = choice_row(0, ["a", "b"], [-1.0, -2.0], 0, acc=1.0)
    row["arguments"]["gen_args_1"]["arg_0"] = "Other:"
    (generation,) = import_lm_eval(write_lm_eval(tmp_path, "x", [row]), storage_backend=storage).generations
    assert generation.metadata == {"contexts": ["Q:", "Other:"]}


def test_whole_texts_of_lm_eval(tmp_path, storage):
    """Scores that are no numbers for one answer are left out, counted and said; the log-likelihoods are kept."""
    row = choice_row(0, ["x"], [-0.5], 0, word_perplexity=[-0.5, 3])
    row["arguments"] = {"gen_args_0": {"arg_0": "Once."}}
    row["resps"] = [["-0.5"]]
    found = import_lm_eval(write_lm_eval(tmp_path, "texts", [row, row | {"doc_id": 1}]), storage_backend=storage)

    assert [generation.choice_logprobs for generation in found.generations] == [[-0.5], [-0.5]]
    assert found.left_out == {"scores by lm-eval:word_perplexity: a list is no number for one answer": 2}
    assert "a list is no number for one answer (2 times)" in str(found)


def test_the_earlier_layout_of_lm_eval(tmp_path, storage):
    """In earlier releases arguments stood in lists, values were no text, and neither filter nor metrics had names."""
    old = {
        "doc_id": 0,
        "doc": {"choices": ["a", "b"]},
        "target": 1,
        "arguments": [["Q:", " a"], ["Q:", " b"]],
        "resps": [[[-2.0, False]], [[-1.0, True]]],
        "filtered_resps": [[-2.0, False], [-1.0, True]],
        "acc": 1.0,
    }
    path = tmp_path / "letters.jsonl"
    path.write_text(json.dumps(old) + "\n")
    found = import_lm_eval(path, storage_backend=storage)

    (generation,) = found.generations
    assert (generation.choice_is_greedy, generation.model) == ([False, True], "unknown")
    assert (found.metrics, found.samples[0].target) == ({"lm-eval:acc": 1.0}, "B")


def test_ids_and_benchmark_of_ones_own(tmp_path, storage):
    """A field of the documents may be the id, and the benchmark may have the name that it has here."""
    path = write_lm_eval(tmp_path, "sums", GENERATED)
    found = import_lm_eval(path, benchmark="quiz", id_field="question", storage_backend=storage)
    assert {sample.id for sample in found.samples} == {"2 + 3?", "7 * 6?"}
    assert {generation.benchmark for generation in found.generations} == {"quiz"}
    with pytest.raises(DataError, match="no field 'key'; it has question, subject"):
        import_lm_eval(path, run_id="other", id_field="key", storage_backend=storage)


SAMPLES = [
    inspect_sample("b", 1, "2 + 3?", "5", "It is 5.", {"match": {"value": "C", "answer": "5", "explanation": "yes"}}),
    inspect_sample("b", 2, "2 + 3?", "5", "6", {"match": {"value": "I", "answer": "6"}}),
    inspect_sample("a", 1, "7 * 6?", ["42", "forty-two"], "42", {"match": {"value": "C", "answer": "42"}}),
    inspect_sample(
        "a", 2, "7 * 6?", ["42", "forty-two"], None, {}, error={"message": "TimeoutError('slow')", "traceback": "..."}
    ),
]


@pytest.mark.parametrize("form", ["zstd", "deflate", "json"])
def test_samples_of_inspect(tmp_path, storage, form):
    """Epochs are repeats, in either format and compression; prompts, parameters, tokens and times are taken over."""
    head = inspect_head(sample_ids=["b", "a"])
    path = tmp_path / ("log.json" if form == "json" else "log.eval")
    if form == "json":
        path.write_text(json.dumps({**head, "samples": SAMPLES}))
    else:
        write_eval(path, head, SAMPLES, zstd=form == "zstd")
    found = import_inspect(path, storage_backend=storage)

    generations = by_pair(found.generations)
    assert generations.keys() == {("b", 0), ("b", 1), ("a", 0), ("a", 1)}
    first = generations["b", 0]
    assert first.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}]
    assert (first.response, first.finish_reason, first.params) == (
        "It is 5.",
        "stop",
        {"temperature": 0.5, "max_tokens": 20},
    )
    assert (first.input_tokens, first.output_tokens, first.latency, first.started_at) == (10, 3, 0.25, 1795562061.0)
    assert {sample.id: sample.target for sample in found.samples} == {"b": "5", "a": ["42", "forty-two"]}
    assert found.left_out == {"transcripts of samples (their events)": 4}


def test_scores_of_inspect(tmp_path, storage):
    """A sample that ended in an error is in the denominator, where Inspect's own number leaves it out."""
    found = import_inspect(write_eval(tmp_path / "log.eval", inspect_head(), SAMPLES), storage_backend=storage)

    result = found.report.metrics["inspect:match"]
    assert (result.mean, result.n_scored, result.n_attempted) == (2 / 3, 3, 4)
    assert (result.errors, result.bound_low, result.bound_high) == ({"infrastructure": 1}, 0.5, 0.75)
    lost = by_pair(found.generations)["a", 1]
    assert (lost.status, lost.error_type, lost.error_message) == ("error", "TimeoutError", "TimeoutError('slow')")
    (record,) = [each for each in found.evaluations if each.score == 1 and each.sample_id == "b"]
    assert (record.scorer, record.answer, record.explanation) == ("inspect:match@0.3.285", "5", "yes")


def test_values_of_inspect(tmp_path, storage):
    """Grades and words are their numbers, objects several metrics, and other text is left out and said."""
    scores = {
        "grade": {"value": "P", "answer": "x"},
        "word": {"value": "yes"},
        "two": {"value": {"good": 1, "long": 0.5}},
        "list": {"value": [0.25]},
        "letter": {"value": "B+"},
        "none": {"value": None},
    }
    samples = [inspect_sample(1, 1, "q", "t", "The answer", scores)]
    found = import_inspect(write_eval(tmp_path / "log.eval", inspect_head(), samples), storage_backend=storage)

    assert found.metrics == {
        "inspect:grade": 0.5,
        "inspect:word": 1.0,
        "inspect:two.good": 1.0,
        "inspect:two.long": 0.5,
        "inspect:list.0": 0.25,
    }
    assert set(found.left_out) == {
        "scores by inspect:letter: text is no number for one answer",
        "scores by inspect:none: null is no number for one answer",
        "transcripts of samples (their events)",
    }
    assert {record.answer for record in found.evaluations} == {"x", "The answer"}


def test_conversations_of_inspect(tmp_path, storage):
    """The last answer is the response, what was before it the prompt; reasoning and long texts are put in place."""
    turns = [
        {"id": "1", "role": "user", "content": "attachment://long"},
        {"id": "2", "role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "c", "function": "look"}]},
        {"id": "3", "role": "tool", "content": "seen", "tool_call_id": "c"},
        {"id": "4", "role": "assistant", "content": [{"type": "reasoning", "reasoning": "Hm."},
                                                     {"type": "text", "text": "Done."}]},
        {"id": "5", "role": "user", "content": "Thanks"},
    ]  # fmt: skip
    output = {"model": "m", "choices": [{"message": turns[3], "stop_reason": "stop"}]}
    sample = inspect_sample("x", 1, "attachment://long", "t", "", {}, messages=turns, output=output)
    sample["attachments"] = {"long": "A long question"}
    found = import_inspect(write_eval(tmp_path / "log.eval", inspect_head(), [sample]), storage_backend=storage)

    (generation,) = found.generations
    assert (generation.response, generation.reasoning) == ("Done.", "Hm.")
    assert [message["role"] for message in generation.messages] == ["user", "assistant", "tool"]
    assert generation.messages[0]["content"] == found.samples[0].input == "A long question"
    assert "messages after the last answer of a sample" in found.left_out


def test_a_log_that_inspect_did_not_end(tmp_path, storage):
    """The samples of an evaluation that was killed are taken over, and the report says that it was interrupted."""
    path = write_eval(tmp_path / "log.eval", inspect_head("started"), SAMPLES[:1], finished=False)
    found = import_inspect(path, storage_backend=storage)
    assert (found.report.status, found.metrics) == ("interrupted", {"inspect:match": 1.0})


def test_an_imported_run_is_scored(tmp_path, storage):
    """Our metrics stand beside the other tool's, computed from the stored answers."""
    found = import_inspect(write_eval(tmp_path / "log.eval", inspect_head(), SAMPLES), storage_backend=storage)
    result = score(found.run_id, "contains", storage_backend=storage)
    assert result.metrics == {"inspect:match": 2 / 3, "contains": 2 / 3}
    assert result.report.metrics["contains"].errors == {"infrastructure": 1}


def test_an_imported_run_is_compared(tmp_path, storage):
    """A run of lm-eval and one of our own, of the same questions, are paired once they share a metric."""
    rows = [generated_row(n, f"{n} + 1?", str(n + 1), [str(n + n % 2)], "?", 0.0) for n in range(6)]
    theirs = import_lm_eval(write_lm_eval(tmp_path, "sums", rows), storage_backend=storage)
    score(theirs.run_id, "exact_match", storage_backend=storage)
    data = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(6)]
    ours = evaluate(data, lambda prompt: str(int(prompt.split()[0]) + 1), storage_backend=storage)

    allowed = ["benchmark", "data", "prompt", "params", "version", "scorer"]
    found = compare(theirs.run_id, ours.run_id, storage_backend=storage, allow_different=allowed)
    (difference,) = [each for each in found.differences if each.metric == "exact_match"]
    assert (difference.n_paired, difference.difference) == (6, 0.5)


def test_a_log_is_imported_once(tmp_path, storage):
    """The same log again, and another log under the id, are refused, and the sentence says what to do."""
    path = write_lm_eval(tmp_path, "sums", GENERATED)
    first = import_lm_eval(path, run_id="mine", storage_backend=storage)
    assert first.run_id == "mine"
    with pytest.raises(RunMismatchError, match="is imported already, as the run 'mine'; delete that run first"):
        import_lm_eval(path, run_id="mine", storage_backend=storage)
    other = write_eval(tmp_path / "log.eval", inspect_head(), SAMPLES)
    with pytest.raises(RunMismatchError, match=r"is an import of samples_sums_.*, not of log.eval: give another"):
        import_inspect(other, run_id="mine", storage_backend=storage)
    assert import_inspect(other, storage_backend=storage).run_id.startswith("sums-mockllm-model-")


def test_an_import_that_was_cut_off_goes_on(tmp_path, storage, monkeypatch):
    """What was saved before is not there twice when the same log is imported again."""
    path = write_lm_eval(tmp_path, "sums", GENERATED)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_report", fail)
        with pytest.raises(KeyboardInterrupt):
            import_lm_eval(path, run_id="mine", storage_backend=storage)
    found = import_lm_eval(path, run_id="mine", storage_backend=storage)
    assert (len(found.generations), len(found.evaluations), found.report.status) == (2, 4, "complete")


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("samples_x.jsonl", '{"question": "?"}\n', DataError, "row 1 has question; a log of lm-eval's samples has"),
        ("samples_x.jsonl", '{"doc_id": 0, "arguments": [], "resps": []}\n', DataError, "IndexError"),
        ("samples_x.jsonl", "no JSON\n", DataError, "line 1 is not JSON"),
        ("samples_x.jsonl", "", DataError, "there are no rows"),
        ("results_x.json", "{}", UsageError, "give the samples_"),
        ("log.json", "[]", DataError, "it is no log of Inspect"),
        ("log.json", "{", DataError, "log.json"),
        ("log.eval", "PK", DataError, "not a zip file"),
        ("log.txt", "", UsageError, "does not say which tool wrote it"),
    ],
)
def test_what_is_no_log(tmp_path, storage, name, text, error, message):
    """What is not a log is refused with its name and the reason, and leaves no run behind."""
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        import_log(tmp_path / name, storage_backend=storage)
    assert all(storage.load_launches(run_id)[-1].get("ended_at") is None for run_id in storage.list_runs())


def test_rows_that_are_wrong_are_named(tmp_path, storage):
    """A row in the middle of a log that is not as lm-eval writes it is said by its number."""
    path = write_lm_eval(tmp_path, "sums", [GENERATED[0], {**GENERATED[1], "resps": None}])
    with pytest.raises(DataError, match=r"samples_sums_.*: row 2 is not as lm-eval writes it"):
        import_lm_eval(path, storage_backend=storage)
    path = write_eval(tmp_path / "log.eval", inspect_head(), [{**SAMPLES[0], "scores": {"x": {}}}])
    with pytest.raises(DataError, match=r"log.eval: sample 1 is not as Inspect writes it \(KeyError: 'value'\)"):
        import_inspect(path, storage_backend=storage)


def test_two_answers_in_one_place(tmp_path, storage):
    """Two different answers to one sample are refused, not dropped: a log of two runs, or ids that are not unique."""
    other = generated_row(0, "2 + 3?", "5", ["It is 6."], "6", 0.0)
    path = write_lm_eval(tmp_path, "sums", [*GENERATED, other])
    with pytest.raises(DataError, match="sample '0' has two different answers as its repeat 0: the log is of several"):
        import_lm_eval(path, storage_backend=storage)


def test_a_damaged_sample_is_named(tmp_path, storage):
    """A sample of an .eval that is no JSON is said by the name that it has there."""
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as log:
        log.writestr("header.json", json.dumps(inspect_head()))
        log.writestr("samples/b_epoch_1.json", '{"id": "b"')
    with pytest.raises(DataError, match=r"log.eval: samples/b_epoch_1.json is not as Inspect writes it \(JSONDecode"):
        import_inspect(tmp_path / "log.eval", storage_backend=storage)


def test_wrong_options(tmp_path, storage):
    """A format that does not exist, and an option of the other tool, are said."""
    path = write_eval(tmp_path / "log.eval", inspect_head(), SAMPLES)
    with pytest.raises(UnknownNameError, match="Did you mean 'lm-eval'"):
        import_log(path, "lmeval", storage_backend=storage)
    with pytest.raises(UsageError, match="id_field is for logs of lm-eval"):
        import_log(path, id_field="x", storage_backend=storage)


def test_the_command(tmp_path, monkeypatch, capsys):
    """`themis import` prints each run's numbers and what was left out; errors of samples make the exit code 3."""
    monkeypatch.chdir(tmp_path)
    first = str(write_lm_eval(tmp_path, "sums", GENERATED))
    second = str(write_eval(tmp_path / "log.eval", inspect_head(), SAMPLES))

    assert run(["import", first, second, "--storage", "runs"]) == 3
    out = capsys.readouterr().out
    assert "lm-eval:exact_match,strict" in out
    assert "left out: transcripts of samples (their events) (4 times)" in out
    assert run(["import", first, "--storage", "runs", "--run-id", "again"]) == 0
    assert run(["import", first, second, "--storage", "runs", "--run-id", "x"]) == 2
    assert "--run-id x is for one log, and 2 are given" in capsys.readouterr().err
    assert run(["score", "again", "--storage", "runs", "--metric", "number_match"]) == 0
