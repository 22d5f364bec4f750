"""What Studio hands to each system's page, and how a page's handlers tell of errors. A page imports nothing of Studio, and Studio
knows nothing of a page but its `build(services)`; both import this."""

import functools
import html
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast

from almanac.runtime.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

ONE_AT_A_TIME = "compute"
"""The `concurrency_id` of a page's events that compute: of them, one runs at a time and the others queue."""


@dataclass(frozen=True)
class Services:
    """What a page may use besides its own system."""

    device: str = "auto"
    """Where pages compute: `auto`, `cpu`, `cuda` or `cuda:N`."""


def tells_errors(handler: Callable[P, R]) -> Callable[P, R]:
    """Make a page's event handler show a `UserError` as a message of two lines, and a defect of ours without its traceback,
    which goes to the log. A handler that is an asynchronous generator stays one."""

    @functools.wraps(handler)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        with _telling():
            return handler(*args, **kwargs)

    @functools.wraps(handler)
    async def told_on_the_way(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        with _telling():
            async with aclosing(cast(Any, handler)(*args, **kwargs)) as parts:
                async for part in parts:
                    yield part

    return cast(Any, told_on_the_way) if inspect.isasyncgenfunction(handler) else told


@contextmanager
def _telling() -> Iterator[None]:
    import gradio

    try:
        yield
        return
    except UserError as error:
        what, hint = error.what, error.hint
    except gradio.Error:
        raise
    except Exception:
        logging.getLogger(__name__).exception("a page's handler failed")
        what, hint = "something went wrong here", "it is our defect, and stands in the server's log"
    raise gradio.Error(f"<strong>{_sentence(what)}</strong><br>{_sentence(hint)}", print_exception=False)


def _sentence(text: str) -> str:
    return html.escape(text[:1].upper() + text[1:])
