"""The errors that the observer raises on purpose; each says what happened, why, and what to do about it.

ObserverError
├── SettingsError             a setting is wrong: exit status 64, before any port is bound
├── PostRefusedError          the receiver refuses this post for good: a retry would be refused again
│   └── NotOfferedError       it has nothing at that address
├── StartError                a door, folder or file could not be opened: exit status 1
├── InvalidInputError         the sender must change the request (HTTP 422)
│   ├── MalformedError        it cannot be parsed (HTTP 400)
│   ├── TooLargeError         it exceeds a size bound (HTTP 413)
│   ├── ConflictError         it conflicts with the current state (HTTP 409)
│   └── NotKnownError         it names something that does not exist here (HTTP 404)
└── RetryableError            the same request may succeed later (HTTP 503)
    ├── OverloadedError       a bound on memory or queue length was reached
    ├── JournalError          the journal did not confirm the write
    ├── ModelError            the model gave no answer
    │   └── UnusableAnswerError   the answer cannot be used: an easier question may help
    └── GatewayLogError       the gateway did not accept a post now; it may have said when to retry
"""

from __future__ import annotations


class ObserverError(Exception):
    """*what* happened, *why*, and the *fix*, "" if *why* says it; all three are in `args`: pickling keeps them."""

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        what, why, fix = self.args
        return f"{what}: {why}. {fix}" if fix else f"{what}: {why}"


class SettingsError(ObserverError):
    """A setting from the environment or the command line is wrong."""


class StartError(ObserverError):
    """Something that the observer needs at start could not be opened."""


class InvalidInputError(ObserverError):
    """Well-formed input with a wrong value."""


class MalformedError(InvalidInputError):
    """Input that cannot be parsed as the door's format (JSON, gzip, NDJSON)."""


class TooLargeError(InvalidInputError):
    """Input that exceeds a size bound."""


class PostRefusedError(ObserverError):
    """A post refused for its content, so that a retry would be refused again."""


class NotOfferedError(PostRefusedError):
    """A post to an address that the receiver does not have; nothing is wrong with the post."""


class ConflictError(InvalidInputError):
    """The request conflicts with the current state: its id is taken, or the entry has nothing to approve."""


class NotKnownError(InvalidInputError):
    """The request names something that does not exist here."""


class RetryableError(ObserverError):
    """The request was valid; the observer could not handle it now."""


class OverloadedError(RetryableError):
    """A bound was reached; nothing was stored."""


class JournalError(RetryableError):
    """The journal could not confirm that the line is in the file."""


class ModelError(RetryableError):
    """The model could not be reached, or its server did not give a model's answer."""


class UnusableAnswerError(ModelError):
    """The model answered, but the answer cannot be used: a loop, a refusal, nonsense."""


class GatewayLogError(RetryableError):
    """The gateway did not accept a post now. *retry_after_s*: the delay it asked for, if any."""

    def __init__(self, what: str, why: str, fix: str, retry_after_s: float | None = None) -> None:
        super().__init__(what, why, fix)
        self.retry_after_s = retry_after_s
