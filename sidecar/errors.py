"""Every error the observer raises on purpose says what happened, why, and what to do about it.

ObserverError                 retryable = False
├── SettingsError             a setting is wrong: exit status 64, before any port is bound
├── PostRefusedError          who should take a post never will: the same post would be refused again
├── StartError                a door, folder or file could not be opened: exit status 1
├── InvalidInputError         the sender must change the request (HTTP 422)
│   ├── MalformedError        it could not be read at all (HTTP 400)
│   ├── TooLargeError         it is over a size bound (HTTP 413)
│   ├── ConflictError         it goes against what is here (HTTP 409)
│   └── NotKnownError         what it names is not here (HTTP 404)
└── RetryableError            retryable = True: the same request may succeed later (HTTP 503)
    ├── OverloadedError       a bound on memory or queue length was reached
    ├── JournalError          the journal did not confirm the write
    ├── ModelError            the model gave no answer
    │   └── UnusableAnswerError   what it said is no use: an easier question may help
    └── GatewayLogError       the gateway did not take what the observer learnt; perhaps it said when it will
"""

from __future__ import annotations


class ObserverError(Exception):
    """*what* happened, *why*, and the *fix*; all three stay in `args`, so pickling keeps them."""

    retryable = False

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        return "{}: {}. {}".format(*self.args)


class SettingsError(ObserverError):
    """A setting from the environment or the command line is wrong."""


class StartError(ObserverError):
    """Something the observer needs at start could not be opened."""


class InvalidInputError(ObserverError):
    """Well-formed input with a wrong value."""


class MalformedError(InvalidInputError):
    """Input that is not what the door reads (JSON, gzip, NDJSON) at all."""


class TooLargeError(InvalidInputError):
    """Input over a size bound."""


class PostRefusedError(ObserverError):
    """A post that is refused for what it is, not for when it came."""


class ConflictError(InvalidInputError):
    """It goes against what is here: the id is another's, or the entry has nothing that could be approved."""


class NotKnownError(InvalidInputError):
    """What the request names is not here."""


class RetryableError(ObserverError):
    """The request was good; the observer could not take it now."""

    retryable = True


class OverloadedError(RetryableError):
    """A bound was reached; nothing was kept."""


class JournalError(RetryableError):
    """The journal could not confirm that the line is in the file."""


class ModelError(RetryableError):
    """The model could not be asked, or its server did not answer as one."""


class UnusableAnswerError(ModelError):
    """The model answered, but what it said cannot be used: a loop, a refusal, nonsense."""


class GatewayLogError(RetryableError):
    """The gateway did not take a post now. *retry_after_s* is how long it wants to be left alone, if it said so."""

    def __init__(self, what: str, why: str, fix: str, retry_after_s: float | None = None) -> None:
        super().__init__(what, why, fix)
        self.retry_after_s = retry_after_s
