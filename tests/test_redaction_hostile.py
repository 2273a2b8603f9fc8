"""Masking takes linear time, whatever a text holds."""

from __future__ import annotations

import pytest

from sidecar.redaction import MASK, Redactor

REDACTOR = Redactor()
SECRET = "s3cr3tValue"


@pytest.mark.parametrize(
    "text",
    [
        "token=" + "[" * 200_000,
        "eyJaaaaaaaa-" * 20_000,
        "token: " + " " * 200_000,
        'token="' + "\\" * 200_000,
        "://a:" * 40_000,
        "sk-" * 60_000,
        "token='" * 30_000,
        "token= {" * 30_000,
        "x-" * 100_000 + "token",
        "basic a" * 30_000,
        "?a%" * 60_000 + "=",
        "&a=%25" * 30_000,
        "?a=" + "%25" * 60_000,
        "://a%3a" * 30_000,
        "=" * 200_000,
        "?" + "sig" * 60_000,
        "--a" * 60_000,
        "--token " * 30_000,
        "-u " * 60_000,
        "-u a" * 50_000,
        "--user" + " " * 200_000,
        "services/" * 20_000,
        "hooks.slack.com/" * 15_000,
        "SG." * 60_000,
        "pass\n" * 40_000,
        "pin" + "]" * 200_000,
        "[" * 200_000 + "pin",
        "cookie: " + "[{" * 100_000,
        "cookie: {" + "{}" * 100_000,
        "token={ {} " * 20_000,
        "authorization: [[] " * 10_000,
        "pass" + " " * 200_000,
        "--pass" * 30_000,
        *(f"{name} {run}" for name in ("pin", "shipping", "author") for run in ("[" * 200_000, "[ ]" * 70_000)),
        *(flag * (200_000 // len(flag)) for flag in ("-u=", "--user=", "--proxy-user=", "-u='", "-u=a-", "-u=,")),
    ],
    ids=lambda text: text[:8],
)
@pytest.mark.timeout(60)
def test_hostile_texts_take_linear_time(text: str) -> None:
    """No text of a request's size can hold up the loop: a quadratic pattern would take minutes here."""
    assert len(REDACTOR.text(text)) <= 2 * len(text)


@pytest.mark.parametrize("run", ["[", "-u=", "--user=", "pin ["])
@pytest.mark.timeout(60)
def test_credentials_beside_much_noise_are_masked(run: str) -> None:
    """What stands before and behind a long run is recognised, and the run is kept: quadratic time would be minutes."""
    noise = run * (400_000 // len(run))
    masked = REDACTOR.text(f"pin={SECRET} {noise} curl -u bob:{SECRET} https://h/p?user[pin]={SECRET}")
    assert masked == f"pin={MASK} {noise} curl -u bob:{MASK} https://h/p?user[pin]={MASK}"
