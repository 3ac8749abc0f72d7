"""Logs in the true layout of other tools, written by hand: what lm-eval 0.4 and Inspect 0.3 leave behind."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import pyarrow as pa

TIME = "2026-11-24T23-13-27.147768"


def write_lm_eval(folder, task, rows, **results):
    """The path of a log of samples, with the results beside it."""
    model = folder / "some__model"
    model.mkdir(parents=True, exist_ok=True)
    path = model / f"samples_{task}_{TIME}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    known = {
        "results": {task: {"alias": task, "exact_match,strict": 0.5}},
        "configs": {task: {"target_delimiter": " "}},
        "versions": {task: 3.0},
        "n-shot": {task: 5},
        "config": {"model": "hf", "model_args": {"pretrained": "some/model", "revision": "main", "token": "SECRET"}},
        "date": 1795562006.5,
        "model_name": "some/model",
        "lm_eval_version": "0.4.13",
    }
    (model / f"results_{TIME}.json").write_text(json.dumps({**known, **results}), "utf-8")
    return path


def generated_row(number, question, target, responses, answer, score, chosen="strict", **more):
    """One row of a task that generates, by one filter."""
    settings = {"until": ["\n"], "do_sample": True, "temperature": 0.5, "max_gen_toks": 64}
    return {
        "doc_id": number,
        "doc": {"question": question, "subject": "sums"},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": f"Q: {question}\nA:", "arg_1": settings}},
        "resps": [responses],
        "filtered_resps": [answer],
        "filter": chosen,
        "metrics": ["exact_match"],
        "doc_hash": "d",
        "prompt_hash": "p",
        "target_hash": "t",
        "exact_match": score,
        **more,
    }


def choice_row(number, choices, logprobs, target, **scores):
    """One row of a task with choices; lm-eval writes log-likelihoods as text."""
    arguments = {f"gen_args_{n}": {"arg_0": "Q:", "arg_1": f" {choice}"} for n, choice in enumerate(choices)}
    return {
        "doc_id": number,
        "doc": {"choices": choices},
        "target": str(target),
        "arguments": arguments,
        "resps": [[[str(value), "False"]] for value in logprobs],
        "filtered_resps": [[str(value), "False"] for value in logprobs],
        "filter": "none",
        "metrics": list(scores),
        **scores,
    }


def inspect_head(status="success", sample_ids=(), **more):
    """What stands at the head of a log."""
    return {
        "version": 2,
        "status": status,
        "eval": {
            "task": "sums",
            "task_version": 0,
            "created": "2026-11-24T23:14:21+00:00",
            "model": "mockllm/model",
            "model_generate_config": {},
            "dataset": {"samples": len(sample_ids), "sample_ids": list(sample_ids)},
            "packages": {"inspect_ai": "0.3.285"},
        },
        "plan": {
            "steps": [{"solver": "generate"}],
            "config": {"temperature": 0.5, "max_tokens": 20, "seed": None},
        },
        **more,
    }


def inspect_sample(name, epoch, question, target, response, scores, **more):
    """One sample as Inspect writes it; an error where there is no response."""
    asked = {"id": "q", "content": question, "source": "input", "role": "user"}
    message = {"id": "a", "content": response, "role": "assistant", "model": "mockllm/model"}
    choices = [{"message": message, "stop_reason": "stop"}] if response is not None else []
    return {
        "id": name,
        "epoch": epoch,
        "input": question,
        "target": target,
        "messages": [{"id": "s", "content": "Be brief.", "role": "system"}, asked, *[message][: len(choices)]],
        "output": {"model": "mockllm/model", "choices": choices, "completion": response or "", "time": 0.25},
        "scores": scores,
        "metadata": {"subject": "sums"},
        "events": [{"event": "model"}],
        "attachments": {},
        "model_usage": {"mockllm/model": {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}},
        "started_at": "2026-11-24T23:14:21+00:00",
        "total_time": 0.5,
        **more,
    }


def write_eval(path, head, samples, *, zstd=True, finished=True):
    """The path of an .eval: a zip, compressed as Inspect does it today (zstd) or did before."""
    members = {f"samples/{sample['id']}_epoch_{sample['epoch']}.json": sample for sample in samples}
    members["header.json" if finished else "_journal/start.json"] = head
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED if zstd else zipfile.ZIP_DEFLATED) as log:
        for name, value in members.items():
            text = json.dumps(value).encode()
            log.writestr(name, pa.Codec("zstd").compress(text, asbytes=True) if zstd else text)
    path.write_bytes(_as_zstd(data.getvalue()) if zstd else data.getvalue())
    return path


def _as_zstd(data):
    """The zip whose members, stored as they are, say that they are zstd: zipfile writes none before Python 3.14."""
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = data.find(mark)
        while place >= 0:
            struct.pack_into("<H", changed, place + offset, 93)
            place = data.find(mark, place + 4)
    return bytes(changed)
