"""Who serves models, where, and how each wants to be spoken to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from themis.errors import UsageError


@dataclass(frozen=True)
class Provider:
    """One service, or one kind of server on this machine.

    Attributes:
        name: What stands before the first slash of a model's name.
        base_url: Its address without a trailing slash, up to what stands before "/chat/completions".
        key_env: The environment variable that holds its key.
        needs_key: Whether `base_url` answers only to a key. A base_url of the user's own never has to.
        protocol: What it speaks; `themis.models.PROTOCOLS` says who speaks it.
        max_tokens_param: What its chat API calls the largest number of tokens to generate.
        base_url_env: The environment variable that replaces `base_url`.
    """

    name: str
    base_url: str
    key_env: str | None = None
    needs_key: bool = True
    protocol: Literal["openai"] = "openai"
    max_tokens_param: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    base_url_env: str | None = None

    def address(self, base_url: str | None = None) -> str:
        """The base URL to use: the given one, the environment's, else the provider's own.

        Raises:
            UsageError: It is no http(s) URL, or it carries a password or a query, which records would show.
        """
        given = base_url or (os.environ.get(self.base_url_env) if self.base_url_env else None)
        return checked_base_url(given) if given else self.base_url


def checked_base_url(base_url: str) -> str:
    """The base URL without a trailing slash.

    Raises:
        UsageError: It is no http(s) URL, or it carries a password or a query, which records would show.
    """
    parts = urlsplit(base_url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"base_url={base_url!r} is no address; write it like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"the base_url for {parts.hostname} carries a user, a password or a query, which every "
            "record would show; give the address alone, and the key in the provider's environment variable"
        )
    return base_url.strip().rstrip("/")


OPENAI = Provider(
    "openai",
    "https://api.openai.com/v1",
    "OPENAI_API_KEY",
    max_tokens_param="max_completion_tokens",
    base_url_env="OPENAI_BASE_URL",
)

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        OPENAI,
        Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        Provider("deepseek", "https://api.deepseek.com", "DEEPSEEK_API_KEY"),
        Provider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        Provider("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        Provider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        Provider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        Provider("together", "https://api.together.ai/v1", "TOGETHER_API_KEY"),
        Provider("xai", "https://api.x.ai/v1", "XAI_API_KEY"),
        Provider("llamacpp", "http://localhost:8080/v1", "LLAMA_API_KEY", needs_key=False),
        Provider("lmstudio", "http://localhost:1234/v1", needs_key=False),
        Provider("ollama", "http://localhost:11434/v1", needs_key=False),
        Provider("sglang", "http://localhost:30000/v1", needs_key=False),
        Provider("vllm", "http://localhost:8000/v1", "VLLM_API_KEY", needs_key=False),
    )
}
"""What `load_model` knows by itself; other packages add their own as entry points "themis.models"."""
