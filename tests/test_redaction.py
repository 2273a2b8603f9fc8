"""Credentials are masked wherever they stand; everything else stays as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.credentials import NAMES, Where
from sidecar.redaction import MASK, Redactor
from tests.doc_pages import ROOT

REDACTOR = Redactor()
SECRET = "s3cr3tValue"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"

SHAPES = {
    "json web token": JWT,
    "openai": "sk-proj-" + "aB3-" * 8,
    "langfuse public": "pk-lf-12345678-1234-1234-1234-123456789abc",
    "langfuse secret": "sk-lf-12345678-1234-1234-1234-123456789abc",
    "stripe": "sk_live_" + "a1" * 12,
    "stripe restricted": "rk_test_" + "a1" * 12,
    "github": "ghp_" + "a1B2" * 9,
    "github app": "ghs_" + "a1B2" * 9,
    "github fine-grained": "github_pat_" + "a1B2" * 9,
    "gitlab": "glpat-" + "a1B2-" * 4,
    "slack": "xoxb-123456789012-abcdef",
    "aws": "AKIA" + "ABCD1234" * 2,
    "aws session": "ASIA" + "ABCD1234" * 2,
    "google": "AIza" + "a-B1" * 9,
    "hugging face": "hf_" + "aB1c" * 6,
    "slack app": "xapp-1-A02ABCDEF-1234567890-abcdef",
    "google access": "ya29.a0AfH6SMB" + "x_-1" * 8,
    "sendgrid": "SG.ngeVfQFYQlKU0ufo8x5d1A.TwL2iGABf9DHoTf-09kqeF8tAmbihYzrnopKc",
    "npm": "npm_" + "a1B2" * 9,
    "digitalocean": "dop_v1_" + "a1b2" * 16,
    "groq": "gsk_" + "a1B2" * 12,
    "vault": "hvs.CAESI" + "a1B2-" * 8,
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----",
    "pem cut off": "-----BEGIN PRIVATE KEY-----\nMIIEow\nabc=",
}

NAMED = [
    f"password={SECRET}",
    f"password: {SECRET}",
    f"Password = '{SECRET}'",
    f"password => {SECRET}",
    f"db_password={SECRET}",
    f"dbPassword={SECRET}",
    f"accessToken: {SECRET}",
    f"api-key={SECRET}",
    f"OPENAI_API_KEY={SECRET}",
    f'{{"client_secret": "{SECRET}"}}',
    f'{{"client_secret":"two words {SECRET}","b":1}}',
    f'{{"client_secret":"quote \\" then {SECRET}"}}',
    f'{{"token": ["{SECRET}", "x"]}}',
    f'{{"token": {{"value": "{SECRET}"}}}}',
    f"{{'token': '{SECRET}'}}",
    json.dumps(json.dumps({"token": f'a "quoted" {SECRET}'})),
    json.dumps(json.dumps(json.dumps({"token": f"a {SECRET}"}))),
    f'the answer was cut off: {{"token": "two words {SECRET}',
    f"Authorization: Bearer {SECRET}",
    f"Authorization: Token {SECRET}",
    f"Authorization: ApiKey {SECRET}",
    f"Proxy-Authorization: Basic {SECRET}",
    f"Cookie: theme=dark; session={SECRET}",
    f"Set-Cookie: session={SECRET}; HttpOnly",
    f'"cookie": "theme=dark; session={SECRET}"',
    f"X-Api-Key: {SECRET}",
    f"https://host/path?page=1&access_token={SECRET}&x=1",
    f"http://user:{SECRET}@host/path",
    f"postgres://user:p@{SECRET}@host:5432/db",
    f"sent with Bearer {SECRET}",
    f"sent with bearer\t{SECRET}",
    "sent with Basic dXNlcjpzM2NyM3RWYWx1ZQ==",
    f"pa\u017f\u017fword={SECRET}",
    f"\u017fecret={SECRET}",
    f"\u0131d_token={SECRET}",
    json.dumps(f"two lines\npassword={SECRET}\tBearer {SECRET}"),
    f"×××: token={SECRET}",
    f"https://h/p?password=a%20{SECRET}&x=1",
    f"https://h/p?access%5Ftoken={SECRET}",
    f"https://h/p?access%255Ftoken={SECRET}",
    f"https://h/p?x=1&ACCESS%5fTOKEN={SECRET}#frag",
    f"https://h/p?p%61ssword={SECRET}",
    f"https://h/p?user%5Bpassword%5D={SECRET}",
    f"https://h/p?user[password]={SECRET}",
    f"https://h/blob?sv=1&sig={SECRET}%3D",
    f"/b/o?X-Amz-Credential={SECRET}%2Fs3&X-Amz-Signature={SECRET}",
    f"/b/o?X-Goog-Signature={SECRET}&AWSAccessKeyId={SECRET}&Signature={SECRET}",
    f"https://h/cb#access_token={SECRET}&state=1",
    f"https://h/cb#a=1&id%5Ftoken={SECRET}",
    f"https://h/p;sig={SECRET}",
    f"/login?next=https%3A%2F%2Fh%2F%3Ftoken%3D{SECRET}",
    f"/login?next=%2F%3Fa%3D1%26sig%3D{SECRET}",
    f"https://h/p?user[pass]={SECRET}",
    f"tool --pass={SECRET} --verbose",
    f"pass = {SECRET}",
    f"jwt = {SECRET}",
    f'{{"Cookie": ["sid={SECRET}"]}}',
    f'{{"Set-Cookie": ["a=1; Path=/", "sid={SECRET}"]}}',
    f'{{"Authorization": ["Bearer {SECRET}"]}}',
    f'{{"cookie": {{"sid": "{SECRET}"}}}}',
    f'{{"cookies": {{"a": {{"sid": "{SECRET}"}}}}}}',
    f'{{"authorization": {{"a": "{SECRET}"}}}}',
    f'{{"password": {{"a": {{"v": "{SECRET}"}}}}}}',
    f'{{"passwords": [["{SECRET}"], ["x"]]}}',
    f"https://h/p?user[0][otp]={SECRET}",
    f"/x?filter=%7B%22password%22%3A%22{SECRET}%22%7D",
    f"/x?h=Bearer%20{SECRET}",
    f"https://bob%3A{SECRET}@h/p",
    f"access%5Ftoken={SECRET}&grant_type=x",
    f'{{"url":"https://h/p?a=1&sig={SECRET}"}}',
    f"Server=db;Uid=sa;Pwd={SECRET};",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"DB_PASS={SECRET}",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}==;EndpointSuffix=x",
    f"login failed: user=bob pass={SECRET}",
    f'{{"user.pin": "{SECRET}"}}',
    json.dumps(json.dumps({"auth": {"user": "bob", "x": SECRET}})),
    json.dumps(f"two lines\npass={SECRET}"),
    f"/login?user=bob&pass={SECRET}",
    f'{{"tokens": ["{SECRET}"]}}',
    f"tool --password {SECRET} -v",
    f"tool --db-password '{SECRET}'",
    f"tool --pass {SECRET}",
    f'["tool", "--api-key", "{SECRET}"]',
    json.dumps(json.dumps(["tool", "--token", SECRET])),
    f"curl -u bob:{SECRET} https://h/p",
    f"curl --user='bob:{SECRET}' https://h/p",
    f"curl --user cn=admin,dc=my-site:{SECRET} https://h/p",
    f"curl --user=a-b--c:{SECRET} https://h/p",
    f'["curl", "-u", "bob:{SECRET}"]',
    f"posted to https://hooks.slack.com/services/T00000000/B00000000/{SECRET}",
]

HARMLESS = [
    "",
    "max_tokens: 400",
    "monkey=3",
    "turnkey: yes, keyboard=1",
    "secretary: Bob",
    "tokens=5 tokenizer: bpe",
    "a basic training course, Basic Training completed",
    "https://host:8080/path?email=a@b.example",
    "http://localhost:3700/v1/search",
    "mailto:someone@example.org at 10:30",
    "3 rows: forklift ×3 in Toledo, OH → filled",
    "the desk-lamp sk-short is fine",
    "cookies were eaten",
    "password reset for the user",
    "HAT030 gift_card_8190333 b7ad6b7169203331",
    "ghosts, the high road and foxes",
    "/search?q=a%20b&page=2&design=5&sign=minus",
    "up 20% = good, 5%25 of it",
    "sig_hash=abc signature=(a, b)",
    "/x?next=https%3A%2F%2Fh%2F%3Fpage%3D2",
    "auth: permission denied, jwt: expired by 3m, invalid credentials: unknown user",
    "could not pass, unauthorized: author pinned; passenger: Bob, compass: N, 3 pass: 2 fail",
    "session_id=abc123def sessionId: abc123def",
    '{"max_tokens": 400, "total_tokens": 12, "tokens": 12, "session_tokens": 4512}',
    '{"pass": true, "auth": none, "token": null, "password": false}',
    '{"pass": 12, "fail": 3} pass=1 --pass 3',
    "if pin == wanted, x--pass=2 a-pass = b",
    "boarding_pass=X12 gpio_pin=13 shipping: 4 otpauth: x",
    "docker run -u 1000:1000 --user 0:0 -u http://h:80/x image",
    "git push -u origin main; tool --token --verbose --tokens 5 --max-tokens 100",
    "task-17 risk-averse-but-long-enough-name desk-lamp",
]


@pytest.mark.parametrize("token", SHAPES.values(), ids=SHAPES.keys())
def test_known_shapes_are_masked_anywhere(token: str) -> None:
    """A token of a known shape is masked in the middle of any text, in JSON too."""
    assert REDACTOR.text(f"call with {token} failed") in (f"call with {MASK} failed", f"call with {MASK}")
    assert token[4:] not in REDACTOR.text(json.dumps({"a": ["line\n" + token]}))


@pytest.mark.parametrize("text", NAMED)
def test_named_values_are_masked(text: str) -> None:
    """A value behind a credential's name is masked, whatever the notation."""
    masked = REDACTOR.text(text)
    assert SECRET not in masked
    assert "dXNlcjpzM2NyM3" not in masked
    assert MASK in masked


