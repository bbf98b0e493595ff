"""Everything that can go wrong in this package, by name; each name has its own exit code.

| class         | code | when                                                              |
|---------------|------|-------------------------------------------------------------------|
| SettingsError | 2    | a variable or the catalogue holds a value that cannot be used     |
| UnknownModel  | 3    | a name that is not in the catalogue, or a file that is not there  |
| SourceError   | 4    | a model cannot be fetched (no network, no mirror, not supported)  |
| VerifyError   | 5    | a model file is not what it should be (size, SHA-256, format)     |
| DiskFull      | 6    | not enough room on the disk                                       |
| DoesNotFit    | 7    | this machine cannot run the model as asked (memory, engine)       |
| StartFailed   | 8    | the engine ended before it could answer for the first time        |
| NotReadyInTime| 9    | the engine runs but has not answered in time                      |
| ChildExited   | 10   | the engine keeps ending; it is not started again                  |
| ConvertError  | 11   | a model cannot be converted (not an InternLM2, or a target not ours)|
| UploadError   | 12   | a model cannot be published (token, network, or what is in its folder) |
| SmokeFailed   | 13   | a deployment that was tried does not answer as it should          |
| Cancelled     | 130  | stopped by the person or program that started it                  |

A message is one or more plain sentences: what happened and what to do. It is shown as it is, without a traceback.
"""


class InferenceError(Exception):
    """The base of all errors of this package; `message` is meant for people."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(InferenceError):
    exit_code = 2


class UnknownModel(InferenceError):
    exit_code = 3


class SourceError(InferenceError):
    exit_code = 4


class VerifyError(InferenceError):
    exit_code = 5


class DiskFull(InferenceError):
    exit_code = 6


class DoesNotFit(InferenceError):
    exit_code = 7


class StartFailed(InferenceError):
    exit_code = 8


class NotReadyInTime(InferenceError):
    exit_code = 9


class ChildExited(InferenceError):
    exit_code = 10


class ConvertError(InferenceError):
    exit_code = 11


class UploadError(InferenceError):
    exit_code = 12


class SmokeFailed(InferenceError):
    exit_code = 13


class Cancelled(InferenceError):
    exit_code = 130
