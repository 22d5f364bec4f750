"""A client of any server with OpenAI's chat API, for programs of ours that want an answer and not the protocol."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from almanac.runtime.errors import RunFailed, UserError

Messages = str | Sequence[Mapping[str, Any]]
"""A question, or a conversation of role and content."""


class ChatClient:
    """Asks a server.

    Args:
        base_url: up to `/v1`.
        model: its name; empty: the server's first.
        api_key: what it wants to know; empty: nothing.
        seconds: to wait for an answer.
    """

    def __init__(
        self, base_url: str = "http://127.0.0.1:8000/v1", model: str = "", api_key: str = "", seconds: float = 300.0
    ):
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url.rstrip("/") + "/", headers=headers, timeout=seconds)
        self._model = model

    @property
    def model(self) -> str:
        """The model that answers."""
        if not self._model:
            self._model = self._sent("GET", "models")["data"][0]["id"]
        return self._model

    def chat(self, messages: Messages, **more: Any) -> str:
        """An answer.

        Args:
            messages: a question, or a conversation.
            more: further fields of the API: max_tokens, temperature, response_format …

        Raises:
            UserError: the server can't be reached, or refused.
        """
        return self.reply(messages, **more)["content"] or ""

    def reply(self, messages: Messages, **more: Any) -> dict[str, Any]:
        """The whole message of an answer, with calls of tools; arguments as in `chat`."""
        return self._sent("POST", "chat/completions", self._body(messages, more))["choices"][0]["message"]

    def stream(self, messages: Messages, **more: Any) -> Iterator[str]:
        """The pieces of an answer as they come; arguments as in `chat`."""
        body = {**self._body(messages, more), "stream": True}
        try:
            with self._http.stream("POST", "chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                    raise self._refused(response)
                for line in response.iter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise RunFailed(event["error"]["message"], "ask again")
                    for choice in event["choices"]:
                        if choice["delta"].get("content"):
                            yield choice["delta"]["content"]
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def complete(self, prompt: str, **more: Any) -> str:
        """How a text goes on."""
        return self._sent("POST", "completions", {"model": self.model, "prompt": prompt, **more})["choices"][0]["text"]

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _body(self, messages: Messages, more: Mapping[str, Any]) -> dict[str, Any]:
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        return {"model": self.model, "messages": said, **more}

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise self._refused(response)
        return response.json()

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"{self._http.base_url} can't be reached ({error})", "start a server: `almanac chat serve MODEL`"
        )

    def _refused(self, response: httpx.Response) -> UserError:
        try:
            reason = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            reason = response.text[:200]
        return UserError(f"{self._http.base_url} answered {response.status_code}", reason)
