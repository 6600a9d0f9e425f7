"""Does it work? Asked of engines and endpoints; the answer is "" or what is wrong."""

from __future__ import annotations

COMPLETION_TIMEOUT_S = 120.0
"""A first completion may compile kernels."""
HEALTH_TIMEOUT_S = 5.0


def health(url: str) -> str:
    """GET /health: enough to see that a process which worked still answers."""
    import httpx2

    try:
        with httpx2.Client(trust_env=False, timeout=HEALTH_TIMEOUT_S) as client:
            code = client.get(f"{url}/health").status_code
    except httpx2.HTTPError as error:
        return f"/health: {error or type(error).__name__}"
    return "" if code == 200 else f"/health answered {code}"


def completion(url: str, model: str, key: str | None) -> str:
    """One real token: engines were seen answering /health with 200 and failing this."""
    import httpx2

    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(trust_env=False, timeout=COMPLETION_TIMEOUT_S) as client:
            answer = client.post(f"{url}/v1/completions", json=body, headers=headers)
    except httpx2.HTTPError as error:
        return str(error) or type(error).__name__
    if answer.status_code != 200:
        return (
            f"a completion was answered with {answer.status_code}: {answer.text[:200]}"
        )
    try:
        answer.json()["choices"][0]
    except (ValueError, LookupError, TypeError):
        return f"a completion was answered with no choices: {answer.text[:200]}"
    return ""
