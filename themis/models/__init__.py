"""Language models behind APIs, in process, or recorded."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from themis.errors import UnknownNameError, UsageError
from themis.models.base import Model, Response
from themis.models.providers import OPENAI, PROVIDERS, Provider
from themis.registry import Registry, load_object, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from themis.models.demo import DemoModel
    from themis.models.function import CallableModel, ModelFunction
    from themis.models.openai import OpenAIModel
    from themis.models.replay import ReplayModel

__all__ = [
    "MODELS",
    "PROVIDERS",
    "CallableModel",
    "DemoModel",
    "Model",
    "OpenAIModel",
    "Provider",
    "ReplayModel",
    "Response",
    "load_model",
]

PROTOCOLS = {"openai": "themis.models.openai:OpenAIModel"}
"""What a provider may speak -> the model class that speaks it."""

MODELS: Registry[Provider | Callable[[str], Model]] = Registry(
    "model", {"demo": "themis.models:_demo", "replay": "themis.models.replay:load_replay", **PROVIDERS}
)
"""What may stand before the first slash of a model's name. Other packages add providers, or functions from
what stands behind the slash to a Model, as entry points "themis.models"."""

_CLASSES = {
    "CallableModel": "themis.models.function",
    "DemoModel": "themis.models.demo",
    "OpenAIModel": "themis.models.openai",
    "ReplayModel": "themis.models.replay",
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load_object(f"{_CLASSES[name]}:{name}")


def load_model(
    model: str | Model | ModelFunction,
    *,
    base_url: str | None = None,
    timeout: float = 600.0,
    max_retries: int = 5,
    name: str | None = None,
) -> Model:
    """The model that a name, a function or a Model stands for.

    Args:
        model: "provider/NAME"; a bare NAME, which is openai's; "demo"; "replay/PATH"; a function prompt ->
            text, plain or `async def`; or a Model, which is returned as it is.
        base_url: Where the model is served. With it, or $OPENAI_BASE_URL, all that follows a provider is the
            model's name, slashes and all, and a name that begins with no provider is whole.
        timeout: Seconds for one attempt of a request over HTTP.
        max_retries: How many times such a request is sent again at most.
        name: Identity of a function in this and other runs, where its code shall not be it.

    Raises:
        UnknownNameError: What stands before the slash is no provider.
        UsageError: The name is empty, or an option makes no sense for this kind of model.
    """
    if name is not None and (isinstance(model, str | Model) or not callable(model)):
        raise UsageError(f"name={name!r} is for functions; {model!r} has a name of its own")
    if isinstance(model, str):
        return _by_name(model.strip(), base_url, timeout, max_retries)
    if base_url is not None:
        raise UsageError(f"base_url={base_url!r} is for models named by text, not for {model!r}")
    if isinstance(model, Model):
        return model
    if inspect.isclass(model) or not callable(model):
        raise UsageError(
            f"model={model!r} is no model; give a name like 'openai/gpt-4o', a function prompt -> text, "
            "or an instance of a Model class"
        )
    return load_object("themis.models.function:CallableModel")(model, name=name)  # type: ignore[no-any-return]


def _by_name(text: str, base_url: str | None, timeout: float, max_retries: int) -> Model:
    entry, rest = _split(text, base_url)
    if isinstance(entry, Provider):
        protocol = load_object(PROTOCOLS[entry.protocol])
        return protocol(rest, provider=entry, base_url=base_url, timeout=timeout, max_retries=max_retries)  # type: ignore[no-any-return]
    if base_url is not None:
        raise UsageError(f"base_url={base_url!r} has no meaning for {text!r}; a served model is called openai/NAME")
    return entry(rest)


def _split(text: str, base_url: str | None) -> tuple[Provider | Callable[[str], Model], str]:
    """What a model's name begins with, and the rest of it."""
    first, slash, rest = text.partition("/")
    if not text or (slash and not first):
        raise UsageError(f"model={text!r} is empty; write provider/NAME, for example openai/gpt-4o")
    if text == "demo":
        return MODELS.get(text), rest
    known = first in MODELS.names()
    if known and not rest.strip():
        raise UsageError(f"model={text!r} names no model; write {first}/NAME")
    if known:
        return MODELS.get(first), rest
    if not slash or OPENAI.address(base_url) != OPENAI.base_url:
        return OPENAI, text
    raise UnknownNameError(
        f"{unknown('model provider', first, MODELS.names())} For {text!r} on a server of your own give "
        "base_url= (or OPENAI_BASE_URL)."
    )


def _demo(rest: str) -> Model:
    if rest:
        raise UsageError(f"model='demo/{rest}' names nothing; the demonstration model is called demo")
    return load_object("themis.models.demo:DemoModel")()  # type: ignore[no-any-return]
