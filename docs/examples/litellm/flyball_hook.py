"""Holds LiteLLM's calls to Flyball's budgets, and routes them as Flyball decides.

Name it in LiteLLM's configuration:  litellm_settings: {callbacks: flyball_hook.flyball}
FLYBALL_URL and FLYBALL_TOKEN say where Flyball's gateway is, and who asks: a token of the scope decide.
Leave LiteLLM's own log to /v1/litellm off: each call is recorded when it is settled here.
"""

import asyncio
import json
import os
import urllib.error
import urllib.request
import uuid

from litellm.integrations.custom_logger import CustomLogger

URL = os.environ.get("FLYBALL_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("FLYBALL_TOKEN", "")
FAIL_OPEN = os.environ.get("FLYBALL_FAIL_OPEN", "") == "1"


class Refused(Exception):
    """LiteLLM answers its client with the status and the message."""

    def __init__(self, refusal):
        self.status_code = self.code = refusal["status"]
        self.detail = refusal["body"]
        self.message = refusal["body"]["error"]["message"]
        super().__init__(self.message)


def post(path, body):
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = "Bearer " + TOKEN
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return json.load(answer)


def get(obj, name, default=None):
    value = obj.get(name) if isinstance(obj, dict) else getattr(obj, name, None)
    return default if value is None else value


class Flyball(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        metadata = data.setdefault("metadata", {})
        question = {
            "tenant_id": get(user_api_key_dict, "team_id") or "default",
            "key": get(user_api_key_dict, "key_alias") or "",
            "trace_id": data.get("litellm_trace_id") or uuid.uuid4().hex,
            "session_id": metadata.get("session_id") or "",
            "requested_model": data["model"],
            # A token is a byte at least, so that the bytes of what is sent bound its tokens.
            "input_tokens": len(json.dumps(data, default=str).encode()),
            "max_output_tokens": data.get("max_completion_tokens") or data.get("max_tokens") or 0,
            "choices": data.get("n") or 1,
        }
        try:
            decision = await asyncio.to_thread(post, "/v1/decide", question)
        except (OSError, ValueError):  # urllib's errors are OSErrors
            if FAIL_OPEN:
                return data
            raise
        if decision["stop"]:
            raise Refused(decision["refusal"])
        data["model"] = decision["model"]
        if decision.get("max_output_tokens"):
            data["max_tokens"] = decision["max_output_tokens"]
        metadata["flyball_hold_id"] = decision["hold_id"]
        return data

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        await self.settle(kwargs, "ok", get(response_obj, "usage"), start_time, end_time)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        await self.settle(kwargs, "failed", None, start_time, end_time)

    async def settle(self, kwargs, status, usage, start_time, end_time):
        params = kwargs.get("litellm_params") or {}
        hold = (params.get("metadata") or {}).get("flyball_hold_id")
        if not hold:
            return
        report = {"hold_id": hold, "status": status, "latency_ms": int((end_time - start_time).total_seconds() * 1000)}
        if usage is not None:
            report["tokens"] = tokens(usage)
        if params.get("custom_llm_provider"):
            report["provider"] = params["custom_llm_provider"]
        for attempt in range(3):
            try:
                await asyncio.to_thread(post, "/v1/settle", report)
                return
            except urllib.error.HTTPError as err:
                if err.code != 503 and err.code != 429:
                    raise
            except OSError:
                pass
            await asyncio.sleep(0.2 * 2**attempt)
        # The hold lapses, and counts as spent.


def tokens(usage):
    """LiteLLM's usage has every provider's cache inside prompt_tokens."""
    details = get(usage, "prompt_tokens_details") or {}
    out = get(usage, "completion_tokens_details") or {}
    return {
        "prompt": get(usage, "prompt_tokens", 0),
        "completion": get(usage, "completion_tokens", 0),
        "cached": max(get(usage, "cache_read_input_tokens", 0), get(details, "cached_tokens", 0)),
        "cache_write_5m": max(get(usage, "cache_creation_input_tokens", 0), get(details, "cache_creation_tokens", 0)),
        "reasoning": get(out, "reasoning_tokens", 0),
    }


flyball = Flyball()