def test_what_stands_around_is_kept() -> None:
    """Names, other fields and the rest of an address stay readable."""
    assert (
        REDACTOR.text('{"user": "bo", "password": "a b", "n": 1}') == f'{{"user": "bo", "password": "{MASK}", "n": 1}}'
    )
    assert REDACTOR.text("http://u:p@host/x?token=a&y=1") == f"http://{MASK}@host/x?token={MASK}&y=1"
    assert REDACTOR.text("Cookie: a=b; c=d\nAccept: */*") == f"Cookie: {MASK}\nAccept: */*"
    assert REDACTOR.text("failed with Bearer abcdefgh123 at 3") == f"failed with Bearer {MASK} at 3"
    assert json.loads(REDACTOR.text(json.dumps({"token": 'a"b\\', "n": [1]}))) == {"token": MASK, "n": [1]}


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_are_untouched(text: str) -> None:
    """What only looks like a credential's name is left alone."""
    assert REDACTOR.text(text) == text


def test_names_of_fields() -> None:
    """A field's name is recognised in every spelling, and behind a prefix; words that contain it are not."""
    for name in ("password", "Access-Token", "accessToken", "X-API-Key", "db_password", "OPENAI_API_KEY", "Set-Cookie"):
        assert REDACTOR.named(name), name
    for name in ("access%5Ftoken", "access%255Ftoken", "user[password]", "pass%77ord"):
        assert REDACTOR.named(name), name
    for name in ("", "max_tokens", "monkey", "secretary", "role", "token_count", "keyboard"):
        assert not REDACTOR.named(name), name


