"""The job: `themis eval` with Ray as its backend, on the cluster that it is started on.

    python job.py gsm8k --model openai/gpt-4o --storage s3://BUCKET/runs

Arguments and exit code are those of `themis eval`. A script, because that is what `ray submit` takes.
"""

import os
import sys

from themis.cli import main

if __name__ == "__main__":
    # `ray job submit` names the cluster. `ray submit` only logs in on the head, and a Ray of its own would start there.
    os.environ.setdefault("RAY_ADDRESS", "auto")
    main(["eval", *sys.argv[1:], "--backend", "ray"])