def test_names_that_mean_a_credential_only_as_a_whole_field() -> None:
    """`pin`, `auth` and `pass` are common parts of other names, so only the field of just that name counts."""
    for name in ("pin", "PIN", "auth", "Pass", "user.pin", "user[pass]", "otp", "tokens"):
        assert REDACTOR.named(name, "x1"), name
    for name in ("gpio_pin", "boarding_pass", "bypass", "author", "basic-auth", "shipping", "input_tokens", "pinned"):
        assert not REDACTOR.named(name, "x1"), name


def test_every_listed_name_is_masked_and_documented() -> None:
    """One table says what is recognised. The docs list the same, and each name is masked where the table says."""
    listed = (ROOT / "docs/guarantees.md").read_text()
    for where, names in NAMES.items():
        for each in names:
            assert f"`{each}`" in listed, each
            name = each.removesuffix("(s)")
            for spelling in {name, name.upper(), name.replace("_", "-"), *([name + "s"] if each != name else [])}:
                assert SECRET not in REDACTOR.text(f"GET /p?a=1&{spelling}={SECRET}"), spelling
                assert REDACTOR.named_in_url(spelling, SECRET), spelling
                if where is not Where.URL:
                    assert REDACTOR.named(spelling, SECRET), spelling
                    assert SECRET not in REDACTOR.text(f'{{"{spelling}": "{SECRET}"}}'), spelling
                if where in (Where.ANYWHERE, Where.FIELD):
                    assert REDACTOR.named(f"my_{spelling}", SECRET), spelling
                if where is Where.ANYWHERE:
                    assert SECRET not in REDACTOR.text(f"it has {spelling}: {SECRET}"), spelling


def test_a_value_that_says_little_is_kept() -> None:
    """Whether there is a credential and how many there are may be learnt from; unless the user says otherwise."""
    for name, value in (
        ("auth", True),
        ("pass", False),
        ("tokens", 512),
        ("api_keys", 2.0),
        ("passwords", "3"),
        ("pass", 12),
    ):
        assert not REDACTOR.named(name, value), name
    for name, value in (("pin", 1234), ("pass", 1234), ("db_pass", 12), ("tokens", "a b"), ("password", "")):
        assert REDACTOR.named(name, value), name
    mine = Redactor(["consent", "tokens"])
    assert mine.named("consent", True)
    assert mine.text("consent=true, tokens: 12, password=true") == f"consent={MASK}, tokens: {MASK}, password=true"


def test_an_agents_session_is_no_credential() -> None:
    """Operations are joined into tasks by the session, which many SDKs call `session.id` or `session_id`."""
    for name in ("session_id", "sessionId", "session.id", "mcp.session.id"):
        assert not REDACTOR.named(name, SECRET), name


def test_a_masked_address_stays_readable() -> None:
    """Only the values go; fields beside them, names and the place stay."""
    masked = REDACTOR.text("https://h:1/p?a=1&access%5Ftoken=x%20y&sig=z&b=c%20d#id_token=w")
    assert masked == f"https://h:1/p?a=1&access%5Ftoken={MASK}&sig={MASK}&b=c%20d#id_token={MASK}"
    assert REDACTOR.named_in_url("X-Amz-Signature")
    assert not REDACTOR.named("signature")
    sent = "posted to https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXX, curl -u bob:x https://h"
    assert REDACTOR.text(sent) == f"posted to https://hooks.slack.com/{MASK}, curl -u bob:{MASK} https://h"


def test_names_that_the_user_adds() -> None:
    """Added names are masked like the built-in ones; empty ones add nothing."""
    mine = Redactor(["ssn", " Date-Of-Birth ", "", "-", "паспорт"])
    assert mine.text("ssn=123-45-6789; date of birth: 1990; Паспорт=12") == (
        f"ssn={MASK}; date of birth: {MASK}; Паспорт={MASK}"
    )
    assert mine.named("dateOfBirth")
    assert mine.named("SSN")
    assert mine.text("x=1 lesson: 4") == "x=1 lesson: 4"
    marked = Redactor(["_badge", "key", "s"])
    assert marked.text("badge=1 my_badge: 2, _badge=3, xbadge=4") == (
        f"badge={MASK} my_badge: {MASK}, _badge={MASK}, xbadge=4"
    )
    assert marked.text("\u212aEY=1 \u017f=2 is=3") == f"\u212aEY={MASK} \u017f={MASK} is=3"
    assert REDACTOR.text("ssn=123") == "ssn=123"


_FRAGMENTS = [
    *SHAPES.values(),
    *NAMED,
    *HARMLESS,
    *[
        "password",
        "token",
        "cookie",
        "authorization",
        "Bearer ",
        "basic ",
        "://",
        "@",
        "=",
        ":",
        '"',
        "\\",
        "'",
        " ",
        "\n",
    ],
    *[
        "[",
        "]",
        "{",
        "}",
        ",",
        ";",
        "&",
        "/",
        "?",
        "#",
        "%",
        "%25",
        "%3D",
        "%5F",
        "sig",
        "a",
        "Z",
        "9",
        MASK,
        "=>",
        "set-",
        "eyJ",
        "sk-",
        "--",
        "-u ",
        "pass",
        "pin",
        "s",
        "true",
        "12",
        "hooks.slack.com/services/",
        "\u017f",
        "İ",
        "ı",
    ],
]
tangled = st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.text(max_size=5)), max_size=12).map("".join)


@settings(max_examples=600, deadline=None)
@given(tangled)
def test_masking_twice_changes_nothing(text: str) -> None:
    """A masked text is in its final form."""
    once = REDACTOR.text(text)
    assert REDACTOR.text(once) == once


@settings(max_examples=600, deadline=None)
@given(tangled)
def test_the_cheap_test_never_says_no_too_often(text: str) -> None:
    """What the patterns would change is suspicious."""
    if REDACTOR.masked(text) != text:
        assert REDACTOR.suspicious(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(tangled, st.sampled_from(["pa\u017f\u017fword", "COOK\u0130E", "api key", "dbSecret"])))
def test_a_name_of_a_credential_is_suspicious(name: str) -> None:
    """Whoever asks the cheap test first about the names of fields misses none."""
    if REDACTOR.named(name):
        assert REDACTOR.suspicious(name)


@settings(max_examples=300, deadline=None)
@given(
    st.text("[] .\n", max_size=6),
    st.sampled_from(NAMES[Where.WHOLE]),
    st.text("[] .", max_size=3),
    st.sampled_from(['":', "=", "']=", "]=", "[="]),
)
def test_whole_names_between_brackets_are_suspicious(before: str, name: str, behind: str, ends: str) -> None:
    """The cheap test sees a whole name wherever the patterns, or those who ask for a field's name, see it."""
    name = name.removesuffix("(s)")
    text = f"?a{before}{name}{behind}{ends}{SECRET}"
    assert REDACTOR.suspicious(text) or REDACTOR.masked(text) == text
    assert REDACTOR.suspicious(before + name + behind) or not REDACTOR.named(before + name + behind)
